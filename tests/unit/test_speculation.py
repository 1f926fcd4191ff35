"""Speculation changes when tokens are computed, never which: over an executor whose texts repeat themselves."""

import numpy
import pytest
from fake_executor import FakeExecutor, reference_logits
from test_engine import Job, engine_of, prompt_of

from freehold.engine.speculation import MAX_DRAFTS, NGRAM, PromptLookup


class RepeatingExecutor(FakeExecutor):
    """Its logits depend on the last two tokens alone, so that a greedy reply soon goes in a circle."""

    def _row(self, table, last):
        super()._row(table, last)  # for its checks of what the blocks hold
        first = max(0, last - 1)
        slots = [self._slots[self._slot(table, position)] for position in range(first, last + 1)]
        return reference_logits([slot[0] for slot in slots])


def replies(speculates, jobs, **sizes):
    executor = RepeatingExecutor(**sizes)
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


def test_neighbours_end_it():
    """Two at once share steps without drafts; the one that is left speculates again."""
    expected = [replies(False, [job])[0][0] for job in jobs(temperature=0)]
    executor = RepeatingExecutor()
    executor.may_run.clear()
    with engine_of(executor) as engine:
        together = jobs(temperature=0)
        for job in together:
            engine.submit(job.request)
        executor.may_run.set()
        assert [job.result() for job in together] == expected


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
