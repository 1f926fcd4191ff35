"""Freehold: use, change and see open AI models on the computer you already have.

import freehold

with freehold.load() as model:
    print(model.chat([{"role": "user", "content": "Why is the sky blue?"}]).text)
"""

from typing import TYPE_CHECKING, Any

from freehold.errors import FreeholdError

if TYPE_CHECKING:
    from freehold.api import Completion, Model, Piece, describe, load
    from freehold.inspection.report import inspect

__version__ = "0.1.0"
__all__ = ["Completion", "FreeholdError", "Model", "Piece", "describe", "inspect", "load"]


def __getattr__(name: str) -> Any:
    # The API is loaded at first use, so that `import freehold` stays light.
    if name == "inspect":
        from freehold.inspection.report import inspect

        return inspect
    if name in __all__:
        from freehold import api

        return getattr(api, name)
    raise AttributeError(f"module 'freehold' has no attribute {name!r}")
