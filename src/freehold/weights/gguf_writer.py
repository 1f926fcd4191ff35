"""Writes GGUF files (version 3). Reference: ggml/docs/gguf.md."""

import math
import os
import struct
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from freehold import _native
from freehold.errors import ModelFileError, UnsupportedError
from freehold.weights.tensors import AnyTensor

ALIGNMENT = 32
_U32, _I32, _F32, _BOOL, _STRING, _ARRAY, _U64, _I64 = 4, 5, 6, 7, 8, 9, 10, 11  # value types
# ggml's numbers of the formats that a file can hold.
TYPES = {"F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q5_0": 6, "Q5_1": 7, "Q8_0": 8, "Q2_K": 10, "Q3_K": 11, "Q4_K": 12}
TYPES |= {"Q5_K": 13, "Q6_K": 14, "IQ4_NL": 20, "IQ4_XS": 23, "BF16": 30, "MXFP4": 39}


def write_gguf(path: Path, metadata: Mapping[str, Any], tensors: Mapping[str, AnyTensor]) -> None:
    """Write the file under a name of its own until it is whole. Tensors are read one by one.

    Raises ModelFileError when it cannot be written, UnsupportedError for a format that GGUF does not have.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as file:
            _write(file, metadata, tensors)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be written: {error.strerror}") from None
    finally:
        with suppress(OSError):  # it is not there, or what hindered the writing is said already
            partial.unlink()


def _write(file: BinaryIO, metadata: Mapping[str, Any], tensors: Mapping[str, AnyTensor]) -> None:
    file.write(b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata)))
    for key, value in metadata.items():
        file.write(_text(key) + _value(value))
    offset = 0
    for name, tensor in tensors.items():
        if tensor.format not in TYPES:
            raise UnsupportedError(f"{name}: GGUF has no {tensor.format}", "convert with --quantize bf16, say")
        shape = tuple(reversed(tensor.shape))
        file.write(_text(name) + struct.pack(f"<I{len(shape)}Q", len(shape), *shape))
        file.write(struct.pack("<IQ", TYPES[tensor.format], offset))
        offset += _aligned(num_bytes(tensor))
    for tensor in tensors.values():
        file.write(b"\0" * (_aligned(file.tell()) - file.tell()))
        for part in pieces(tensor):
            file.write(part)
        tensor.release()
    file.write(b"\0" * (_aligned(file.tell()) - file.tell()))


def num_bytes(tensor: AnyTensor) -> int:
    """What a tensor takes, without reading it."""
    elements, size = _native.block_of(tensor.format)
    return math.prod(tensor.shape) // elements * size


def pieces(tensor: Any) -> Iterator[memoryview]:
    """The tensor's bytes; those of one whose matrices lie apart, matrix after matrix."""
    if hasattr(tensor, "data"):
        yield tensor.data
    else:
        for part in tensor.parts:
            yield part.data


def _aligned(count: int) -> int:
    return -(-count // ALIGNMENT) * ALIGNMENT


def _text(value: str) -> bytes:
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def _value(value: Any) -> bytes:
    """Type and value; an integer is unsigned where it can be, a list is of what its first item is."""
    if isinstance(value, list | tuple):
        kind = _kind(value[0]) if value else _I32
        if kind in (_I32, _U32, _U64):
            kind = _I32 if all(-1 << 31 <= item < 1 << 31 for item in value) else _I64
        head = struct.pack("<IIQ", _ARRAY, kind, len(value))
        if kind == _STRING:
            return head + b"".join(map(_text, value))
        return head + struct.pack(f"<{len(value)}{ {_I32: 'i', _I64: 'q', _F32: 'f', _BOOL: '?'}[kind] }", *value)
    kind = _kind(value)
    if kind == _STRING:
        return struct.pack("<I", kind) + _text(value)
    return struct.pack(f"<I{ {_U32: 'I', _I32: 'i', _U64: 'Q', _F32: 'f', _BOOL: '?'}[kind] }", kind, value)


def _kind(value: Any) -> int:
    if isinstance(value, bool):
        return _BOOL
    if isinstance(value, int):
        return _I32 if value < 0 else _U32 if value < 1 << 32 else _U64
    return _F32 if isinstance(value, float) else _STRING
