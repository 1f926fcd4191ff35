"""The engine: one thread that schedules, runs and postprocesses step after step. It knows token ids, never text."""

import atexit
import logging
import os
import threading
import time
import weakref
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from freehold.engine.executor import Batch, Executor
from freehold.engine.kv_cache import BlockPool
from freehold.engine.prompt import prompt_logprobs
from freehold.engine.request import Constraint, HiddenEvent, LogitsEvent, PromptEvent, Request, TokenEvent
from freehold.engine.scheduler import Scheduler, Work
from freehold.errors import EngineError, FreeholdError, PromptTooLongError, QueueFullError, RequestError

_log = logging.getLogger("freehold.engine")


@dataclass(frozen=True, slots=True)
class EngineStats:
    """Requests and KV blocks now; tokens, steps and requests by their end since the engine was made."""

    running: int
    waiting: int
    kv_blocks_used: int
    kv_blocks_total: int
    steps: int
    prefill_tokens: int
    decode_tokens: int
    prefix_query_tokens: int  # of prompts that could have been found in the prefix cache
    prefix_hit_tokens: int
    preemptions: int
    draft_tokens: int  # proposed by speculation
    accepted_tokens: int  # of these, drawn
    finished: dict[str, int]


@dataclass(slots=True)
class _Counts:
    steps: int = 0
    prefill_tokens: int = 0
    decode_tokens: int = 0
    draft_tokens: int = 0
    accepted_tokens: int = 0
    finished: Counter[str] = field(default_factory=Counter)


_engines: "weakref.WeakSet[Engine]" = weakref.WeakSet()


def _after_fork() -> None:
    for engine in list(_engines):
        engine.forked()


os.register_at_fork(after_in_child=_after_fork)


def _constraint_error(error: Exception) -> FreeholdError:
    return error if isinstance(error, FreeholdError) else RequestError(f"the reply's grammar: {error}")


