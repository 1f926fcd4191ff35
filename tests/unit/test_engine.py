"""The engine over an executor whose logits are a hash of what it reads back from its KV blocks (fake_executor)."""

import queue
import threading
import time

import numpy
import pytest
from engine_jobs import CONTEXT, Job, engine_of, jobs_of, prompt_of, wait_until
from fake_executor import VOCABULARY, FakeExecutor, reference_logits

from freehold.engine.engine import Engine
from freehold.engine.request import FinishEvent, LogitsEvent, Request, SamplingParams, TokenEvent
from freehold.errors import EngineError, FreeholdError, PromptTooLongError, RequestError
from freehold.executors.native import native_sampler

# The same tokens, whatever else goes on.


@pytest.mark.parametrize("max_rows", [1, 2, 7, 64, 512])
@pytest.mark.parametrize("block_size", [1, 4, 32])
def test_chunks_and_batches_do_not_change_a_request(max_rows, block_size):
    executor = FakeExecutor(max_rows=max_rows, block_size=block_size, num_blocks=-(-1024 // block_size))
    with engine_of(executor) as engine:
        jobs = jobs_of(16)
        for job in jobs:
            engine.submit(job.request)
        assert [job.result()[0] for job in jobs] == [job.expected() for job in jobs]
    assert all(len(batch.tokens) <= max_rows for batch in executor.batches)
    if max_rows == 512:
        assert max(len(batch.row_starts) - 1 for batch in executor.batches) >= 10, "the requests were not batched"


@pytest.mark.parametrize("max_rows", [7, 512])
def test_preemption_does_not_change_a_request(max_rows):
    executor = FakeExecutor(max_rows=max_rows, block_size=4, num_blocks=CONTEXT // 4)
    with engine_of(executor) as engine:
        jobs = jobs_of(12, max_tokens=40)
        for job in jobs:
            engine.submit(job.request)
        results = [job.result() for job in jobs]
    assert [tokens for tokens, _ in results] == [job.expected() for job in jobs]
    assert {finish.reason for _, finish in results} == {"length"}
    needed = sum(len(job.request.tokens) - 1 - job.request.num_cached for job in jobs)
    assert sum(len(batch.tokens) for batch in executor.batches) > needed, "nothing was preempted"


def test_a_prefix_is_computed_once():
    executor = FakeExecutor(block_size=4)
    with engine_of(executor) as engine:
        prompt = prompt_of(21)
        cases = [
            (prompt, 0),
            (prompt, 20),  # all but the last, in whole blocks
            (prompt[:20], 19),  # the last token is always computed: 16 in whole blocks and 3 in a copy
            ([*prompt[:14], 60, 60, 60], 14),  # 12 in whole blocks, 2 of a copied one
            ([*prompt[:2], 60, 60, 60], 2),
            ([60, *prompt], 0),
        ]
        for tokens, cached in cases:
            job = Job(tokens, max_tokens=9, temperature=0)
            engine.submit(job.request)
            assert job.result()[0] == job.expected()
            assert job.request.num_cached == cached
        # A reply's blocks are cached too: the next turn of a conversation begins with them.
        first = Job(prompt, max_tokens=9, temperature=0)
        engine.submit(first.request)
        turn = Job([*prompt, *first.result()[0], 1, 2], max_tokens=9, temperature=0)
        engine.submit(turn.request)
        assert turn.result()[0] == turn.expected()
        assert turn.request.num_cached >= 28


def test_requests_of_different_salts_share_nothing():
    with engine_of() as engine:
        for salt in (b"", b"alice", b"bob"):
            job = Job(prompt_of(30), max_tokens=3, salt=salt)
            engine.submit(job.request)
            job.result()
            assert job.request.num_cached == 0


def test_cancelled_neighbours_do_not_change_a_request():
    executor = FakeExecutor(block_size=4, num_blocks=40)
    with engine_of(executor) as engine:
        jobs = jobs_of(15, max_tokens=30)
        for job in jobs:
            engine.submit(job.request)
        jobs[0].next()
        for job in jobs[1::2]:
            engine.cancel(job.request)
        for i, job in enumerate(jobs):
            tokens, finish = job.result()
            expected = job.expected()[1:] if i == 0 else job.expected()
            if i % 2 and finish.reason == "cancelled":
                assert tokens == expected[: len(tokens)]
            else:
                assert (tokens, finish.reason) == (expected, "length")


def test_requests_of_many_threads_are_batched():
    executor = FakeExecutor(num_blocks=400)
    executor.may_run.clear()
    with engine_of(executor) as engine:
        jobs = jobs_of(16, max_tokens=20)
        threads = [threading.Thread(target=engine.submit, args=(job.request,)) for job in jobs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        executor.may_run.set()
        assert [job.result()[0] for job in jobs] == [job.expected() for job in jobs]
    assert max(len(batch.row_starts) - 1 for batch in executor.batches) >= 15


class Forcing:
    """A constraint: whenever the count of its tokens is a multiple of five, the next `count` are forced."""

    finished = False

    def __init__(self, count):
        self.accepted, self.count = [], count

    def mask(self):
        return None

    def accept(self, token):
        self.accepted.append(token)

    def forced(self):
        if len(self.accepted) % 5:
            return []
        tokens = [(7 * i + len(self.accepted)) % VOCABULARY for i in range(self.count)]
        self.accepted += tokens
        return tokens


@pytest.mark.parametrize("count", [1, 4, 11])
@pytest.mark.parametrize("num_blocks", [CONTEXT // 4, 256])
def test_tokens_that_are_forced_are_computed_like_a_prompt(count, num_blocks):
    """Several at once, past the end of a block; with few blocks there are preemptions too."""
    executor = FakeExecutor(block_size=4, num_blocks=num_blocks)
    with engine_of(executor) as engine:
        jobs = jobs_of(6, max_tokens=30, temperature=0)
        for job in jobs:
            job.request.constraint = Forcing(count)
            engine.submit(job.request)
        for job in jobs:
            tokens, finish = job.result()
            assert finish.reason == "length" and len(tokens) == 30
            sampler, known, forcing = native_sampler(job.request), list(job.prompt), Forcing(count)
            while len(known) < len(job.prompt) + 30:
                known.append(sampler.sample(reference_logits(known))[0])
                forcing.accept(known[-1])
                known += forcing.forced()
            assert tokens == known[len(job.prompt) :][:30]


def test_hidden_states_come_for_every_token():
    executor = FakeExecutor(block_size=4, max_rows=16, max_logit_rows=8)
    with engine_of(executor) as engine:
        neighbours = jobs_of(5)
        events: queue.SimpleQueue = queue.SimpleQueue()
        prompt = prompt_of(CONTEXT)
        engine.submit(neighbours[0].request)
        engine.submit(Request(prompt, SamplingParams(), events.put, wants_hidden=True))
        for job in neighbours[1:]:
            engine.submit(job.request)
        rows = {}
        while not isinstance(event := events.get(timeout=30), FinishEvent):
            rows |= {event.first + i: row for i, row in enumerate(event.rows)}
        assert event.reason == "stop"
        assert [job.result()[0] for job in neighbours] == [job.expected() for job in neighbours]
    for position in (0, 7, 40, CONTEXT - 1):
        assert (rows[position] == 2 * reference_logits(prompt[: position + 1])).all()


# How a request ends.


def test_finish_reasons():
    with engine_of() as engine:
        free = Job(prompt_of(10), max_tokens=8, temperature=0)
        engine.submit(free.request)
        tokens, finish = free.result()
        assert (len(tokens), finish.reason) == (8, "length")
        stopping = Job(prompt_of(10), max_tokens=8, temperature=0, stop_ids=[tokens[5]])
        engine.submit(stopping.request)
        assert stopping.result() == (tokens[: tokens.index(tokens[5])], FinishEvent("stop"))


@pytest.mark.parametrize("max_tokens", [None, 1000])
@pytest.mark.parametrize("length", [1, CONTEXT - 5, CONTEXT - 1])
def test_a_reply_ends_exactly_at_the_context(length, max_tokens):
    with engine_of() as engine:
        job = Job(prompt_of(length), max_tokens=max_tokens)
        engine.submit(job.request)
        tokens, finish = job.result()
    assert (len(tokens), finish.reason) == (CONTEXT - length, "length")
    assert tokens == job.expected()


def submit_and_cancel_at(engine, prompt, num_events):
    events = []

    def sink(event):
        events.append(event)
        if len(events) == num_events:
            engine.cancel(request)

    request = Request(prompt, SamplingParams(max_tokens=30), sink)
    engine.submit(request)
    return request, events


def test_cancelling_frees_the_blocks():
    executor = FakeExecutor(block_size=4, num_blocks=CONTEXT // 4)
    with engine_of(executor) as engine:
        for seed in range(5):
            request, events = submit_and_cancel_at(engine, prompt_of(60, seed), 3)
            wait_until(lambda request=request: request.finished)
            assert len(events) == 4 and events[-1] == FinishEvent("cancelled")
        whole = Job(prompt_of(CONTEXT - 1, 5))  # needs every block there is
        engine.submit(whole.request)
        assert whole.result()[0] == whole.expected()


def test_a_request_is_cancelled_while_it_waits():
    executor = FakeExecutor()
    executor.may_run.clear()
    with engine_of(executor, max_requests=1) as engine:
        first, second = Job(prompt_of(5), max_tokens=3), Job(prompt_of(6), max_tokens=3)
        engine.submit(first.request)
        engine.submit(second.request)
        engine.cancel(second.request)
        executor.may_run.set()
        assert second.result() == ([], FinishEvent("cancelled"))
        assert first.result()[0] == first.expected()
        engine.cancel(first.request)  # too late, and no harm
        third = Job(prompt_of(7), max_tokens=3)
        engine.submit(third.request)
        assert third.result()[0] == third.expected()
        assert first.events.empty()


def test_closing_cancels_what_is_left_and_refuses_more():
    with engine_of() as engine:
        jobs = jobs_of(20, max_tokens=None)
        for job in jobs:
            engine.submit(job.request)
        engine.close()
        assert {job.result()[1].reason for job in jobs} <= {"cancelled", "length"}
        with pytest.raises(EngineError, match="the engine is closed"):
            engine.submit(Job([1]).request)
        engine.close()


def test_times_are_in_order():
    with engine_of() as engine:
        job = Job(prompt_of(10), max_tokens=4)
        engine.submit(job.request)
        job.result()
        times = [getattr(job.request, f"{name}_at") for name in ("submitted", "started", "first_token", "finished")]
    assert times == sorted(times) and times[0] > 0
    assert times[-1] <= time.monotonic()


# What goes wrong.


@pytest.mark.parametrize(
    ("prompt", "options", "error", "message"),
    [
        ([], {}, RequestError, "the prompt is empty"),
        ([5, VOCABULARY], {}, RequestError, f"prompt: token {VOCABULARY} is not in the vocabulary of {VOCABULARY}"),
        ([-1], {}, RequestError, "prompt: token -1 is not in the vocabulary"),
        (["a"], {}, RequestError, "prompt: expected token ids: 'str' object"),
        ([1.5], {}, RequestError, "prompt: expected token ids: 'float' object"),
        ([1] * CONTEXT, {}, PromptTooLongError, f"the prompt has {CONTEXT} tokens; the context holds {CONTEXT}"),
        ([1] * 500, {}, PromptTooLongError, "the prompt has 500 tokens"),
        ([1] * (CONTEXT + 1), dict(wants_logits=True), PromptTooLongError, f"the prompt has {CONTEXT + 1} tokens"),
        ([1], dict(logit_bias={99: 1.0}), RequestError, "logit_bias: token 99 is not in the vocabulary"),
        ([1], dict(logit_bias={-1: 1.0}), RequestError, "logit_bias: token: expected an integer from 0"),
        ([1], dict(logit_bias=[1]), RequestError, r"logit_bias: expected a mapping of token to bias, got \[1\]"),
        ([1], dict(logit_bias={1: float("inf")}), RequestError, "logit_bias: expected a number from -1000 to 1000"),
        ([1], dict(temperature=-0.1), RequestError, "temperature: expected a number from 0 to 100, got -0.1"),
        ([1], dict(temperature=float("nan")), RequestError, "temperature: expected a number from 0 to 100, got nan"),
        ([1], dict(temperature="1"), RequestError, "temperature: expected a number from 0 to 100, got '1'"),
        ([1], dict(top_p=0), RequestError, "top_p: expected a number above 0 to 1, got 0"),
        ([1], dict(top_p=1.01), RequestError, "top_p: expected a number above 0 to 1, got 1.01"),
        ([1], dict(min_p=float("inf")), RequestError, "min_p: expected a number from 0 to 1, got inf"),
        ([1], dict(top_k=-1), RequestError, "top_k: expected an integer from 0"),
        ([1], dict(top_k=True), RequestError, "top_k: expected an integer from 0"),
        ([1], dict(max_tokens=0), RequestError, "max_tokens: expected an integer from 1"),
        ([1], dict(repetition_penalty=0), RequestError, "repetition_penalty: expected a number from 0.01 to 100"),
        ([1], dict(presence_penalty=1e9), RequestError, "presence_penalty: expected a number from -100"),
        ([1], dict(frequency_penalty=None), RequestError, "frequency_penalty: expected a number from -100"),
        ([1], dict(seed=-1), RequestError, "seed: expected an integer from 0"),
        ([1], dict(seed=1 << 64), RequestError, "seed: expected an integer from 0"),
        ([1], dict(logprobs=21), RequestError, "logprobs: expected an integer from 0 to 20, got 21"),
    ],
)
def test_wrong_values_are_refused_before_anything_is_taken(prompt, options, error, message):
    executor = FakeExecutor()
    with engine_of(executor) as engine, pytest.raises(error, match=message):
        engine.submit(Job(prompt, **options).request)
    assert executor.batches == []


def test_a_prompt_that_is_only_scored_may_fill_the_context():
    job = Job(prompt_of(CONTEXT), max_tokens=0, prompt_logprobs=0)
    with engine_of(FakeExecutor()) as engine:
        engine.submit(job.request)
        scored = {}
        while not isinstance(event := job.next(), FinishEvent):
            scored |= {event.first + i: logprob for i, (logprob, _) in enumerate(event.logprobs)}
        assert event.reason == "length" and sorted(scored) == list(range(1, CONTEXT))
        with pytest.raises(PromptTooLongError, match=f"the prompt has {CONTEXT} tokens"):
            engine.submit(Job(prompt_of(CONTEXT), max_tokens=1, prompt_logprobs=0).request)


def test_a_full_queue_pushes_back():
    executor = FakeExecutor()
    executor.may_run.clear()
    with engine_of(executor, max_requests=1, max_waiting=2) as engine:
        jobs = [Job(prompt_of(5, i), max_tokens=3) for i in range(4)]
        engine.submit(jobs[0].request)
        executor.running.wait()
        engine.submit(jobs[1].request)
        engine.submit(jobs[2].request)
        with pytest.raises(EngineError, match="the queue is full: 2 requests wait already"):
            engine.submit(jobs[3].request)
        executor.may_run.set()
        assert [job.result()[0] for job in jobs[:3]] == [job.expected() for job in jobs[:3]]
        engine.submit(jobs[3].request)
        assert jobs[3].result()[0] == jobs[3].expected()


def test_a_failed_step_fails_its_requests_and_the_engine_goes_on():
    executor = FakeExecutor(num_blocks=CONTEXT // 4)
    executor.fail_on = 7
    with engine_of(executor) as engine:
        bad = Job([1, 2, 7, 3], max_tokens=5)
        engine.submit(bad.request)
        finish = bad.result()[1]
        assert finish.reason == "error"
        assert str(finish.error) == "a step failed: ValueError: the executor stumbled"
        executor.fail_on = None
        for seed in range(3):
            job = Job(prompt_of(CONTEXT - 1, seed))  # needs the failed request's blocks
            engine.submit(job.request)
            assert job.result()[0] == job.expected()


def test_logits_that_are_not_numbers_fail_their_request_alone():
    executor = FakeExecutor()
    executor.nan_on = 7
    executor.may_run.clear()
    with engine_of(executor) as engine:
        bad, good = Job([1, 2, 7], max_tokens=5), Job([1, 2, 3], max_tokens=20, logit_bias={7: -1000.0})
        engine.submit(bad.request)
        engine.submit(good.request)
        executor.may_run.set()
        tokens, finish = bad.result()
        assert (tokens, finish.reason) == ([], "error")
        assert "not numbers" in str(finish.error)
        assert good.result()[0] == good.expected()


@pytest.mark.parametrize("fails_at", [TokenEvent, FinishEvent])
def test_a_sink_that_fails_harms_nobody_else(fails_at):
    class Broken(Exception):
        pass

    def sink(event):
        if isinstance(event, fails_at):
            raise Broken

    executor = FakeExecutor()
    executor.may_run.clear()
    with engine_of(executor) as engine:
        broken = Request([1, 2], SamplingParams(max_tokens=3), sink)
        engine.submit(broken)
        good = Job([3, 4], max_tokens=20)
        engine.submit(good.request)
        executor.may_run.set()
        assert good.result()[0] == good.expected()
        assert broken.finished
        assert len(broken.tokens) == (3 if fails_at is TokenEvent else 5)


def test_a_scheduler_that_fails_leaves_nobody_waiting(monkeypatch):
    executor = FakeExecutor()
    with engine_of(executor) as engine:
        monkeypatch.setattr("freehold.engine.scheduler.Scheduler.schedule", lambda self: 1 / 0)
        job = Job([1, 2], max_tokens=3)
        engine.submit(job.request)
        finish = job.result()[1]
        assert isinstance(finish.error, FreeholdError)
        with pytest.raises(EngineError, match="the engine has failed: ZeroDivisionError"):
            engine.submit(Job([1]).request)


def test_a_context_that_the_blocks_do_not_hold_is_refused():
    with pytest.raises(ValueError, match="2 KV blocks do not hold a context of 96 tokens"):
        Engine(FakeExecutor(num_blocks=2), native_sampler, context=CONTEXT)


# Logits of a whole prompt.


@pytest.mark.parametrize("length", [1, 2, 31, 64, 65, CONTEXT])
@pytest.mark.parametrize("max_rows", [1, 7, 512])
def test_logits_of_every_row(length, max_rows):
    with engine_of(FakeExecutor(max_rows=max_rows, max_logit_rows=min(max_rows, 64))) as engine:
        for _ in range(2):  # cached blocks do not shorten it
            job = Job(prompt_of(length), wants_logits=True)
            engine.submit(job.request)
            got = job.logits()
            expected = numpy.stack([reference_logits(job.prompt[: i + 1]) for i in range(length)])
            numpy.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("num_blocks", [CONTEXT // 4, 200])
def test_logits_beside_replies(num_blocks):
    executor = FakeExecutor(num_blocks=num_blocks, max_rows=24, max_logit_rows=16)
    executor.may_run.clear()
    with engine_of(executor) as engine:
        replies = [Job(prompt_of(9, i), max_tokens=30, temperature=0.9, seed=i) for i in range(6)]
        whole = [Job(prompt_of(50, i), wants_logits=True) for i in range(4)]
        for job in (replies[0], whole[0], *replies[1:4], *whole[1:], *replies[4:]):
            engine.submit(job.request)
        executor.may_run.set()
        for job in whole:
            expected = numpy.stack([reference_logits(job.prompt[: i + 1]) for i in range(50)])
            numpy.testing.assert_array_equal(job.logits(), expected)
        assert [job.result()[0] for job in replies] == [job.expected() for job in replies]


def test_events_carry_logprobs():
    with engine_of() as engine:
        job = Job(prompt_of(5), max_tokens=1, temperature=0, logprobs=3)
        engine.submit(job.request)
        event = job.next()
    logits = reference_logits(job.prompt).astype(numpy.float64)
    logprobs = logits - numpy.log(numpy.exp(logits).sum())
    assert isinstance(event, TokenEvent) and not isinstance(event, LogitsEvent)
    assert event.logprob == pytest.approx(logprobs.max(), abs=1e-5)
    assert [token for token, _ in event.top] == numpy.argsort(-logits)[:3].tolist()
