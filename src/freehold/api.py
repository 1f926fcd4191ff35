"""The public Python face: a loaded model generates, chats, streams and gives logits, from any thread or task."""

import functools
import operator
import queue
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from freehold.embeddings import Embedded, PendingEmbedding
from freehold.engine.engine import Engine
from freehold.engine.memory import available_memory
from freehold.engine.request import Event, FinishEvent, LogitsEvent, Request, SamplingParams
from freehold.errors import EngineError, MemoryBudgetError, RequestError, TemplateError
from freehold.streams import (
    AsyncStream,
    Completion,
    LoopInbox,
    Mailbox,
    Piece,
    PromptLogprob,
    Reply,
    Stream,
    Timings,
    Usage,
)
from freehold.text.template import ChatTemplate, encode_chat
from freehold.text.tokenizer import Tokenizer

Messages = Sequence[Mapping[str, Any]]
MAX_STOPS = 16
MAX_IN_FLIGHT = 256  # requests of one generate_tokens that are submitted at a time


class Model:
    """A loaded model. A context manager; all methods may be called from several threads or tasks, which share steps.

    Sampling keywords of generate, chat and stream: those of `SamplingParams`; `stop`, a text or several, which the
    reply's text then lacks; `stop_ids`, tokens that end the reply beside the model's own; `ignore_eos=True`, which
    leaves out the model's own; `salt`, bytes without which prompts of others share no cached prefix with this one;
    `constraint`, a `Constraint` (see `text.grammar`) that the reply keeps to; `skip_special=False`, which shows special
    tokens in the text. Closing or dropping a stream cancels its
    request.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        template: ChatTemplate | None,
        executor: Any,
        engine: Engine,
        info: dict[str, Any],
    ):
        self.tokenizer = tokenizer
        self.executor = executor
        self.engine = engine
        self.info = info
        self._template = template

    def __enter__(self) -> "Model":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End all requests. The memory is free again once nobody holds the model any more."""
        self.engine.close()

    @property
    def template(self) -> ChatTemplate:
        """The model's own chat template. Raises TemplateError when it has none."""
        if self._template is None:
            raise TemplateError(
                "the model file has no chat template", "ask for a plain completion instead (freehold run --raw)"
            )
        return self._template

    @property
    def has_template(self) -> bool:
        return self._template is not None

    # Text and tokens.

    def tokenize(self, text: str, *, special: bool = False) -> list[int]:
        """Token ids of `text`, without BOS; `special` lets the texts of special tokens become their ids."""
        return self.tokenizer.encode(text, special=special)

    def detokenize(self, tokens: Sequence[int], *, skip_special: bool = True) -> str:
        """Text of token ids. Raises RequestError for what is none."""
        size = self.engine.executor.vocabulary_size
        try:
            unknown = [token for token in tokens if not 0 <= operator.index(token) < size]
        except TypeError as error:
            raise RequestError(f"tokens: expected token ids: {error}") from None
        if unknown:
            raise RequestError(f"tokens: token {unknown[0]} is not in the vocabulary of {size}")
        return self.tokenizer.decode(tokens, skip_special=skip_special)

    def chat_tokens(self, messages: Messages, *, tools: Any = None, **variables: Any) -> list[int]:
        """Token ids of a conversation, by the model's chat template."""
        return encode_chat(self.tokenizer, self.template, messages, tools=tools, **variables)

    def _prompt_tokens(self, prompt: str | Sequence[int]) -> Sequence[int]:
        if not isinstance(prompt, str):
            return prompt
        return [*self.tokenizer.prefix_ids, *self.tokenizer.encode(prompt)]

    # Replies.

    def generate(self, prompt: str | Sequence[int], **sampling: Any) -> Completion:
        """Continue `prompt` (text, or token ids used as they are)."""
        return _drain(self.stream(prompt, **sampling))

    def chat(self, messages: Messages, *, tools: Any = None, **sampling: Any) -> Completion:
        """Reply to a conversation of {"role": …, "content": …}."""
        return _drain(self.stream_chat(messages, tools=tools, **sampling))

    def stream(self, prompt: str | Sequence[int], **sampling: Any) -> Stream:
        events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        return Stream(self.engine, self._submit(self._prompt_tokens(prompt), events.put, sampling), events)

    def stream_chat(self, messages: Messages, *, tools: Any = None, **sampling: Any) -> Stream:
        return self.stream(self.chat_tokens(messages, tools=tools), **sampling)

    def generate_tokens(self, prompts: Sequence[Sequence[int]], **sampling: Any) -> list[Completion]:
        """Continue several prompts of token ids at once. If one fails, none goes on."""
        streams: deque[Stream] = deque()
        completions = []
        try:
            for prompt in prompts:
                streams.append(self.stream(prompt, **sampling))
                if len(streams) >= MAX_IN_FLIGHT:
                    completions.append(_drain(streams.popleft()))
            while streams:
                completions.append(_drain(streams.popleft()))
        finally:
            for stream in streams:
                self.engine.cancel(stream.request)
        return completions

    def logits(self, tokens: Sequence[int]) -> Any:
        """Logits after each token: float32 (len(tokens), vocabulary). Raises EngineError if the model is closed."""
        import numpy

        events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        request = Request(tokens, SamplingParams(), events.put, wants_logits=True)
        shape = (request.num_prompt, self.engine.executor.vocabulary_size)
        needed, available = 4 * shape[0] * shape[1], available_memory()
        if needed > available:
            raise MemoryBudgetError(f"the logits of {shape[0]} tokens", needed, available, "ask for fewer at a time")
        self.engine.submit(request)
        logits = numpy.empty(shape, numpy.float32)
        while not isinstance(event := events.get(), FinishEvent):
            if isinstance(event, LogitsEvent):
                logits[event.first : event.first + len(event.logits)] = event.logits
        if event.reason != "stop":
            raise event.error or EngineError("the model was closed before its logits were there")
        return logits

    @property
    def pooling(self) -> str:
        """How embeddings are made of hidden states: what the model's file says, "mean" where it says nothing."""
        return self.info["pooling"]

    def embed(self, prompts: Sequence[str | Sequence[int]], *, salt: bytes = b"") -> list[Embedded]:
        """A vector of length 1 for each prompt: `pooling` of the hidden states after the final norm."""
        _check_prompts(prompts)
        events: queue.SimpleQueue[tuple[int, Event]] = queue.SimpleQueue()
        embeddings = [
            self._submit_embedding(prompt, lambda event, i=i: events.put((i, event)), salt)
            for i, prompt in enumerate(prompts)
        ]
        while not all(embedding.is_done for embedding in embeddings):
            index, event = events.get()
            embeddings[index].take(event)
        return [embedding.result() for embedding in embeddings]

    def _submit_embedding(
        self, prompt: str | Sequence[int], sink: Callable[[Event], None], salt: bytes
    ) -> PendingEmbedding:
        tokens = list(self._prompt_tokens(prompt))
        if isinstance(prompt, str):
            tokens += self.tokenizer.suffix_ids
        request = Request(tokens, SamplingParams(), sink, wants_hidden=True, salt=salt)
        embedding = PendingEmbedding(request, self.pooling)
        self.engine.submit(request)
        return embedding

    def _submit(self, tokens: Sequence[int], sink: Callable[[Event], None], sampling: Mapping[str, Any]) -> Reply:
        options = dict(sampling)
        stops = _stops(options.pop("stop", None))
        stop_ids = _stop_ids(options.pop("stop_ids", ()))
        salt, constraint = options.pop("salt", b""), options.pop("constraint", None)
        skip_special = options.pop("skip_special", True)
        if not options.pop("ignore_eos", False):
            stop_ids |= self.tokenizer.eos_ids
        try:
            params = SamplingParams(**options)
        except TypeError as error:
            raise RequestError(f"sampling options: {error}") from None
        reply = Reply(self.tokenizer, stops, wants_top=params.logprobs > 0, skip_special=skip_special)
        reply.request = Request(tokens, params, sink, stop_ids=stop_ids, salt=salt, constraint=constraint)
        self.engine.submit(reply.request)
        return reply

    # The same for asyncio: nothing here blocks the event loop.

    async def astream(self, prompt: str | Sequence[int], **sampling: Any) -> AsyncStream:
        return await self._astream(lambda: self._prompt_tokens(prompt), sampling)

    async def astream_chat(self, messages: Messages, *, tools: Any = None, **sampling: Any) -> AsyncStream:
        return await self._astream(lambda: self.chat_tokens(messages, tools=tools), sampling)

    async def _astream(self, tokens: Callable[[], Sequence[int]], sampling: Mapping[str, Any]) -> AsyncStream:
        import asyncio

        loop = asyncio.get_running_loop()
        inbox, mailbox = LoopInbox.of(loop), Mailbox(loop)

        def sink(event: Event) -> None:
            inbox.put(mailbox, event)

        # The stream is made in the thread, so that a cancelled caller drops it and with it the request.
        return await _to_thread(lambda: AsyncStream(self.engine, self._submit(tokens(), sink, sampling), mailbox))

    async def agenerate(self, prompt: str | Sequence[int], **sampling: Any) -> Completion:
        return await _adrain(await self.astream(prompt, **sampling))

    async def achat(self, messages: Messages, *, tools: Any = None, **sampling: Any) -> Completion:
        return await _adrain(await self.astream_chat(messages, tools=tools, **sampling))

    async def alogits(self, tokens: Sequence[int]) -> Any:
        return await _to_thread(lambda: self.logits(tokens))

    async def aembed(self, prompts: Sequence[str | Sequence[int]], *, salt: bytes = b"") -> list[Embedded]:
        """As `embed`. Cancelled, it cancels its requests."""
        import asyncio

        _check_prompts(prompts)

        loop = asyncio.get_running_loop()
        inbox, embeddings = LoopInbox.of(loop), []
        try:
            for prompt in prompts:
                mailbox = Mailbox(loop)
                sink = functools.partial(inbox.put, mailbox)
                submit = functools.partial(self._submit_embedding, prompt, sink, salt)
                embeddings.append((await asyncio.to_thread(submit), mailbox))
            for embedding, mailbox in embeddings:
                while not embedding.is_done:
                    for event in await mailbox.take():
                        embedding.take(event)
        except BaseException:
            for embedding, _ in embeddings:
                self.engine.cancel(embedding.request)
            raise
        return [embedding.result() for embedding, _ in embeddings]

    async def atokenize(self, text: str, *, special: bool = False) -> list[int]:
        return await _to_thread(lambda: self.tokenize(text, special=special))

    async def adetokenize(self, tokens: Sequence[int], *, skip_special: bool = True) -> str:
        return await _to_thread(lambda: self.detokenize(tokens, skip_special=skip_special))


