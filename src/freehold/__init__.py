"""Freehold: use, change and see open AI models on the computer you already have.

import freehold

with freehold.load() as model:
    print(model.chat([{"role": "user", "content": "Why is the sky blue?"}]).text)
"""

import importlib
from typing import TYPE_CHECKING, Any

from freehold.errors import FreeholdError

if TYPE_CHECKING:
    from freehold.api import Completion, Model, Piece
    from freehold.inspection.report import inspect
    from freehold.loading import describe, load

__version__ = "0.1.0"
__all__ = ["Completion", "FreeholdError", "Model", "Piece", "describe", "inspect", "load"]


_PLACES = {
    "Completion": "api",
    "Model": "api",
    "Piece": "api",
    "describe": "loading",
    "inspect": "inspection.report",
    "load": "loading",
}


def __getattr__(name: str) -> Any:
    # The API is loaded at first use, so that `import freehold` stays light.
    if name in _PLACES:
        return getattr(importlib.import_module(f"freehold.{_PLACES[name]}"), name)
    raise AttributeError(f"module 'freehold' has no attribute {name!r}")
