"""Folders of the store."""

import os
from pathlib import Path


def home() -> Path:
    """FREEHOLD_HOME, or the user's cache folder."""
    if given := os.environ.get("FREEHOLD_HOME"):
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "freehold"


def models_folder() -> Path:
    return home() / "models"