def _check_prompts(prompts: Any) -> None:
    if isinstance(prompts, str):  # whose characters would each be a prompt
        raise RequestError("prompts: expected a list of prompts, got one text")


def _stop_ids(tokens: Iterable[int]) -> frozenset[int]:
    try:
        return frozenset(operator.index(token) for token in tokens)
    except TypeError:
        raise RequestError(f"stop_ids: expected token ids, got {tokens!r}") from None


async def _to_thread(call: Callable[[], Any]) -> Any:
    import asyncio

    return await asyncio.to_thread(call)


def _stops(stop: str | Sequence[str] | None) -> list[str]:
    one = isinstance(stop, str) or not isinstance(stop, Iterable | None)
    stops: list[Any] = [stop] if one else list(stop or ())
    if len(stops) > MAX_STOPS or not all(isinstance(s, str) and s for s in stops):
        raise RequestError(f"stop: expected up to {MAX_STOPS} texts that are not empty, got {stop!r}")
    return stops


def _drain(stream: Stream) -> Completion:
    try:
        for _ in stream:
            pass
    except BaseException:
        stream.close()
        raise
    assert stream.completion is not None
    return stream.completion


async def _adrain(stream: AsyncStream) -> Completion:
    async for _ in stream:
        pass
    assert stream.completion is not None
    return stream.completion


__all__ = [
    "AsyncStream",
    "Completion",
    "Model",
    "Piece",
    "PromptLogprob",
    "Stream",
    "Timings",
    "Usage",
]
