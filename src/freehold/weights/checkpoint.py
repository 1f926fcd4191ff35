"""A checkpoint as named tensors: bytes where they lie in the file, and the metadata beside them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Tensor:
    name: str
    shape: tuple[int, ...]
    format: str
    data: memoryview = field(repr=False)

    def dequantize(self) -> Any:
        from freehold import _native

        return _native.dequantize(self.format, self.data).reshape(self.shape)


@dataclass
class Checkpoint:
    metadata: Mapping[str, Any]
    tensors: Mapping[str, Tensor]

    @classmethod
    def from_arrays(cls, metadata, arrays):
        import numpy as np
        tensors = {}
        for name, array in arrays.items():
            array = np.ascontiguousarray(array, np.float32)
            tensors[name] = Tensor(name, array.shape, "F32", memoryview(array).cast("B"))
        return cls(metadata, tensors)

    def release(self, tensor):
        pass
