"""Named tensors of a model file, where they lie; and tensors that are made of them when they are asked for.

What is made keeps no copy: its bytes come into being each time that `data` or `dequantize` is called, so that a
checkpoint larger than memory can still be read tensor by tensor.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from freehold import _native
from freehold.errors import ModelFileError, UnsupportedError

PLAIN_BYTES = {"F32": 4, "F16": 2, "BF16": 2}  # bytes of a value, in formats without blocks

RUN = tuple(_native.formats())


class _Derivable:
    """What can be made of a tensor's bytes: rows of blocks of its format, the last axis within a row."""

    name: str
    shape: tuple[int, ...]
    format: str
    data: Any  # a memoryview

    def dequantize(self) -> Any:
        """The values as a float32 array of `shape`."""
        return _native.dequantize(self.format, self.data).reshape(self.shape)

    def floats(self) -> list[float]:
        """The values in order, made without numpy, whose import is a good part of the time that a load takes."""
        return _native.dequantize_list(self.format, self.data)

    def check(self) -> None:
        """Raises UnsupportedError for a format that is not run."""
        if self.format not in RUN:
            raise UnsupportedError(
                f"{self.name}: {self.format} is not a format that runs", f"those are {', '.join(RUN)}"
            )

    def derived(self, shape: tuple[int, ...], make: Callable[[], Any], form: str | None = None) -> "DerivedTensor":
        """One whose bytes are those of the array that `make()` gives."""
        return DerivedTensor(self.name, shape, form or self.format, make, self)

    def stack(self, name: str, others: "Sequence[AnyTensor]") -> "StackedTensor":
        """This one and others of its shape along a new first axis."""
        for other in others:
            if other.shape != self.shape:
                raise ModelFileError(f"{other.name}: expected shape {self.shape}, got {other.shape}")
        return StackedTensor(name, (self, *others))

    def map(self, change: Callable[[Any], Any]) -> "DerivedTensor":
        """The float32 values that `change` makes of these, an array of the same shape."""
        return self.derived(self.shape, lambda: change(self.dequantize()), "F32")

    def reshape(self, shape: tuple[int, ...]) -> "AnyTensor":
        """The same values in another shape, whose last axis holds whole blocks."""
        return self.derived(shape, self._bytes)

    def transpose(self) -> "AnyTensor":
        """With the last two axes exchanged; blocks, which lie along the last, become float32."""
        shape = (*self.shape[:-2], self.shape[-1], self.shape[-2])
        if self.format not in PLAIN_BYTES:
            return self.derived(shape, lambda: self.dequantize().swapaxes(-1, -2), "F32")
        item = f"u{PLAIN_BYTES[self.format]}"
        return self.derived(shape, lambda: self._bytes().view(item).reshape(self.shape).swapaxes(-1, -2))

    def split(self, axis: int, groups: int, counts: Sequence[int]) -> "list[AnyTensor]":
        """Tensors that take turns along `axis`: `groups` times counts[0] rows of the first, counts[1] of the second…

        Blocks lie along the last axis, so that only plain formats split there.
        """
        if axis == len(self.shape) - 1 and self.format not in PLAIN_BYTES:
            raise UnsupportedError(f"{self.name}: {self.format} cannot be split along its blocks")
        starts = [sum(counts[:i]) for i in range(len(counts) + 1)]
        shapes = [(*self.shape[:axis], groups * count, *self.shape[axis + 1 :]) for count in counts]
        return [
            self.derived(shape, lambda start=start, stop=stop: self._turns(axis, groups, starts[-1])[:, :, start:stop])
            for shape, start, stop in zip(shapes, starts[:-1], starts[1:], strict=True)
        ]

    def _turns(self, axis: int, groups: int, length: int) -> Any:
        """The bytes as (what comes before the axis, groups, rows of a group, bytes of a row)."""
        return self._bytes().reshape(math.prod(self.shape[:axis]), groups, length, -1)

    def _bytes(self) -> Any:
        import numpy

        return numpy.frombuffer(self.data, numpy.uint8)


