"""What memory an executor will take, known before any is taken."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes that an executor will take."""

    weights_bytes: int
    activations_bytes: int
    block_bytes: int  # of one block of the cache
    block_size: int  # tokens of a block
    cache_formats: Mapping[str, str]  # what layers keep of the past (keys, latents, ...) -> its format
    experts_bytes: int = 0  # of the weights: those of experts that may stay in the file

    def context_bytes(self, context: int) -> int:
        """Of the blocks that hold one sequence of `context` tokens."""
        return -(-context // self.block_size) * self.block_bytes
