"""A checkpoint as named tensors: their bytes where they lie in the mapped file, and the metadata beside them."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from freehold import _native
from freehold.errors import ModelFileError, UnsupportedError

PLAIN_BYTES = {"F32": 4, "F16": 2, "BF16": 2}  # bytes of a value, in formats without blocks


@dataclass(frozen=True, slots=True)
class Tensor:
    """`shape` is row-major (outputs, inputs); `data` are the bytes of rows of blocks of `format`."""

    name: str
    shape: tuple[int, ...]
    format: str
    data: memoryview = field(repr=False)
    mapped: bool = field(default=False, repr=False)  # `data` lies in a mapped file

    def dequantize(self) -> Any:
        """The values as a float32 array of `shape`."""
        return _native.dequantize(self.format, self.data).reshape(self.shape)

    @property
    def parts(self) -> "list[Tensor]":
        """The matrices of a tensor of three dimensions."""
        size = self.data.nbytes // self.shape[0]
        return [self._part(i * size, size, self.shape[1:]) for i in range(self.shape[0])]

    def _part(self, start: int, size: int, shape: tuple[int, ...]) -> "Tensor":
        return replace(self, shape=shape, data=self.data[start : start + size], offset=self.offset + start)

    def reshape(self, shape: tuple[int, ...]) -> "Tensor":
        """The same values in another shape whose last axis holds whole blocks."""
        return replace(self, shape=shape)

    def map(self, change: Callable[[Any], Any]) -> "Tensor":
        """The float32 values that `change` makes of these, an array of the same shape."""
        values = change(self.dequantize())
        return replace(self._copy(self.shape, values), format="F32")

    def stack(self, name: str, others: "Sequence[Tensor]") -> "StackedTensor":
        """This one and others of its shape along a new first axis."""
        for other in others:
            if other.shape != self.shape:
                raise ModelFileError(f"{other.name}: expected shape {self.shape}, got {other.shape}")
        return StackedTensor(name, (self, *others))

    def split(self, axis: int, groups: int, counts: Sequence[int]) -> "list[Tensor | StackedTensor]":
        """Tensors that take turns along `axis`: `groups` times counts[0] rows of the first, counts[1] of the second…

        A copy, except that rows which lie together stay where they are. Blocks of a format lie along the last axis, so
        that only plain formats split there.
        """
        if len(self.shape) == 3 and axis == 1:
            columns = zip(*(part.split(0, groups, counts) for part in self.parts), strict=True)
            return [column[0].stack(self.name, column[1:]) for column in columns]
        shape, row = self.shape, self.data.nbytes // math.prod(self.shape[: axis + 1])
        if axis == len(shape) - 1 and self.format not in PLAIN_BYTES:
            raise UnsupportedError(f"{self.name}: {self.format} cannot be split along its blocks")
        starts = [sum(counts[:i]) for i in range(len(counts) + 1)]
        if axis == 0 and groups == 1:
            return [
                self._part(start * row, count * row, (count, *shape[1:]))
                for start, count in zip(starts[:-1], counts, strict=True)
            ]
        import numpy

        rows = numpy.frombuffer(self.data, numpy.uint8).reshape(-1, groups, starts[-1], row)
        return [
            self._copy((*shape[:axis], groups * count, *shape[axis + 1 :]), rows[:, :, start : start + count])
            for start, count in zip(starts[:-1], counts, strict=True)
        ]

    def transpose(self) -> "Tensor":
        """A copy with the last two axes exchanged; blocks, which lie along the last, become float32."""
        import numpy

        if self.format in PLAIN_BYTES:
            form, values = self.format, numpy.frombuffer(self.data, f"u{PLAIN_BYTES[self.format]}").reshape(self.shape)
        else:
            form, values = "F32", self.dequantize()
        values = values.swapaxes(-1, -2)
        return replace(self._copy(values.shape, values), format=form)

    def _copy(self, shape: tuple[int, ...], values: Any) -> "Tensor":
        import numpy

        data = memoryview(numpy.ascontiguousarray(values).reshape(-1).data).cast("B")
        return replace(self, shape=shape, data=data, offset=0, mapping=None)


@dataclass(frozen=True, slots=True)
class StackedTensor:
    """Matrices of one shape that lie in different places, as one tensor (parts, outputs, inputs)."""

    name: str
    parts: tuple[Tensor, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.parts), *self.parts[0].shape)

    @property
    def format(self) -> str:
        return self.parts[0].format

    def dequantize(self) -> Any:
        """The values as a float32 array of `shape`."""
        import numpy

        return numpy.stack([part.dequantize() for part in self.parts])

    def split(self, axis: int, groups: int, counts: Sequence[int]) -> "list[StackedTensor]":
        """As `Tensor.split`, in each part."""
        columns = zip(*(part.split(axis - 1, groups, counts) for part in self.parts), strict=True)
        return [StackedTensor(self.name, column) for column in columns]


@dataclass(frozen=True)
class Checkpoint:
    """Everything that a model file, or a set of them, holds."""

    paths: tuple[Path, ...]
    metadata: Mapping[str, Any]
    tensors: Mapping[str, Tensor]

    @classmethod
    def from_arrays(cls, metadata: Mapping[str, Any], arrays: Mapping[str, Any]) -> "Checkpoint":
        """A checkpoint in memory, of C-contiguous float32 arrays."""
        tensors = {name: Tensor(name, a.shape, "F32", memoryview(a).cast("B")) for name, a in arrays.items()}
        return cls((), metadata, tensors)

    @property
    def num_bytes(self) -> int:
        return sum(tensor.data.nbytes for tensor in self.tensors.values())
