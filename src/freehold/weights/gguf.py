"""Opens GGUF files, whole or split, by memory map. Reference: ggml/docs/gguf.md.

The header is read natively (csrc/formats/gguf.cpp): a vocabulary of 150,000 strings takes Python a second.
"""

import re
from pathlib import Path
from typing import Any

from freehold import _native
from freehold.errors import FreeholdError, ModelFileError, ModelNotFoundError
from freehold.files import map_file
from freehold.weights.checkpoint import Checkpoint
from freehold.weights.tensors import Tensor

_SPLIT = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")


def open_gguf(path: str | Path) -> Checkpoint:
    """Map a GGUF file, or all files of the split set that it belongs to.

    Raises ModelNotFoundError, ModelFileError for a damaged file, UnsupportedError for a format that is not here.
    """
    paths = _split_paths(Path(path))
    metadata, tensors = _open_one(paths[0])
    if len(paths) == 1:
        if metadata.get("split.count", 1) != 1:
            raise ModelFileError(
                f"{path}: one of {metadata['split.count']} files of a split model",
                "keep the name that it was published with (…-00001-of-0000N.gguf) and its siblings beside it",
            )
        return Checkpoint((paths[0],), metadata, tensors)
    for number, part in enumerate(paths):
        part_metadata, part_tensors = (metadata, {}) if number == 0 else _open_one(part)
        _check_split(part, part_metadata, number, len(paths))
        if twice := tensors.keys() & part_tensors.keys():
            raise ModelFileError(f"{part}: tensor {min(twice)!r} stands in two files of the split model")
        tensors |= part_tensors
    expected = metadata.get("split.tensors.count", len(tensors))
    if len(tensors) != expected:
        raise ModelFileError(f"{path}: the split model declares {expected} tensors, its files hold {len(tensors)}")
    return Checkpoint(tuple(paths), metadata, tensors)


def _split_paths(path: Path) -> list[Path]:
    found = _SPLIT.fullmatch(path.name)
    if not found or int(found["count"]) < 2:
        return [path]
    count = int(found["count"])
    paths = [path.with_name(f"{found['stem']}-{i:05}-of-{count:05}.gguf") for i in range(1, count + 1)]
    for part in paths:
        if not part.exists():
            raise ModelNotFoundError(f"{part}: missing; the model is split into {count} files")
    return paths


def _check_split(path: Path, metadata: dict[str, Any], number: int, count: int) -> None:
    for key, expected in (("split.no", number), ("split.count", count)):
        if metadata.get(key) != expected:
            raise ModelFileError(f"{path}: {key}: expected {expected}, got {metadata.get(key)}")


def _open_one(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    mapping = map_file(path)
    view = memoryview(mapping)
    try:
        _, metadata, entries = _native.read_gguf(view)
    except FreeholdError as error:
        raise type(error)(f"{path}: {error}", error.hint) from None
    tensors = {
        name: Tensor(name, shape, form, view[offset : offset + size], (path, offset))
        for name, shape, form, offset, size in entries
    }
    return metadata, tensors
