"""An executor without a model: a sequence's logits are a hash of its own tokens, read back through its block table.

A wrong position, a wrong block, a block shared too early, overwritten or freed too soon: each gives other tokens than
the same request gives alone, or fails here at once.
"""

import random
import threading

import numpy

from freehold.engine.executor import Batch

VOCABULARY = 61


class FakeExecutor:
    keeps_states = foresees = False

    def __init__(self, *, block_size: int = 4, num_blocks: int = 64, max_rows: int = 512, max_logit_rows: int = 64):
        self.block_size, self.num_blocks = block_size, num_blocks
        self.max_rows, self.max_logit_rows = max_rows, max_logit_rows
        self.vocabulary_size = VOCABULARY
        self.batches: list[Batch] = []  # each step's sizes, for what tests say of them
        self.fail_on: int | None = None  # a step that reads this token raises
        self.nan_on: int | None = None  # a row of this token has logits that are not numbers
        self.may_run = threading.Event()  # cleared by a test that wants steps to wait
        self.may_run.set()
        self.running = threading.Event()  # a step has been entered
        self._slots: list[tuple[int, int] | None] = [None] * (num_blocks * block_size)  # (token, position)
        self._logits = numpy.zeros((0, VOCABULARY), numpy.float32)

    def run(self, batch: Batch) -> None:
        self.running.set()
        self.may_run.wait()
        assert 0 < len(batch.tokens) <= self.max_rows
        assert len(batch.logit_rows) <= self.max_logit_rows
        assert len(batch.tokens) == len(batch.positions) == batch.row_starts[-1]
        if self.fail_on in batch.tokens:
            raise ValueError("the executor stumbled")
        # All rows write before any reads, as in a real step.
        tables = [t for r, t in enumerate(batch.block_tables) for _ in self._rows(batch, r)]
        assert len(tables) == len(batch.tokens)
        written = [self._slot(table, position) for table, position in zip(tables, batch.positions, strict=True)]
        assert len(set(written)) == len(written), "two rows write one slot"
        for slot, token, position in zip(written, batch.tokens, batch.positions, strict=True):
            self._slots[slot] = (token, position)
        rows = [self._row(tables[row], batch.positions[row]) for row in batch.logit_rows]
        self._logits = numpy.stack(rows) if rows else numpy.zeros((0, VOCABULARY), numpy.float32)
        self.batches.append(Batch(list(batch.tokens), list(batch.positions), list(batch.row_starts), [], []))

    def _rows(self, batch: Batch, request: int) -> range:
        rows = range(batch.row_starts[request], batch.row_starts[request + 1])
        first = batch.positions[rows.start]
        assert [batch.positions[row] for row in rows] == list(range(first, first + len(rows)))
        return rows

    def _slot(self, table: list[int], position: int) -> int:
        return table[position // self.block_size] * self.block_size + position % self.block_size

    def _row(self, table: list[int], last: int) -> numpy.ndarray:
        sequence = []
        for position in range(last + 1):
            slot = self._slots[self._slot(table, position)]
            assert slot is not None and slot[1] == position, f"position {position} holds {slot}"
            sequence.append(slot[0])
        return reference_logits(sequence, self.nan_on)

    def sample(self, samplers, drafts):
        assert len(samplers) + sum(map(len, drafts)) == len(self._logits), "a sampler or a draft for each logit row"
        rows, drawn = iter(self._logits), []
        for sampler, guesses in zip(samplers, drafts, strict=True):
            mine = [next(rows) for _ in range(len(guesses) + 1)]
            drawn.append([sampler.sample(mine[0])])
            for row, guess in zip(mine[1:], guesses, strict=True):
                if drawn[-1][-1][0] != guess:
                    break
                drawn[-1].append(sampler.sample(row))
        return drawn

    def logits(self) -> numpy.ndarray:
        return self._logits.copy()

    def hidden(self) -> numpy.ndarray:
        return 2 * self._logits  # a function of the sequence alone, as hidden states are

    def copy_block(self, source: int, target: int) -> None:
        size = self.block_size
        self._slots[target * size : (target + 1) * size] = self._slots[source * size : (source + 1) * size]


def reference_logits(sequence: list[int], nan_on: int | None = None) -> numpy.ndarray:
    """What the logits after `sequence` must be, float32 (VOCABULARY,)."""
    if nan_on is not None and sequence[-1] == nan_on:
        return numpy.full(VOCABULARY, numpy.nan, numpy.float32)
    draw = random.Random(",".join(map(str, sequence)))
    return numpy.array([draw.gauss(0, 2) for _ in range(VOCABULARY)], numpy.float32)
