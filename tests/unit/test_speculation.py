"""Speculation changes when tokens are computed, never which: over an executor whose texts repeat themselves."""

import numpy
import pytest
from engine_jobs import Job, engine_of, prompt_of
from fake_executor import VOCABULARY, FakeExecutor, reference_logits

from freehold.engine.executor import Batch
from freehold.engine.request import FinishEvent
from freehold.engine.speculation import MAX_DRAFTS, NGRAM, PromptLookup, Speculation


class RepeatingExecutor(FakeExecutor):
    """Its logits depend on the last two tokens alone, so that a greedy reply soon goes in a circle."""

    def _row(self, table, last):
        super()._row(table, last)  # for its checks of what the blocks hold
        first = max(0, last - 1)
        slots = [self._slots[self._slot(table, position)] for position in range(first, last + 1)]
        return reference_logits([slot[0] for slot in slots])


class ForeseeingExecutor(FakeExecutor):
    """Foresees what is likeliest, from a past of its own that it keeps in the same blocks; or the token after that."""

    foresees = True

    def __init__(self, *, wrong_by: int = 0, **sizes):
        super().__init__(**sizes)
        self.wrong_by = wrong_by
        self._past: list[tuple[int, int] | None] = list(self._slots)  # (token that followed, position)
        self._last: Batch = Batch()

    def run(self, batch):
        super().run(batch)
        self._last = batch

    def foresee(self, batch, rows):
        assert len(rows) == len(batch.tokens) == batch.row_starts[-1] and len(set(rows)) == len(rows)
        assert [self._last.positions[row] for row in rows] == batch.positions
        guesses = {}
        for request, table in enumerate(batch.block_tables):
            for row in self._rows(batch, request):
                token, position = batch.tokens[row], batch.positions[row]
                slot = self._slot(table, position)
                assert self._slots[slot] == (self._last.tokens[rows[row]], position), "a row that does not hold"
                self._past[slot] = (token, position)
                sequence = [self._slots[self._slot(table, p)][0] for p in range(position + 1)] + [token]
                for p in range(position + 1):
                    past = self._past[self._slot(table, p)]
                    assert past is not None and past[1] == p, f"position {p} has no past"
                guesses[row] = (int(reference_logits(sequence).argmax()) + self.wrong_by) % VOCABULARY
        return [guesses[row] for row in batch.logit_rows]

    def copy_block(self, source, target):
        super().copy_block(source, target)
        size = self.block_size
        self._past[target * size : (target + 1) * size] = self._past[source * size : (source + 1) * size]


