"""The public Python face: load a model, and generate, chat, stream or ask for logits, from any thread or task."""

import functools
import operator
import queue
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from freehold.embeddings import Embedded, PendingEmbedding, pooling_of
from freehold.engine.engine import Engine
from freehold.engine.memory import available_memory, budget_experts, budget_kv_blocks
from freehold.engine.request import Event, FinishEvent, LogitsEvent, Request, SamplingParams
from freehold.errors import EngineError, MemoryBudgetError, RequestError, TemplateError
from freehold.executors.choice import choose
from freehold.executors.native import memory_plan, native_sampler
from freehold.models.mtp import next_token_layer
from freehold.models.parameters import named_parameters
from freehold.models.registry import model_for, unused_tensors
from freehold.store.references import StoredModel, resolve
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
from freehold.text.source import describe_text, read_text
from freehold.text.template import ChatTemplate, encode_chat
from freehold.text.tokenizer import Tokenizer
from freehold.weights.checkpoint import Checkpoint
from freehold.weights.open import open_checkpoint
from freehold.weights.quantize import quantize_tensors, scheme_of

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
        """End all requests and free the memory."""
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


def _stop_ids(tokens: Iterable[int]) -> frozenset[int]:
    try:
        return frozenset(operator.index(token) for token in tokens)
    except TypeError:
        raise RequestError(f"stop_ids: expected token ids, got {tokens!r}") from None


async def _to_thread(call: Callable[[], Any]) -> Any:
    import asyncio

    return await asyncio.to_thread(call)


def _stops(stop: str | Sequence[str] | None) -> list[str]:
    stops = [stop] if isinstance(stop, str) else list(stop or ())
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


def load(
    ref: str | None = None,
    *,
    dtype: str | None = None,
    threads: int | None = None,
    context: int | None = None,
    kv_format: str = "f16",
    executor: str = "native",
    device: str = "cpu",
    quantize: str | None = None,
    max_waiting: int = 1024,
    speculate: bool = True,
    memory_bytes: int | None = None,
    progress: Any = None,
) -> Model:
    """Load a model: a path to a GGUF file or to a folder as labs publish them (config.json, .safetensors, tokenizer), a
    name in the catalogue, or None for the catalogue's first.

    `dtype="float32"` evaluates the weights and the KV cache in float32. `executor="torch"` runs the model on
    tensors, on `device` "cpu" (in float32) or "cuda" (in bfloat16, or as `dtype` says). `context` defaults to what the
    model was trained for. `quantize` ("q8_0", "q4_k_m"…): unquantized weights are quantized while they load.
    `speculate`: a single reply is computed several tokens at a time where text repeats itself or the checkpoint has a
    layer that foresees the next token, which is loaded where it fits; which tokens come does not depend on it. More
    than `max_waiting` requests that wait are refused (QueueFullError). Memory, at most `memory_bytes` of what there is,
    is budgeted before any is taken (MemoryBudgetError with both figures).
    """
    stored = resolve(ref, progress=progress)
    checkpoint = open_checkpoint(stored.path)
    model = model_for(checkpoint)
    if quantize is not None:
        checkpoint = _quantized(checkpoint, model, quantize)
    config = model.config
    context = _check_context(context, config.context_length)
    choice = choose(executor, device=device, dtype=dtype, threads=threads, kv_format=kv_format)
    measure = choice.available_bytes or available_memory
    next_token = next_token_layer(model, checkpoint.tensors) if speculate else None
    plan, next_token = _plan(
        lambda layer: choice.plan(model, checkpoint, layer), next_token, context, _at_most(measure(), memory_bytes)
    )
    num_blocks, experts_bytes = _budget(plan, context, _at_most(measure(), memory_bytes))
    # Made ready while the weights are repacked.
    text = _Background(lambda: read_text(checkpoint.metadata, checkpoint.folder))
    if experts_bytes is not None:  # experts take all that is left, so that what the text takes must be known first
        text.result()
        num_blocks, experts_bytes = _budget(plan, context, _at_most(measure(), memory_bytes))
    runner = choice.make(model, checkpoint, next_token, num_blocks, experts_bytes)
    tokenizer, template = text.result()
    if tokenizer.vocab_size > config.vocabulary_size:
        tokens, rows = tokenizer.vocab_size, config.vocabulary_size
        raise RequestError(f"{stored.path}: {tokens} tokens in the vocabulary, {rows} rows in the embedding")
    engine = Engine(runner, native_sampler, context=context, max_waiting=max_waiting, speculates=speculate)
    info = _info(stored, checkpoint, model, next_token, context, plan, experts_bytes)
    info |= {"executor": executor, **runner.info, "kv_tokens": num_blocks * plan.block_size}
    return Model(tokenizer, template, runner, engine, info)


def _at_most(available: int, memory_bytes: int | None) -> int:
    return available if memory_bytes is None else min(available, memory_bytes)