class Engine:
    """Serves many requests at once on one executor. All methods may be called from any thread.

    `make_sampler(request)` gives the native sampler of a request. `max_waiting` bounds the queue: past it `submit`
    raises EngineError rather than let work pile up. `speculates`: a request that has the step to itself is decoded
    several tokens at a time where they can be foreseen; which tokens come does not depend on it.
    """

    def __init__(
        self,
        executor: Executor,
        make_sampler: Callable[[Request], Any],
        *,
        context: int,
        max_requests: int = 64,
        max_waiting: int = 1024,
        speculates: bool = True,
    ):
        if context > executor.num_blocks * executor.block_size:
            raise ValueError(f"{executor.num_blocks} KV blocks do not hold a context of {context} tokens")
        self.executor = executor
        self.context = context
        self.max_waiting = max_waiting
        self._make_sampler = make_sampler
        self._scheduler = Scheduler(
            BlockPool(executor.num_blocks, executor.block_size),
            max_rows=executor.max_rows,
            max_logit_rows=executor.max_logit_rows,
            max_requests=max_requests,
            copy_block=executor.copy_block,
            keeps_states=executor.keeps_states,
            speculates=speculates,
        )
        self._foresees = executor.foresees and speculates
        self._changed = threading.Condition()
        self._submitted: deque[Request] = deque()
        self._cancelled: deque[Request] = deque()
        self._closed = False
        self._failure: EngineError | None = None  # why the loop has ended, where it was not closed
        self._counts = _Counts()
        self._masks: Any = None  # the thread that computes masks
        self._thread = threading.Thread(target=self._loop, name="freehold-engine", daemon=True)
        self._thread.start()
        _engines.add(self)
        atexit.register(self.close)  # a thread in native code must not outlive the interpreter

    def submit(self, request: Request) -> None:
        """Queue a request; its events go to its sink.

        A reply ends with "length" where prompt and reply fill the context, even if max_tokens is more. Raises
        RequestError for an empty prompt or unknown tokens, PromptTooLongError before anything is taken, EngineError
        when the engine is closed, QueueFullError when too many wait.
        """
        self._check(request)
        request.sampler = self._make_sampler(request)
        limit = request.params.max_tokens
        request.max_length = self.context if limit is None else min(self.context, request.num_prompt + limit)
        with self._changed:
            if self._closed:
                raise self._failure or EngineError("the engine is closed")
            if len(self._submitted) + len(self._scheduler.waiting) >= self.max_waiting:
                raise QueueFullError(f"the queue is full: {self.max_waiting} requests wait already", "try again later")
            self._submitted.append(request)
            self._changed.notify()

    def cancel(self, request: Request) -> None:
        """End a request; its blocks are free again before the next step."""
        with self._changed:
            self._cancelled.append(request)
            self._changed.notify()

    @property
    def failure(self) -> EngineError | None:
        """Why the loop has ended, where it was not closed."""
        return self._failure

    def stats(self) -> EngineStats:
        """What the engine is doing and has done so far."""
        scheduler, pool, counts = self._scheduler, self._scheduler.pool, self._counts
        return EngineStats(
            running=len(scheduler.running),
            waiting=len(scheduler.waiting) + len(self._submitted),
            kv_blocks_used=self.executor.num_blocks - pool.num_available,
            kv_blocks_total=self.executor.num_blocks,
            steps=counts.steps,
            prefill_tokens=counts.prefill_tokens,
            decode_tokens=counts.decode_tokens,
            prefix_query_tokens=scheduler.prefix_query_tokens,
            prefix_hit_tokens=scheduler.prefix_hit_tokens,
            preemptions=scheduler.preemptions,
            draft_tokens=counts.draft_tokens,
            accepted_tokens=counts.accepted_tokens,
            finished=dict(counts.finished),
        )

    def close(self) -> None:
        """Stop after the step at hand; unfinished requests end as cancelled."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()
        if self._masks:
            self._masks.shutdown()
        atexit.unregister(self.close)

    def forked(self) -> None:
        """In the child of a fork: its loop has stayed behind, so that nobody may wait for it."""
        self._changed = threading.Condition()  # the parent's may have been held by another thread
        self._closed = True
        self._failure = EngineError(
            "the model was loaded before this process was forked", "load it in the process that uses it"
        )

    def _check(self, request: Request) -> None:
        vocabulary = self.executor.vocabulary_size
        if not request.tokens:
            raise RequestError("the prompt is empty: at least one token is needed")
        for name, tokens in (("prompt", request.tokens), ("logit_bias", request.params.logit_bias)):
            for token in tokens:
                if not 0 <= token < vocabulary:
                    raise RequestError(f"{name}: token {token} is not in the vocabulary of {vocabulary}")
        replies = not request.is_read and request.params.max_tokens != 0
        longest = self.context - 1 if replies else self.context  # room for one token of reply
        if request.num_prompt > longest:
            raise PromptTooLongError(request.num_prompt, self.context)

    def _loop(self) -> None:
        try:
            while self._receive():
                batch, work = self._scheduler.schedule()
                if not work:
                    continue
                try:
                    masks = self._start_masks(work)
                    begin = time.perf_counter()
                    self.executor.run(batch)
                    self._scheduler.took(len(batch.tokens), time.perf_counter() - begin)
                    self._count(work)
                    self._set_masks(masks)
                    self._postprocess(work)
                    if self._foresees:
                        self._foresee(batch, work)
                except Exception as error:
                    self._fail(work, error)
        except Exception as error:  # a bug of ours: nobody may wait for ever on a dead loop
            _log.exception("the engine has failed")
            self._give_up(EngineError(f"the engine has failed: {type(error).__name__}: {error}"))

    def _receive(self) -> bool:
        """Take in what other threads ask for; wait while there is nothing to do. False: the engine is closed."""
        with self._changed:
            while not (self._submitted or self._cancelled or self._closed or self._scheduler.has_work):
                self._changed.wait()
            for request in self._submitted:
                self._scheduler.add(request)
            self._submitted.clear()
            cancelled = list(self._cancelled)
            self._cancelled.clear()
            closed = self._closed
        for request in cancelled:
            self._end(request, "cancelled")
        if closed:
            for request in [*self._scheduler.running, *self._scheduler.waiting]:
                self._end(request, "cancelled")
        return not closed

    # Constraints: masks are computed by a thread of their own while the step runs.

    def _start_masks(self, work: Work) -> dict[Request, Any]:
        drawing = [request for request, rows in work if request.constraint and rows == request.num_remaining]
        if drawing and self._masks is None:
            from concurrent.futures import ThreadPoolExecutor  # slow to import

            self._masks = ThreadPoolExecutor(1, "freehold-masks")
        return {request: self._masks.submit(request.constraint.mask) for request in drawing if request.constraint}

    def _set_masks(self, masks: dict[Request, Any]) -> None:
        """Hand the masks to the samplers. What is drawn for a request whose constraint has failed is thrown away."""
        for request, mask in masks.items():
            try:
                if (bits := mask.result()) is not None:
                    request.sampler.allow(bits)
            except Exception as error:
                request.failure = _constraint_error(error)

    def _postprocess(self, work: Work) -> None:
        if any(request.reads_rows for request, _ in work):
            samples = iter(self._read_logits(work))
        else:
            drawing = [request for request, rows in work if rows == request.num_remaining]
            samplers, drafts = [request.sampler for request in drawing], [request.drafts for request in drawing]
            samples = iter(self.executor.sample(samplers, drafts) if drawing else ())
        for request, rows in work:
            self._scheduler.computed(request, rows)
            if request.num_remaining:
                continue
            if request.is_read:
                self._end(request, "stop")
            else:
                self._accept_all(request, next(samples))

    def _read_logits(self, work: Work) -> list[Any]:
        """Give those that read rows what they ask for, and sample the rows that end a request's known tokens."""
        reading_hidden = [request.wants_hidden for request, _ in work]
        hidden: Any = self.executor.hidden() if any(reading_hidden) else None
        logits: Any = None if all(reading_hidden) else self.executor.logits()
        at, samples = 0, []
        for request, rows in work:
            ends = rows == request.num_remaining
            if request.reads_rows:
                self._emit_rows(request, (hidden if request.wants_hidden else logits)[at : at + rows])
                at += rows
            elif ends:
                at += 1
            if ends and not request.is_read:
                samples.append([request.sampler.sample(logits[at - 1])])
        return samples

    def _emit_rows(self, request: Request, logits: Any) -> None:
        first = request.num_computed
        if request.wants_hidden:
            request.emit(HiddenEvent(first, logits))
        elif request.wants_logits:
            request.emit(LogitsEvent(first, logits))
        elif known := request.tokens[first + 1 : min(first + 1 + len(logits), request.num_prompt)]:
            count = request.params.prompt_logprobs or 0
            request.emit(PromptEvent(first + 1, prompt_logprobs(logits[: len(known)], known, count)))

    def _accept_all(self, request: Request, samples: list[Any]) -> None:
        """The draw from the last known token's row, and those from the rows of drafts that were drawn before."""
        drafts, request.drafts, goes_back = request.drafts, [], False
        if drafts:
            request.speculation.learn(len(drafts), len(samples) - 1)
            goes_back = self._scheduler.settle(request, len(samples) - 1 == len(drafts))
            self._counts.draft_tokens += len(drafts)
            self._counts.accepted_tokens += len(samples) - 1
        self._accept(request, samples[0])
        for sample in samples[1:]:
            if request.finished:
                break
            if not goes_back:
                self._scheduler.computed(request, 1)
            self._counts.decode_tokens += 1
            self._accept(request, sample)
        if goes_back and not request.finished:
            self._counts.decode_tokens -= len(samples)  # counted when they are computed again

    def _foresee(self, batch: Batch, work: Work) -> None:
        """Run the model's layer for speculation on the step's rows that hold, each with the token that came after it.

        All requests' rows, so that the layer's past has no gaps; a guess is made where it can be used.
        """
        alone = len(self._scheduler.running) == 1
        following, rows = Batch(), []
        for index, (request, _) in enumerate(work):
            request.foreseen = []
            start = batch.row_starts[index]
            first, end = batch.positions[start], request.num_computed
            if first >= end:  # it has ended, and its blocks are others'; or its rows are computed again
                continue
            rows += range(start, start + end - first)
            following.tokens += request.tokens[first + 1 : end + 1]
            following.positions += range(first, end)
            following.block_tables.append(request.blocks)
            following.row_starts.append(len(following.tokens))
            if alone and request.num_remaining == 1 and request.speculation.asks_layer():
                following.logit_rows.append(len(rows) - 1)
        if rows:
            guesses = self.executor.foresee(following, rows)
            if guesses:
                self._scheduler.running[0].foreseen = guesses

    def _accept(self, request: Request, sample: Any) -> None:
        token, logprob, top = sample
        if request.failure:
            self._end(request, "error", request.failure)
        elif token < 0:
            self._end(request, "error", EngineError("the model's logits are not numbers: its weights are damaged"))
        elif len(request.tokens) >= request.max_length:  # only the prompt's log-probabilities were asked for
            self._end(request, "length")
        elif token in request.stop_ids:
            self._note_first_token(request)
            self._end(request, "stop")
        else:
            self._note_first_token(request)
            self._append(request, token, logprob, top)
            if request.constraint and not request.finished:
                self._follow(request, request.constraint, token)

    def _note_first_token(self, request: Request) -> None:
        if not request.first_token_at:
            request.first_token_at = time.monotonic()

    def _append(self, request: Request, token: int, logprob: float, top: list[tuple[int, float]]) -> None:
        request.tokens.append(token)
        request.emit(TokenEvent(token, logprob, top))
        if len(request.tokens) >= request.max_length:
            self._end(request, "length")
        elif request.abandoned:
            self._end(request, "cancelled")

    def _follow(self, request: Request, constraint: Constraint, token: int) -> None:
        """Tell the constraint what was drawn; append what it forces."""
        try:
            constraint.accept(token)
            forced = constraint.forced()
        except Exception as error:
            self._end(request, "error", _constraint_error(error))
            return
        for token in forced:
            if not request.finished:
                self._append(request, token, 0.0, [])
        if constraint.finished and not request.finished:
            self._end(request, "stop")

    def _end(self, request: Request, reason: str, error: FreeholdError | None = None) -> None:
        self._scheduler.remove(request)
        request.finish(reason, error)
        self._counts.finished[reason] += 1

    def _count(self, work: Work) -> None:
        counts = self._counts
        counts.steps += 1
        for request, rows in work:
            if request.num_computed + rows <= request.num_prompt:
                counts.prefill_tokens += rows
            else:
                counts.decode_tokens += rows

    def _fail(self, work: Work, error: Exception) -> None:
        """A step failed: its requests end with the reason, the others go on."""
        if not isinstance(error, FreeholdError):
            _log.exception("a step failed")
            error = EngineError(f"a step failed: {type(error).__name__}: {error}")
        for request, _ in work:
            self._end(request, "error", error)

    def _give_up(self, error: EngineError) -> None:
        with self._changed:
            self._closed, self._failure = True, error
            requests = [*self._scheduler.running, *self._scheduler.waiting, *self._submitted]
        for request in requests:
            request.finish("error", error)
