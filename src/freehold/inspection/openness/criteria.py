"""The criteria as data: TOML files that ship with the package, each with its source and version."""

import tomllib
from functools import cache
from importlib.resources import files
from typing import Any


@cache
def criteria(name: str) -> dict[str, Any]:
    """A file of data/ by its name. Read once; nobody changes what it returns."""
    text = files("freehold.inspection.openness").joinpath("data", f"{name}.toml").read_text("utf-8")
    return tomllib.loads(text)