def _plan(plan_with: Callable[[Any], Any], next_token: Any, context: int, available: int) -> tuple[Any, Any]:
    """What memory the model takes with its layer for speculation, and the layer; None where not all of it fits.

    A guess that has experts read from the file would cost more than it saves.
    """
    if next_token is not None:
        plan = plan_with(next_token)
        context_bytes = -(-context // plan.block_size) * plan.block_bytes
        if plan.weights_bytes + plan.activations_bytes + context_bytes <= available:
            return plan, next_token
    return plan_with(None), None


def _budget(plan: Any, context: int, available: int) -> tuple[int, int | None]:
    """(KV blocks, bytes for experts or None where all are in memory). Raises MemoryBudgetError."""
    fixed, experts_bytes = plan.weights_bytes + plan.activations_bytes, _experts_bytes(plan, context, available)
    if experts_bytes is not None:
        fixed += experts_bytes - plan.experts_bytes
    num_blocks = budget_kv_blocks(fixed, plan.block_bytes, plan.block_size, context, available)
    return (num_blocks if experts_bytes is None else -(-context // plan.block_size)), experts_bytes


def _experts_bytes(plan: Any, context: int, available: int) -> int | None:
    context_bytes = -(-context // plan.block_size) * plan.block_bytes
    return budget_experts(plan.weights_bytes + plan.activations_bytes, plan.experts_bytes, context_bytes, available)


class _Background:
    """A call in a thread of its own (`concurrent.futures` takes longer to import than a small model to load)."""

    def __init__(self, call: Callable[[], Any]):
        self._call = call
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._result, self._error = self._call(), None
        except BaseException as error:
            self._error = error

    def result(self) -> Any:
        self._thread.join()
        if self._error:
            raise self._error
        return self._result


def _quantized(checkpoint: Checkpoint, model: Any, name: str) -> Checkpoint:
    scheme, config = scheme_of(name), model.config
    named = named_parameters(model, checkpoint.tensors)
    used = {name: named[name] for name in model.parameter_shapes()}
    router, tied = getattr(model, "routing", None), config.tied_embeddings
    made = quantize_tensors(used, scheme, num_layers=config.num_layers, router=router, tied=tied)
    return replace(checkpoint, tensors=named | made)


def _check_context(context: int | None, trained: int) -> int:
    if context is None:
        return trained
    if not isinstance(context, int) or not 2 <= context <= trained:
        raise RequestError(f"context: expected 2 to {trained} tokens, as the model was trained, got {context!r}")
    return context


def describe(ref: str | None = None, *, context: int | None = None, kv_format: str = "f16") -> dict[str, Any]:
    """What a model is, from its file alone: no weights are read."""
    stored = resolve(ref)
    checkpoint = open_checkpoint(stored.path)
    model = model_for(checkpoint)
    context = _check_context(context, model.config.context_length)
    plan, next_token = _plan(
        lambda layer: memory_plan(model, checkpoint, kv_format=kv_format, next_token=layer),
        next_token_layer(model, checkpoint.tensors),
        context,
        available := available_memory(),
    )
    experts_bytes = _experts_bytes(plan, context, available)
    return _info(stored, checkpoint, model, next_token, context, plan, experts_bytes)


def _info(
    stored: StoredModel,
    checkpoint: Checkpoint,
    model: Any,
    next_token: Any,
    context: int,
    plan: Any,
    experts_bytes: int | None,
) -> dict[str, Any]:
    metadata, config = checkpoint.metadata, model.config
    formats: dict[str, Counter[str]] = {}
    tensors = checkpoint.tensors if checkpoint.config is None else named_parameters(model, checkpoint.tensors)
    for name, tensor in tensors.items():
        kind = ".".join(
            part for part in name.split(".") if part not in ("blk", "model", "layers", "weight") and not part.isdigit()
        )
        formats.setdefault(kind, Counter())[tensor.format] += 1
    kv_bytes_per_token = plan.block_bytes // plan.block_size
    return {
        "name": metadata.get("general.name", stored.name),
        "file": str(stored.path),
        "file_bytes": sum(path.stat().st_size for path in checkpoint.paths),
        "sha256": stored.sha256,
        "architecture": config.architecture,
        "parameters": sum(_count(tensor.shape) for tensor in tensors.values()),
        "layers": config.num_layers,
        "hidden_size": config.hidden_size,
        "heads": config.num_heads,
        "kv_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "vocabulary_size": config.vocabulary_size,
        "trained_context": config.context_length,
        "context": context,
        "pooling": pooling_of(metadata),
        "quantization": {kind: dict(counts) for kind, counts in formats.items()},
        **describe_text(metadata, checkpoint.folder),
        "next_token_layer": next_token is not None,
        "unused": _places(unused_tensors(model, checkpoint.tensors, next_token)),
        "licence": {key: metadata[key] for key in metadata if key.startswith("general.license")},
        "memory": {
            "weights_bytes": plan.weights_bytes,
            "experts_bytes": plan.experts_bytes,
            "experts_in_memory_bytes": plan.experts_bytes if experts_bytes is None else experts_bytes,
            "activations_bytes": plan.activations_bytes,
            "cache_formats": dict(plan.cache_formats),
            "kv_bytes_per_token": kv_bytes_per_token,
            "kv_bytes_at_context": kv_bytes_per_token * context,
            "total_bytes": plan.weights_bytes + plan.activations_bytes + kv_bytes_per_token * context,
        },
    }


def _places(names: Iterable[str]) -> dict[str, int]:
    """How many tensors lie where, by the first two parts of their names."""
    return dict(Counter(".".join(name.split(".")[:2]) for name in names))


def _count(shape: Sequence[int]) -> int:
    count = 1
    for length in shape:
        count *= length
    return count


__all__ = [
    "AsyncStream",
    "Completion",
    "Model",
    "Piece",
    "PromptLogprob",
    "Stream",
    "Timings",
    "Usage",
    "describe",
    "load",
]
