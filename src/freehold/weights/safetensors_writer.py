"""Writes safetensors: one file, or shards and their index."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from freehold.weights.gguf_writer import pieces
from freehold.weights.safetensors import BITS, INDEX
from freehold.weights.tensors import AnyTensor

SHARD_BYTES = 4 << 30


def write_safetensors(folder: Path, tensors: Mapping[str, AnyTensor]) -> None:
    """Write the tensors, of dtypes that the format has, into `folder`. Raises OSError."""
    shards = list(_shards(tensors))
    place = {}
    for number, names in enumerate(shards, 1):
        whole = len(shards) == 1
        name = "model.safetensors" if whole else f"model-{number:05}-of-{len(shards):05}.safetensors"
        _write(folder / name, {tensor: tensors[tensor] for tensor in names})
        place |= dict.fromkeys(names, name)
    if len(shards) > 1:
        total = sum(map(_num_bytes, tensors.values()))
        index = {"metadata": {"total_size": total}, "weight_map": place}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")


def _num_bytes(tensor: AnyTensor) -> int:
    count = BITS[tensor.format]
    for length in tensor.shape:
        count *= length
    return count // 8


def _shards(tensors: Mapping[str, AnyTensor]) -> Iterator[list[str]]:
    names: list[str] = []
    size = 0
    for name, tensor in tensors.items():
        if names and size + _num_bytes(tensor) > SHARD_BYTES:
            yield names
            names, size = [], 0
        names.append(name)
        size += _num_bytes(tensor)
    yield names


def _write(path: Path, tensors: Mapping[str, AnyTensor]) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in tensors.items():
        begin, end = end, end + _num_bytes(tensor)
        header[name] = {"dtype": tensor.format, "shape": list(tensor.shape), "data_offsets": [begin, end]}
    raw = json.dumps(header, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % 8)
    with path.open("wb") as file:
        file.write(len(raw).to_bytes(8, "little") + raw)
        for tensor in tensors.values():
            for part in pieces(tensor):
                file.write(part)
            tensor.release()
