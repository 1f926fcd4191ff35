"""Opens safetensors files, one or many shards, by memory map. Reference: the format's README in its repository.

A file is 8 bytes of header length, the header (JSON: name -> dtype, shape, data_offsets), and the tensors' bytes, which
cover the rest of the file without holes. All of that is checked before a byte of a tensor is used.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeGuard

from freehold.errors import ModelFileError, ModelNotFoundError, UnsupportedError
from freehold.files import map_file, read_json
from freehold.weights.tensors import Tensor

MAX_HEADER_BYTES = 100_000_000  # the format's own limit
MAX_INDEX_BYTES = 64 << 20
_MAX_ELEMENTS = 1 << 48
_MAX_NAME = 1024
INDEX = "model.safetensors.index.json"
# Bits of a value of each dtype.
BITS = {"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6}
BITS |= {name: 8 for name in ("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ")}
BITS |= {name: 16 for name in ("I16", "U16", "F16", "BF16")}
BITS |= {"I32": 32, "U32": 32, "F32": 32, "I64": 64, "U64": 64, "F64": 64, "C64": 64}


def open_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of one file, where they lie; `format` is the file's dtype.

    Raises ModelNotFoundError, ModelFileError for a damaged file, UnsupportedError for a dtype that is not known.
    """
    view = memoryview(map_file(path))
    try:
        start, entries = _read_header(view)
        spans = {name: _span(name, entry) for name, entry in entries.items()}
        _check_cover(spans, len(view) - start)
    except _Damaged as error:
        raise ModelFileError(f"{path}: {error}") from None
    tensors = {}
    for name, (dtype, shape, begin, end) in spans.items():
        place = (path, start + begin)
        tensors[name] = Tensor(name, shape, dtype, view[start + begin : start + end], place)
    return tensors


def open_shards(folder: Path) -> tuple[tuple[Path, ...], dict[str, Tensor]]:
    """The files of a folder's checkpoint, and their tensors: model.safetensors, or what its index lists.

    Raises as `open_safetensors`, and ModelFileError where index and files do not agree.
    """
    index = folder / INDEX
    if not index.exists():
        paths = _unsharded(folder)
        return paths, open_safetensors(paths[0])
    place = _weight_map(index)
    paths = tuple(folder / name for name in sorted(set(place.values())))
    tensors: dict[str, Tensor] = {}
    for path in paths:
        if not path.exists():
            raise ModelNotFoundError(f"{path}: missing; {INDEX} lists it", "finish the download, or fetch the file")
        part = open_safetensors(path)
        if twice := tensors.keys() & part.keys():
            raise ModelFileError(f"{path}: tensor {min(twice)!r} stands in two files")
        tensors |= part
    if missing := place.keys() - tensors.keys():
        raise ModelFileError(f"{index}: tensor {min(missing)!r} is in none of the files")
    return paths, tensors


def _unsharded(folder: Path) -> tuple[Path, ...]:
    whole = folder / "model.safetensors"
    others = sorted(folder.glob("*.safetensors"))
    if whole.exists() or not others:
        return (whole,)
    if len(others) > 1:
        raise ModelNotFoundError(f"{index_of(folder)}: missing; {len(others)} files and nothing that says which belong")
    return (others[0],)


def index_of(folder: Path) -> Path:
    return folder / INDEX


def _weight_map(index: Path) -> Mapping[str, str]:
    """Tensor name -> file name, of files that lie in the index's own folder."""
    place = read_json(index, MAX_INDEX_BYTES).get("weight_map")
    if not isinstance(place, dict) or not place:
        raise ModelFileError(f"{index}: weight_map: expected the files of tensors by name, got {place!r:.80}")
    for name in set(place.values()) if all(isinstance(n, str) for n in place.values()) else [None]:
        if name is None or name != Path(name).name or not name.endswith(".safetensors"):
            raise ModelFileError(f"{index}: weight_map: expected names of .safetensors files, got {name!r:.80}")
    return place


