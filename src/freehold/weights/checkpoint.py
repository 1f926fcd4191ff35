"""A checkpoint as named tensors: their bytes where they lie in the mapped file, and the metadata beside them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from freehold.weights.tensors import Tensor


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
