"""Engines over the fake executor, and requests to them with the events that come back."""

import queue
import time
from contextlib import contextmanager

import numpy
from fake_executor import VOCABULARY, FakeExecutor, reference_logits

from freehold.engine.engine import Engine
from freehold.engine.request import FinishEvent, Request, SamplingParams
from freehold.executors.native import native_sampler

CONTEXT = 96


class Job:
    """A request and the queue that its events go to."""

    def __init__(self, prompt, *, stop_ids=(), wants_logits=False, salt=b"", **params):
        self.prompt = list(prompt)
        self.events: queue.SimpleQueue = queue.SimpleQueue()
        self.request = Request(
            prompt,
            SamplingParams(**params),
            self.events.put,
            stop_ids=frozenset(stop_ids),
            wants_logits=wants_logits,
            salt=salt,
        )

    def next(self):
        return self.events.get(timeout=30)

    def result(self) -> tuple[list[int], FinishEvent]:
        tokens = []
        while not isinstance(event := self.next(), FinishEvent):
            tokens.append(event.token)
        return tokens, event

    def logits(self) -> numpy.ndarray:
        rows = {}
        while not isinstance(event := self.next(), FinishEvent):
            rows |= {event.first + i: row for i, row in enumerate(event.logits)}
        assert event.reason == "stop"
        return numpy.stack([rows[position] for position in range(len(self.prompt))])

    def expected(self) -> list[int]:
        """What the request must give, worked out without an engine."""
        sampler, tokens = native_sampler(self.request), list(self.prompt)
        limit = self.request.params.max_tokens or CONTEXT
        while len(tokens) < min(CONTEXT, len(self.prompt) + limit):
            token, _, _ = sampler.sample(reference_logits(tokens))
            if token in self.request.stop_ids:
                break
            tokens.append(token)
        return tokens[len(self.prompt) :]


@contextmanager
def engine_of(executor=None, **options):
    engine = Engine(executor or FakeExecutor(), native_sampler, context=CONTEXT, **options)
    try:
        yield engine
    finally:
        if executor:
            executor.may_run.set()
        engine.close()


def prompt_of(length: int, seed: int = 0) -> list[int]:
    return numpy.random.default_rng(seed).integers(0, VOCABULARY, length).tolist()


def wait_until(condition) -> None:
    for _ in range(3000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("it never came")


def jobs_of(count: int, **params) -> list[Job]:
    """Requests of many lengths and ways to sample; every third begins like the one before."""
    jobs = []
    for i in range(count):
        prompt = prompt_of(1 + 11 * i % 40, i)
        if i % 3 == 1:
            prompt = jobs[-1].prompt[: 1 + 5 * i % 30] + prompt
        options = [dict(temperature=0), dict(temperature=1.0, seed=i), dict(top_p=0.8, seed=i, presence_penalty=0.5)]
        jobs.append(Job(prompt, **({"max_tokens": 5 + i} | options[i % 3] | params)))
    return jobs
