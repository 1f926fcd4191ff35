"""The engine: one thread that schedules, runs and postprocesses step after step. It knows token ids, never text."""

import atexit
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from freehold.engine.executor import Executor
from freehold.engine.kv_cache import BlockPool
from freehold.engine.request import LogitsEvent, Request, TokenEvent
from freehold.engine.scheduler import Scheduler, Work
from freehold.errors import EngineError, FreeholdError, PromptTooLongError, RequestError

_log = logging.getLogger("freehold.engine")


class Engine:
    """Serves many requests at once on one executor. All methods may be called from any thread.

    `make_sampler(request)` gives the native sampler of a request. `max_waiting` bounds the queue: past it `submit`
    raises EngineError rather than let work pile up.
    """

    def __init__(
        self,
        executor: Executor,
        make_sampler: Callable[[Request], Any],
        *,
        context: int,
        max_requests: int = 64,
        max_waiting: int = 1024,
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
            copy_block=None if executor.keeps_states else executor.copy_block,
        )
        self._changed = threading.Condition()
        self._submitted: deque[Request] = deque()
        self._cancelled: deque[Request] = deque()
        self._closed = False
        self._failure: EngineError | None = None  # why the loop has ended, where it was not closed
        self._thread = threading.Thread(target=self._loop, name="freehold-engine", daemon=True)
        self._thread.start()
        atexit.register(self.close)  # a thread in native code must not outlive the interpreter

    def submit(self, request: Request) -> None:
        """Queue a request; its events go to its sink.

        A reply ends with "length" where prompt and reply fill the context, even if max_tokens is more. Raises
        RequestError for an empty prompt or unknown tokens, PromptTooLongError before anything is taken, EngineError
        when the engine is closed or its queue is full.
        """
        self._check(request)
        request.sampler = self._make_sampler(request)
        limit = request.params.max_tokens
        request.max_length = self.context if limit is None else min(self.context, request.num_prompt + limit)
        with self._changed:
            if self._closed:
                raise self._failure or EngineError("the engine is closed")
            if len(self._submitted) + len(self._scheduler.waiting) >= self.max_waiting:
                raise EngineError(f"the queue is full: {self.max_waiting} requests wait already", "try again later")
            self._submitted.append(request)
            self._changed.notify()

    def cancel(self, request: Request) -> None:
        """End a request; its blocks are free again before the next step."""
        with self._changed:
            self._cancelled.append(request)
            self._changed.notify()

    def close(self) -> None:
        """Stop after the step at hand; unfinished requests end as cancelled."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()
        atexit.unregister(self.close)

    def _check(self, request: Request) -> None:
        vocabulary = self.executor.vocabulary_size
        if not request.tokens:
            raise RequestError("the prompt is empty: at least one token is needed")
        for name, tokens in (("prompt", request.tokens), ("logit_bias", request.params.logit_bias)):
            for token in tokens:
                if not 0 <= token < vocabulary:
                    raise RequestError(f"{name}: token {token} is not in the vocabulary of {vocabulary}")
        longest = self.context if request.wants_logits else self.context - 1  # room for one token of reply
        if request.num_prompt > longest:
            raise PromptTooLongError(request.num_prompt, self.context)

    def _loop(self) -> None:
        try:
            while self._receive():
                batch, work = self._scheduler.schedule()
                if not work:
                    continue
                try:
                    self.executor.run(batch)
                    self._postprocess(work)
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

    def _postprocess(self, work: Work) -> None:
        if any(request.wants_logits for request, _ in work):
            samples = iter(self._read_logits(work))
        else:
            sampling = [request.sampler for request, rows in work if rows == request.num_remaining]
            samples = iter(self.executor.sample(sampling) if sampling else ())
        for request, rows in work:
            self._scheduler.computed(request, rows)
            if request.num_remaining:
                continue
            if request.wants_logits:
                self._end(request, "stop")
            else:
                self._accept(request, next(samples))

    def _read_logits(self, work: Work) -> list[Any]:
        """Send logits to those that want them, and sample the other rows that end a request's known tokens."""
        logits, at, samples = self.executor.logits(), 0, []
        for request, rows in work:
            if request.wants_logits:
                request.emit(LogitsEvent(request.num_computed, logits[at : at + rows]))
                at += rows
            elif rows == request.num_remaining:
                samples.append(request.sampler.sample(logits[at]))
                at += 1
        return samples

    def _accept(self, request: Request, sample: Any) -> None:
        token, logprob, top = sample
        if token < 0:
            self._end(request, "error", EngineError("the model's logits are not numbers: its weights are damaged"))
            return
        if not request.first_token_at:
            request.first_token_at = time.monotonic()
        if token in request.stop_ids:
            self._end(request, "stop")
            return
        request.tokens.append(token)
        request.emit(TokenEvent(token, logprob, top))
        if len(request.tokens) >= request.max_length:
            self._end(request, "length")
        elif request.abandoned:
            self._end(request, "cancelled")

    def _end(self, request: Request, reason: str, error: FreeholdError | None = None) -> None:
        self._scheduler.remove(request)
        request.finish(reason, error)

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
