"""From what a user calls a model to a file: a path is used where it lies, a catalogue name is fetched once."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from freehold.errors import ModelNotFoundError
from freehold.store.catalogue import BY_NAME, CATALOGUE, CatalogueEntry

Progress = Callable[[str, int, int], None]  # (what, bytes done, bytes in all)


@dataclass(frozen=True, slots=True)
class StoredModel:
    path: Path
    name: str
    licence: str | None = None  # as the catalogue has it
    sha256: str | None = None  # verified when it was fetched


def models_folder() -> Path:
    """FREEHOLD_HOME/models, or the user's cache folder."""
    if home := os.environ.get("FREEHOLD_HOME"):
        return Path(home) / "models"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "freehold" / "models"


def resolve(ref: str | os.PathLike[str] | None = None, *, progress: Progress | None = None) -> StoredModel:
    """The file of a model: `ref` is a path to a GGUF file, a catalogue name, or None for the default.

    Raises ModelNotFoundError, or DownloadError when a catalogue model cannot be fetched.
    """
    name = CATALOGUE[0].name if ref is None else os.fspath(ref)
    if name in BY_NAME:
        return _fetched(BY_NAME[name], progress)
    path = Path(name)
    if path.exists():
        return StoredModel(path, path.stem)
    import difflib  # here and below: what a start with a model at hand does not need

    near = difflib.get_close_matches(name, BY_NAME, n=2) or list(BY_NAME)[:3]
    raise ModelNotFoundError(
        f"{name}: neither a file nor a model in the catalogue", f"names: {', '.join(near)}; or a path to a .gguf file"
    )


def _fetched(entry: CatalogueEntry, progress: Progress | None) -> StoredModel:
    path = models_folder() / f"{entry.name}.gguf"
    if not is_whole(path, entry):
        from freehold.store.fetch import fetch

        fetch(entry, path, progress or (lambda *_: None))
    return StoredModel(path, entry.name, entry.licence, entry.sha256)


def is_whole(path: Path, entry: CatalogueEntry) -> bool:
    """The final name exists only for a file that was whole and verified; its size tells of later damage."""
    try:
        return path.stat().st_size == entry.num_bytes
    except OSError:
        return False