class _Damaged(Exception):
    pass


def _read_header(view: memoryview) -> tuple[int, dict[str, Any]]:
    """(where the tensors' bytes begin, what is declared of each)."""
    if len(view) < 8:
        raise _Damaged(f"expected 8 bytes of header length, the file has {len(view)}")
    length = int.from_bytes(view[:8], "little")
    if length > MAX_HEADER_BYTES:
        raise _Damaged(f"header: {length} bytes are declared, {MAX_HEADER_BYTES} are allowed")
    if length > len(view) - 8:
        raise _Damaged(f"header: {length} bytes are declared, the file has {len(view) - 8} left")
    raw = bytes(view[8 : 8 + length])
    if not raw.startswith(b"{"):
        raise _Damaged("header: expected a JSON object")
    try:
        header = json.loads(raw.decode(), object_pairs_hook=_unique, parse_constant=_no_constant)
    except RecursionError:
        raise _Damaged("header: nested too deeply") from None
    except ValueError as error:  # of JSON, of UTF-8, of an integer of too many digits
        raise _Damaged(f"header: {str(error)[:120]}") from None
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise _Damaged("header: __metadata__: expected texts by name")
    return 8 + length, header


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))
        raise _Damaged(f"header: {twice!r:.80} is given twice")
    return values


def _no_constant(name: str) -> None:
    raise _Damaged(f"header: {name} is not JSON")


def _span(name: str, entry: Any) -> tuple[str, tuple[int, ...], int, int]:
    """(dtype, shape, first byte, end) of one tensor."""
    place = f"tensor {name!r:.80}"
    if not name or len(name) > _MAX_NAME:
        raise _Damaged(f"{place}: name of {len(name)} characters")
    if not isinstance(entry, dict):
        raise _Damaged(f"{place}: expected dtype, shape and data_offsets, got {entry!r:.80}")
    dtype, shape, offsets = (entry.get(key) for key in ("dtype", "shape", "data_offsets"))
    if not isinstance(dtype, str):
        raise _Damaged(f"{place}: dtype: expected a name, got {dtype!r:.80}")
    if dtype not in BITS:
        raise UnsupportedError(f"{place}: dtype {dtype!r:.80} is not supported", f"known: {', '.join(BITS)}")
    if not _are_counts(shape):
        raise _Damaged(f"{place}: shape: expected lengths, got {shape!r:.80}")
    if not _are_counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise _Damaged(f"{place}: data_offsets: expected a beginning and an end, got {offsets!r:.80}")
    (begin, end), elements = offsets, math.prod(shape)
    if elements > _MAX_ELEMENTS:
        raise _Damaged(f"{place}: {elements} values, {_MAX_ELEMENTS} are allowed")
    if elements * BITS[dtype] != 8 * (end - begin):
        takes = f"{elements * BITS[dtype] / 8:g} bytes"
        raise _Damaged(f"{place}: {dtype} of shape {tuple(shape)} takes {takes}, got {end - begin}")
    return dtype, tuple(shape), begin, end


def _are_counts(values: Any) -> TypeGuard[list[int]]:
    return (
        isinstance(values, list)
        and len(values) <= 8
        and all(type(value) is int and 0 <= value < 1 << 63 for value in values)
    )


def _check_cover(spans: Mapping[str, tuple[str, tuple[int, ...], int, int]], length: int) -> None:
    """The tensors' bytes follow one another from the first byte to the last."""
    end = 0
    for name, (_, _, begin, stop) in sorted(spans.items(), key=lambda item: item[1][2:]):
        if begin != end:
            what = "overlaps another" if begin < end else f"leaves a hole of {begin - end} bytes before it"
            raise _Damaged(f"tensor {name!r:.80}: begins at {begin}, {what}")
        end = stop
    if end != length:
        raise _Damaged(f"the tensors take {end} bytes, the file has {length}")