@dataclass(frozen=True, slots=True)
class Tensor(_Derivable):
    """`shape` is row-major (outputs, inputs); `data` are the bytes of rows of blocks of `format`."""

    name: str
    shape: tuple[int, ...]
    format: str
    data: memoryview = field(repr=False)
    place: tuple[Path, int] | None = field(default=None, repr=False)  # the file that `data` is mapped from, and where

    @property
    def parts(self) -> "list[Tensor]":
        """The matrices of a tensor of three dimensions, where they lie."""
        return [self._rows(i, 1, self.shape[1:]) for i in range(self.shape[0])]

    @property
    def places(self) -> list[tuple[Path, int]] | None:
        """Where each of its matrices lies; None where one is not mapped from a file."""
        if self.place is None or len(self.shape) != 3:
            return self.place and [self.place]
        (path, start), size = self.place, self.data.nbytes // self.shape[0]
        return [(path, start + i * size) for i in range(self.shape[0])]

    def _rows(self, start: int, count: int, shape: tuple[int, ...]) -> "Tensor":
        row = self.data.nbytes // self.shape[0]
        place = self.place and (self.place[0], self.place[1] + start * row)
        return replace(self, shape=shape, data=self.data[start * row : (start + count) * row], place=place)

    def release(self) -> None:
        """Let go of the memory behind a mapped file's pages; a later read brings them back."""
        if self.place:
            _native.release_pages(self.data)

    def reshape(self, shape: tuple[int, ...]) -> "Tensor":
        return replace(self, shape=shape)

    def transpose(self) -> "AnyTensor":
        if len(self.shape) == 3:
            return StackedTensor(self.name, tuple(part.transpose() for part in self.parts))
        return _Derivable.transpose(self)

    def split(self, axis: int, groups: int, counts: Sequence[int]) -> "list[AnyTensor]":
        if axis == 0 and groups == 1:
            starts = [sum(counts[:i]) for i in range(len(counts))]
            return [self._rows(s, n, (n, *self.shape[1:])) for s, n in zip(starts, counts, strict=True)]
        if axis == 1 and len(self.shape) == 3:
            return StackedTensor(self.name, tuple(self.parts)).split(axis, groups, counts)
        return _Derivable.split(self, axis, groups, counts)


@dataclass(frozen=True, slots=True)
class DerivedTensor(_Derivable):
    """A tensor whose bytes `make()` makes of those of `source`."""

    name: str
    shape: tuple[int, ...]
    format: str
    make: Callable[[], Any] = field(repr=False)
    source: Any = field(repr=False)
    place: ClassVar[None] = None
    places: ClassVar[None] = None

    @property
    def data(self) -> memoryview:
        import numpy

        return numpy.ascontiguousarray(self.make()).reshape(-1).data.cast("B")

    @property
    def parts(self) -> list[Tensor]:
        """The matrices of a tensor of three dimensions, all made at once."""
        return Tensor(self.name, self.shape, self.format, self.data).parts

    def release(self) -> None:
        """Let go of the memory behind what this is made of."""
        self.source.release()


class TurnedTensor(DerivedTensor):
    """A quantized matrix as (inputs, outputs): its transpose is the matrix as it lies, which loses nothing."""

    __slots__ = ()

    @classmethod
    def of(cls, matrix: DerivedTensor) -> "TurnedTensor":
        rows, cols = matrix.shape
        return cls(matrix.name, (cols, rows), "F32", lambda: matrix.dequantize().T, matrix)

    def transpose(self) -> "AnyTensor":
        return self.source


@dataclass(frozen=True, slots=True)
class StackedTensor:
    """Matrices of one shape that lie in different places, as one tensor (parts, outputs, inputs)."""

    name: str
    parts: "tuple[Any, ...]"  # of tensors of two dimensions

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.parts), *self.parts[0].shape)

    @property
    def format(self) -> str:
        return self.parts[0].format

    @property
    def places(self) -> list[tuple[Path, int]] | None:
        """As `Tensor.places`."""
        places = [part.place for part in self.parts if part.place]
        return places if len(places) == len(self.parts) else None

    def dequantize(self) -> Any:
        """The values as a float32 array of `shape`."""
        import numpy

        return numpy.stack([part.dequantize() for part in self.parts])

    def floats(self) -> list[float]:
        """The values in order, part by part."""
        return [value for part in self.parts for value in part.floats()]

    def release(self) -> None:
        """Let go of the memory behind its parts."""
        for part in self.parts:
            part.release()

    def check(self) -> None:
        for part in self.parts:
            part.check()

    def transpose(self) -> "StackedTensor":
        return StackedTensor(self.name, tuple(part.transpose() for part in self.parts))

    def split(self, axis: int, groups: int, counts: Sequence[int]) -> "list[AnyTensor]":
        """As `Tensor.split`, in each part."""
        columns = zip(*(part.split(axis - 1, groups, counts) for part in self.parts), strict=True)
        return [StackedTensor(self.name, column) for column in columns]


AnyTensor = Tensor | DerivedTensor | StackedTensor