class StateExecutor(FakeExecutor):
    """Its rows are computed from a state alone, which a block keeps as it is after its last row.

    Logits depend on the last token, in one of two ways by turns: replies go in circles that end all of a sudden.
    """

    keeps_states = True

    def __init__(self, **sizes):
        super().__init__(**sizes)
        self._states: list[list[int]] = [[] for _ in range(self.num_blocks)]

    def run(self, batch):
        for request, table in enumerate(batch.block_tables):
            first = batch.positions[batch.row_starts[request]]
            state = self._states[table[(first - 1) // self.block_size]] if first else []
            assert len(state) == first, "the state is not that of the row before"
            for row in self._rows(batch, request):
                state = [*state, batch.tokens[row]]
                self._states[table[batch.positions[row] // self.block_size]] = state
        super().run(batch)

    def _row(self, table, last):
        state = self._states[table[last // self.block_size]][: last + 1]  # later rows of the step have been added to it
        numpy.testing.assert_array_equal(reference_logits(state), super()._row(table, last))
        return reference_logits([state[-1], VOCABULARY + last // 16 % 2])

    def copy_block(self, source, target):
        super().copy_block(source, target)
        self._states[target] = self._states[source]


def replies(speculates, jobs, make=RepeatingExecutor, **sizes):
    executor = make(**sizes)
    with engine_of(executor, speculates=speculates) as engine:
        results = []
        for job in jobs:
            engine.submit(job.request)
            results.append(job.result())
        return results, engine.stats(), len(executor.batches)


def jobs(**params):
    return [Job(prompt_of(5, seed), max_tokens=80, seed=3, **params) for seed in range(4)]


@pytest.mark.parametrize("params", [{"temperature": 0}, {"temperature": 0.4, "repetition_penalty": 1.1, "logprobs": 2}])
def test_the_same_draws_in_fewer_steps(params):
    plain, _, plain_steps = replies(False, jobs(**params))
    fast, stats, steps = replies(True, jobs(**params))
    assert fast == plain
    assert stats.draft_tokens >= stats.accepted_tokens
    if not params["temperature"]:
        assert stats.accepted_tokens > 80 and steps == plain_steps - stats.accepted_tokens
    assert stats.decode_tokens == 4 * 79


def test_ends_are_kept():
    (tokens, _), *_ = replies(False, jobs(temperature=0)[:1])[0]
    stop = tokens[60]
    first = tokens.index(stop)

    def stopping(speculates):
        return replies(speculates, [Job(prompt_of(5), max_tokens=80, seed=3, temperature=0, stop_ids=[stop])])[0]

    assert stopping(True) == stopping(False)
    assert len(stopping(True)[0][0]) == first
    for count in range(60, 67):
        short = [Job(prompt_of(5), max_tokens=count, temperature=0)]
        assert replies(True, short)[0][0][0] == tokens[:count]


def test_no_room_for_drafts():
    """With blocks for the reply alone, drafts are cut to what there is."""
    plain = replies(False, jobs(temperature=0), num_blocks=24)[0]
    assert replies(True, jobs(temperature=0), num_blocks=24)[0] == plain
    assert replies(True, jobs(temperature=0), max_logit_rows=2)[0] == plain


@pytest.mark.parametrize(("make", "sizes"), [(RepeatingExecutor, {}), (StateExecutor, {"num_blocks": 40})])
def test_neighbours_end_it(make, sizes):
    """Several at once share steps without drafts; the one that is left speculates again."""
    expected = [replies(False, [job], make=make)[0][0] for job in jobs(temperature=0)]
    executor = make(**sizes)
    executor.may_run.clear()
    with engine_of(executor) as engine:
        together = jobs(temperature=0)
        for job in together:
            engine.submit(job.request)
        executor.may_run.set()
        assert [job.result() for job in together] == expected


def test_what_the_layer_foresees_takes_half_the_steps():
    plain, _, plain_steps = replies(False, jobs(temperature=0), make=ForeseeingExecutor)
    fast, stats, steps = replies(True, jobs(temperature=0), make=ForeseeingExecutor)
    assert (
        fast == plain == [(job.expected(), result[1]) for job, result in zip(jobs(temperature=0), plain, strict=True)]
    )
    assert stats.accepted_tokens == stats.draft_tokens > 150 and steps == plain_steps - stats.accepted_tokens
    assert stats.decode_tokens == 4 * 79
    drawn = replies(False, jobs(temperature=0.6, logprobs=2), make=ForeseeingExecutor)[0]
    assert replies(True, jobs(temperature=0.6, logprobs=2), make=ForeseeingExecutor)[0] == drawn


@pytest.mark.parametrize("block_size", [4, 16])
@pytest.mark.parametrize("params", [{"temperature": 0}, {"temperature": 0.3, "logprobs": 2}])
def test_a_state_goes_back_to_before_a_wrong_guess(params, block_size):
    sizes = {"block_size": block_size, "num_blocks": 256 // block_size}
    plain, before, plain_steps = replies(False, jobs(**params), make=StateExecutor, **sizes)
    fast, stats, steps = replies(True, jobs(**params), make=StateExecutor, **sizes)
    assert fast == plain and stats.decode_tokens == before.decode_tokens == 4 * 79
    assert stats.draft_tokens > stats.accepted_tokens > 0
    if not params["temperature"]:
        assert steps == plain_steps - stats.accepted_tokens
    assert stats.kv_blocks_used == 0
    tight = {"block_size": block_size, "num_blocks": 96 // block_size}  # with no room for a copy at the end
    assert replies(True, jobs(**params), make=StateExecutor, **tight)[0] == plain


def test_a_layer_that_is_wrong_costs_little():
    plain, _, plain_steps = replies(False, jobs(temperature=0), make=ForeseeingExecutor)
    fast, stats, steps = replies(True, jobs(temperature=0), make=ForeseeingExecutor, wrong_by=1)
    assert fast == plain and steps == plain_steps
    assert 0 < stats.draft_tokens < 40 and stats.accepted_tokens == 0


@pytest.mark.parametrize("sizes", [{}, {"num_blocks": 34}, {"max_rows": 3, "max_logit_rows": 2}])
def test_the_layer_keeps_step(sizes):
    """Shared prefixes, chunks, neighbours, preemption, ends and cancellation: its past has no gap and no wrong row."""
    common = prompt_of(30, 9)
    prompts = [common + prompt_of(n, n) for n in (7, 2, 1)] + [common, common[:18] + prompt_of(3, 1), prompt_of(1, 2)]
    executor = ForeseeingExecutor(**sizes)
    with engine_of(executor) as engine:
        for _ in range(2):
            together = [Job(prompt, max_tokens=24, temperature=0) for prompt in prompts]
            read = Job(common[:20], wants_logits=True)
            dropped = Job(prompt_of(12, 5), max_tokens=60, temperature=0)
            for job in (*together, read, dropped):
                engine.submit(job.request)
            assert len(read.logits()) == 20
            dropped.next()
            engine.cancel(dropped.request)
            assert [job.result()[0] for job in together] == [job.expected() for job in together]
        last = Job(prompts[0], max_tokens=60, temperature=0, prompt_logprobs=0)
        stopped = Job(prompts[1], max_tokens=60, temperature=0, stop_ids=[together[1].expected()[20]])
        for job in (stopped, Job(common, max_tokens=40, temperature=0)):
            engine.submit(job.request)
            assert job.result()[0] == job.expected()
        engine.submit(last.request)
        while not isinstance(event := last.next(), FinishEvent):
            pass
        assert event.reason == "length"
        assert engine.stats().accepted_tokens > 40


def test_where_lookup_and_the_layer_differ_the_layer_is_believed():
    text = [1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2, 3]
    assert Speculation().propose(text, [4], 3) == [4, 5, 6]
    assert Speculation().propose(text, [7], 3) == [7]
    assert Speculation().propose([1, 2, 3], [7], 0) == []
    speculation = Speculation()
    assert speculation.propose(text, [7], 3) == [7]
    speculation.learn(1, 0)
    assert [speculation.asks_layer() for _ in range(3)] == [False, True, True]
    assert speculation.propose([*text, 4], [], 3) == [5, 6, 7]


def test_what_is_proposed():
    lookup = PromptLookup()
    text = [1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2, 3]
    assert lookup.propose(text, 3) == [4, 5, 6]
    assert lookup.propose([*text, 4], 3) == [5, 6, 7]
    assert lookup.propose([*text, 4, 50], 3) == []
    assert PromptLookup().propose(text[:NGRAM], 3) == []


def test_wrong_guesses_make_it_pause():
    lookup, text = PromptLookup(), [5] * 10
    asked = []
    for step in range(200):
        proposed = lookup.propose([*text, *[5] * step], MAX_DRAFTS)
        if proposed:
            asked.append(step)
            lookup.learn(len(proposed), 0)
    assert asked[0] == 0 and len(asked) < 12
    assert numpy.diff(asked).max() > 32


def test_right_guesses_make_it_bold():
    lookup, text = PromptLookup(), [5] * 20
    for _ in range(3):
        proposed = lookup.propose(text, MAX_DRAFTS)
        lookup.learn(len(proposed), len(proposed))
        text += proposed
    assert len(lookup.propose([5] * 40, MAX_DRAFTS)) == MAX_DRAFTS
