"""What the engine asks of an executor."""

from dataclasses import dataclass, field
from typing import Any, Protocol

# (token, log-probability, likeliest tokens); token -1 where the logits are not numbers
Sample = tuple[int, float, list[tuple[int, float]]]


@dataclass(slots=True)
class Batch:
    """The flat inputs of one step: T rows (tokens) of R requests, each request's rows at consecutive positions."""

    tokens: list[int] = field(default_factory=list)  # T
    positions: list[int] = field(default_factory=list)  # T
    row_starts: list[int] = field(default_factory=lambda: [0])  # R + 1
    block_tables: list[list[int]] = field(default_factory=list)  # R, each covering positions 0 to the last
    logit_rows: list[int] = field(default_factory=list)  # rows whose logits are needed


class Executor(Protocol):
    block_size: int  # tokens of a KV block
    num_blocks: int
    max_rows: int  # of one step
    max_logit_rows: int
    vocabulary_size: int
    keeps_states: bool  # a block also holds the state after its last token, so that only whole blocks are worth sharing
    foresees: bool  # has a layer that guesses the token after the next

    def run(self, batch: Batch) -> None:
        """Run one step; its logits stay inside until the next."""
        ...

    def sample(self, samplers: list[Any], drafts: list[list[int]]) -> list[list[Sample]]:
        """What each sampler draws of its logit rows: one, and one for each of its drafts as long as they are drawn."""
        ...

    def logits(self) -> Any:
        """float32 (logit rows, vocabulary) of the last run."""
        ...

    def hidden(self) -> Any:
        """float32 (logit rows, width): hidden states after the final norm of the last run's logit rows."""
        ...

    def foresee(self, batch: Batch, rows: list[int]) -> list[int]:
        """A guess of the token that follows each of `batch`'s logit rows, of the model's layer for speculation.

        `batch`: rows of the last run, with the token that came after each in its token's place; `rows`: which of the
        run's rows they are. The layer keeps what it must of them in the same blocks.
        """
        ...

    def copy_block(self, source: int, target: int) -> None: ...
