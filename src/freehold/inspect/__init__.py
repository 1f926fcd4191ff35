"""A report on a model, measured from its artefacts: how open it is, what its licence asks, whether to trust its files.

import freehold

report = freehold.inspect.inspect("path/to/model")
print(report.verdict)
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from freehold.inspect.report import Report, inspect

__all__ = ["Report", "inspect"]


def __getattr__(name: str) -> Any:
    # What is imported from a part of this package does not wait for the rest of it.
    if name in __all__:
        from freehold.inspect import report

        return getattr(report, name)
    raise AttributeError(f"module 'freehold.inspect' has no attribute {name!r}")
