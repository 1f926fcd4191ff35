"""What is wrong with a GGUF file's structure: what the reader refuses, and bytes that nothing in the file names."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from freehold.weights.tensors import Tensor

_SCALAR_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_STRING, _ARRAY = 8, 9


def unnamed_bytes(path: Path, metadata: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, str]]:
    """(place, sentence) for each stretch beyond alignment of a file that the reader has found sound."""
    alignment = metadata.get("general.alignment", 32)
    # What stands in this file; the others of a split model have their own turn.
    placed = sorted((t.place[1], t.data.nbytes, t.name) for t in tensors.values() if t.place and t.place[0] == path)
    at, before = _header_bytes(path), "the header"
    for offset, num_bytes, name in placed:
        if offset - at >= alignment:
            yield name, f"has {offset - at} bytes before it, behind {before}, that nothing names"
        at, before = offset + num_bytes, name
    rest = path.stat().st_size - at
    if rest >= alignment:
        yield "end", f"has {rest} bytes behind {before} that nothing names"


def _header_bytes(path: Path) -> int:
    """Where the header of a sound file ends: lengths alone are read."""
    import mmap

    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        walk = _Walk(data)
        walk.at = 8
        num_tensors, num_metadata = walk.number(8), walk.number(8)
        for _ in range(num_metadata):
            walk.texts(1)
            walk.value(walk.number(4))
        for _ in range(num_tensors):
            walk.texts(1)
            walk.skip(8 * walk.number(4))  # dimensions
            walk.skip(4 + 8)  # type, offset
        return walk.at


class _Walk:
    def __init__(self, data: Any):
        self._data = data
        self.at = 0

    def number(self, size: int) -> int:
        self.at += size
        return int.from_bytes(self._data[self.at - size : self.at], "little")

    def skip(self, num_bytes: int) -> None:
        self.at += num_bytes

    def texts(self, count: int) -> None:
        data, at = self._data, self.at  # vocabularies have hundreds of thousands
        for _ in range(count):
            at += 8 + int.from_bytes(data[at : at + 8], "little")
        self.at = at

    def value(self, kind: int) -> None:
        if kind == _STRING:
            self.texts(1)
        elif kind == _ARRAY:
            inner, count = self.number(4), self.number(8)
            if inner in _SCALAR_BYTES:
                self.skip(_SCALAR_BYTES[inner] * count)
            elif inner == _STRING:
                self.texts(count)
            else:
                for _ in range(count):
                    self.value(inner)
        else:
            self.skip(_SCALAR_BYTES[kind])
