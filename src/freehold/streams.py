"""Replies on their way to the caller: events of the engine become pieces of text and a completion."""

import queue
import threading
import weakref
from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from freehold.engine.engine import Engine
from freehold.engine.request import Event, FinishEvent, PromptEvent, Request, TokenEvent
from freehold.errors import FreeholdError
from freehold.text.detokenizer import Detokenizer
from freehold.text.stop import StopStrings
from freehold.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    import asyncio  # imported where it is used: it takes a quarter of the time to import freehold


@dataclass(frozen=True, slots=True)
class Usage:
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int  # of the prompt, found in the prefix cache


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds from submission, and rates in tokens per second."""

    queue_s: float
    prefill_s: float
    time_to_first_token_s: float
    decode_s: float
    prefill_tokens_per_s: float
    decode_tokens_per_s: float


@dataclass(frozen=True, slots=True)
class PromptLogprob:
    token: int
    logprob: float | None  # None: the first token has none
    top: list[tuple[int, float]]


@dataclass(frozen=True, slots=True)
class Completion:
    """A finished reply.

    `logprobs`: of each token under the true distribution: log-softmax of the raw logits, before bias, penalties,
    temperature and truncation. `top_logprobs`: for each token the (token, log-probability) of the likeliest, when asked
    for. `finish_reason`: "stop" (an end token, a stop string, or nothing more is allowed), "length" (max_tokens or the
    context's end) or "cancelled". `prompt_logprobs`: of each of the prompt's tokens, when asked for.
    """

    text: str
    tokens: list[int]
    logprobs: list[float]
    top_logprobs: list[list[tuple[int, float]]] | None
    finish_reason: str
    usage: Usage
    timings: Timings
    prompt_logprobs: list[PromptLogprob] | None = None
    stop_text: str | None = None  # the stop string that ended it


@dataclass(slots=True)
class Piece:
    """Text as it comes, with the tokens since the piece before; text may be empty inside a character.

    `logprobs` and `top_logprobs` of these tokens as in `Completion`.
    """

    text: str
    token_ids: list[int]
    logprobs: list[float]
    top_logprobs: list[list[tuple[int, float]]]


class Reply:
    """Turns a request's events into pieces and, at the end, a Completion."""

    def __init__(self, tokenizer: Tokenizer, stops: Sequence[str], *, wants_top: bool, skip_special: bool):
        self._detokenizer = Detokenizer(tokenizer, skip_special=skip_special)
        self._stops = StopStrings(stops)
        self._text: list[str] = []
        self._tokens: list[int] = []
        self._logprobs: list[float] = []
        self._top: list[list[tuple[int, float]]] | None = [] if wants_top else None
        self._prompt: list[Any] = [(None, [])]  # (log-probability, likeliest) of each of the prompt's tokens
        self.stopped = False  # by a stop string
        self.request: Any = None

    def token(self, event: TokenEvent) -> Piece:
        self._tokens.append(event.token)
        self._logprobs.append(event.logprob)
        if self._top is not None:
            self._top.append(event.top)
        text, self.stopped = self._stops.push(self._detokenizer.push(event.token))
        self._text.append(text)
        return Piece(text, [event.token], [event.logprob], [event.top])

    def prompt(self, event: PromptEvent) -> None:
        self._prompt[event.first : event.first + len(event.logprobs)] = event.logprobs

    def finish(self, event: FinishEvent) -> tuple[str, Completion]:
        """(the last text, the completion); raises the request's error if it failed."""
        if event.error:
            raise event.error
        last = ""
        if not self.stopped:
            text, self.stopped = self._stops.push(self._detokenizer.finish())
            last = text if self.stopped else text + self._stops.finish()
            self._text.append(last)
        reason = "stop" if self.stopped else event.reason
        usage = Usage(self.request.num_prompt, len(self._tokens), self.request.num_cached)
        timings = _timings(self.request, len(self._tokens))
        text = "".join(self._text)
        prompt = self.prompt_logprobs() if self.request.params.prompt_logprobs is not None else None
        completion = Completion(
            text, self._tokens, self._logprobs, self._top, reason, usage, timings, prompt, self._stops.found
        )
        return last, completion

    def prompt_logprobs(self) -> list[PromptLogprob]:
        tokens = zip(self.request.tokens, self._prompt, strict=False)
        return [PromptLogprob(token, *found) for token, found in tokens]


def _timings(request: Request, num_tokens: int) -> Timings:
    start = request.submitted_at
    started = request.started_at or request.finished_at
    first = request.first_token_at or request.finished_at
    prefill, decode = first - started, request.finished_at - first
    computed = request.num_prompt - request.num_cached
    return Timings(
        queue_s=started - start,
        prefill_s=prefill,
        time_to_first_token_s=first - start,
        decode_s=decode,
        prefill_tokens_per_s=computed / prefill if prefill > 0 else 0.0,
        decode_tokens_per_s=(num_tokens - 1) / decode if decode > 0 and num_tokens > 1 else 0.0,
    )


class Stream:
    """An iterator of Pieces; `completion` is there once it is exhausted. Closing or dropping it cancels the request."""

    def __init__(self, engine: Engine, reply: Reply, events: "queue.SimpleQueue[Event]"):
        self._engine, self._reply, self._events = engine, reply, events
        self._done = False
        self.request: Request = reply.request
        self.completion: Completion | None = None

    def __iter__(self) -> Iterator[Piece]:
        return self

    def __next__(self) -> Piece:
        while not self._done:
            event = self._events.get()
            if isinstance(event, TokenEvent) and not self._reply.stopped:
                piece = self._reply.token(event)
                if self._reply.stopped:
                    self._engine.cancel(self._reply.request)
                return piece
            if isinstance(event, PromptEvent):
                self._reply.prompt(event)
            if isinstance(event, FinishEvent):
                self._done = True
                last, self.completion = self._reply.finish(event)
                if last:
                    return Piece(last, [], [], [])
        raise StopIteration

    def close(self) -> None:
        if not self._done:
            self._engine.cancel(self._reply.request)
            while not self._done:
                next(self, None)

    def __enter__(self) -> "Stream":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if not self._done:
            self._engine.cancel(self.request)


class AsyncStream:
    """As Stream, for `async for`."""

    def __init__(self, engine: Engine, reply: Reply, mailbox: "Mailbox"):
        self._engine, self._reply, self._mailbox = engine, reply, mailbox
        self._events: deque[Event] = deque()
        self._pieces: deque[Piece] = deque()
        self._done = False
        self.request: Request = reply.request
        self.completion: Completion | None = None

    def __aiter__(self) -> AsyncIterator[Piece]:
        return self

    async def __anext__(self) -> Piece:
        if not self._pieces:
            self._pieces.extend(await self._bunch())
        if not self._pieces:
            raise StopAsyncIteration
        return self._pieces.popleft()

    @property
    def prompt_logprobs(self) -> list[PromptLogprob]:
        """Of the prompt's tokens, as far as they are there: all of them once the first token has come."""
        return self._reply.prompt_logprobs()

    async def bunches(self) -> AsyncIterator[list[Piece]]:
        """All pieces that have come since the last look, at least one."""
        while pieces := await self._bunch():
            yield pieces

    async def _bunch(self) -> list[Piece]:
        """Empty at the end."""
        pieces: list[Piece] = []
        while not pieces and not self._done:
            if not self._events:
                await self._receive()
            while self._events and not (pieces and isinstance(self._events[0], FinishEvent)):
                self._take(self._events.popleft(), pieces)
        return pieces

    async def _receive(self) -> None:
        try:
            self._events.extend(await self._mailbox.take())
        except BaseException:  # the task is cancelled
            self._engine.cancel(self._reply.request)
            raise

    def _take(self, event: Event, pieces: list[Piece]) -> None:
        if isinstance(event, TokenEvent):
            if not self._reply.stopped:
                pieces.append(self._reply.token(event))
                if self._reply.stopped:
                    self._engine.cancel(self._reply.request)
        elif isinstance(event, PromptEvent):
            self._reply.prompt(event)
        elif isinstance(event, FinishEvent):
            self._done = True
            last, self.completion = self._reply.finish(event)
            if last:
                pieces.append(Piece(last, [], [], []))

    async def aclose(self) -> None:
        """Cancel the request if it still runs, and wait until the engine has let it go."""
        if not self._done:
            self._engine.cancel(self._reply.request)
        while not self._done:
            with suppress(FreeholdError):
                await self._bunch()

    def __del__(self) -> None:
        if not self._done:
            self._engine.cancel(self.request)


class Mailbox:
    """The events of one stream, for one task of an event loop."""

    def __init__(self, loop: "asyncio.AbstractEventLoop"):
        self._loop = loop
        self._events: list[Event] = []
        self._waiter: asyncio.Future[None] | None = None

    async def take(self) -> list[Event]:
        """All events that have come, at least one."""
        while not self._events:
            self._waiter = self._loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        events, self._events = self._events, []
        return events

    def put(self, event: Event) -> None:
        """Called in the loop."""
        self._events.append(event)
        if self._waiter and not self._waiter.done():
            self._waiter.set_result(None)


class LoopInbox:
    """Carries events from the engine's thread to the mailboxes of one event loop.

    The loop is woken once for all events that come before it looks: one step of the engine gives many.
    """

    def __init__(self, loop: "asyncio.AbstractEventLoop"):
        self._loop = weakref.ref(loop)
        self._lock = threading.Lock()
        self._events: list[tuple[Mailbox, Event]] = []

    @classmethod
    def of(cls, loop: "asyncio.AbstractEventLoop") -> "LoopInbox":
        """The loop's own; to be called in the loop."""
        inbox = _inboxes.get(loop)
        if inbox is None:
            inbox = _inboxes[loop] = cls(loop)
        return inbox

    def put(self, mailbox: Mailbox, event: Event) -> None:
        """Called by any thread. Raises RuntimeError when the loop is closed."""
        with self._lock:
            self._events.append((mailbox, event))
            first = len(self._events) == 1
        if first:
            try:
                if loop := self._loop():
                    loop.call_soon_threadsafe(self._deliver)
            except RuntimeError:
                self._events.clear()
                raise

    def _deliver(self) -> None:
        with self._lock:
            delivered, self._events = self._events, []
        for mailbox, event in delivered:
            mailbox.put(event)


_inboxes: "weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, LoopInbox]" = weakref.WeakKeyDictionary()
