"""A checkpoint as named tensors: their bytes where they lie in the mapped files, and what is said beside them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from freehold.weights.tensors import AnyTensor, Tensor


@dataclass(frozen=True)
class Checkpoint:
    """Everything that a model file, or a folder of them, holds.

    `metadata` is that of a GGUF file; `config` and `folder` are a lab's config.json and where it lies.
    """

    paths: tuple[Path, ...]
    metadata: Mapping[str, Any]
    tensors: Mapping[str, AnyTensor]
    config: Mapping[str, Any] | None = None
    folder: Path | None = None

    @classmethod
    def from_arrays(cls, metadata: Mapping[str, Any], arrays: Mapping[str, Any]) -> "Checkpoint":
        """A checkpoint in memory, of C-contiguous float32 arrays."""
        tensors = {name: Tensor(name, a.shape, "F32", memoryview(a).cast("B")) for name, a in arrays.items()}
        return cls((), metadata, tensors)
