"""One reply, whatever the protocol: from messages and options to a stream of deltas."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from pydantic_core import from_json

from freehold.api import AsyncStream, Completion, Piece
from freehold.serve.constraints import constraint_of
from freehold.serve.errors import ServeError
from freehold.serve.guard import Caller
from freehold.serve.logs import note
from freehold.serve.pool import Served
from freehold.text.deltas import Delta, Reasoning, Text, ToolCallArguments, ToolCallEnd, ToolCallStart

TAIL_TOKENS = 64  # of the prompt, that say how the reply begins


@dataclass(slots=True)
class Options:
    """What a request asks of its replies. `sampling`: keywords of `Model.stream`."""

    sampling: dict[str, Any] = field(default_factory=dict)
    n: int = 1
    tools: list[dict[str, Any]] = field(default_factory=list)  # in OpenAI's shape
    tool_choice: str = "auto"  # "auto", "none", "required" or a tool's name
    parallel_tools: bool = True
    grammar: str | None = None  # of the answer
    answer_schema: Any = None  # of the answer, where the grammar is that of a JSON schema
    variables: dict[str, Any] = field(default_factory=dict)  # of the chat template
    thinks: bool | None = None  # False: the model may not reason; None: as it likes
    reasoning_budget: int | None = None  # tokens


@dataclass(slots=True)
class Step:
    """What has come since the step before."""

    deltas: list[Delta]
    pieces: list[Piece]

    @property
    def tokens(self) -> list[tuple[int, float, list[tuple[int, float]]]]:
        """(token, log-probability, likeliest) of each."""
        return [token for p in self.pieces for token in zip(p.token_ids, p.logprobs, p.top_logprobs, strict=True)]


class Reply:
    """An async iterator of Steps; then `completion` and `finish_reason` are there."""

    def __init__(self, served: Served, stream: AsyncStream, parser: Any, caller: Caller):
        self._stream, self._parser, self._caller = stream, parser, caller
        self.served = served
        self.completion: Completion | None = None
        self.finish_reason = ""
        self.reasoning_tokens = 0
        self._called = False
        self._last_at = 0.0
        self._gaps = served.metrics.gaps(served.name)

    async def __aiter__(self) -> AsyncIterator[Step]:
        async for pieces in self._stream.bunches():
            yield self._step(pieces)
        completion = self.completion = self._stream.completion
        if completion is None or completion.finish_reason == "cancelled":
            raise ServeError(503, "the server is stopping: the reply is not whole", "draining", retry_after_s=5)
        if last := self._noted(self._parser.finish() if self._parser else []):
            yield Step(last, [])
        reason = completion.finish_reason
        self.finish_reason = "tool_calls" if self._called and reason == "stop" else reason
        self._note(completion)

    async def aclose(self) -> None:
        await self._stream.aclose()

    def echoed(self) -> list[Any]:
        """(token, log-probability, likeliest) of the prompt's tokens, where they were asked for."""
        known = self._stream.prompt_logprobs
        return [(entry.token, entry.logprob, None if entry.logprob is None else entry.top) for entry in known]

    def _step(self, pieces: list[Piece]) -> Step:
        now = time.monotonic()
        if self._last_at:
            self._gaps.note(now - self._last_at)
        self._last_at = now
        text = "".join([piece.text for piece in pieces])
        if self._parser is None:
            return Step([Text(text)] if text else [], pieces)
        if self._parser.reasoning_open:
            self.reasoning_tokens += sum(len(piece.token_ids) for piece in pieces)
        return Step(self._noted(self._parser.push(text)), pieces)

    def _noted(self, deltas: list[Delta]) -> list[Delta]:
        for delta in deltas:
            if isinstance(delta, ToolCallEnd):
                self._called = delta.whole  # a stop string may have ended it inside its last call
        return deltas

    def _note(self, completion: Completion) -> None:
        self.served.metrics.replied(self.served.name, completion)
        usage, fields = completion.usage, self._caller.fields
        fields["model"] = self.served.name
        fields["prompt_tokens"] = usage.prompt_tokens
        fields["cached_tokens"] = usage.cached_tokens
        fields["reply_tokens"] = fields.get("reply_tokens", 0) + usage.completion_tokens
        fields["end"] = self.finish_reason
        if self._caller.logs_texts:
            note("reply", id=self._caller.id, text=completion.text)


async def chat_replies(
    served: Served, messages: Sequence[Mapping[str, Any]], options: Options, caller: Caller
) -> tuple[list[Reply], int]:
    """`options.n` replies to a conversation, running, and the number of the prompt's tokens."""
    tools = options.tools if options.tool_choice != "none" else []
    prompt, tail = await asyncio.to_thread(_prompt, served, messages, options, tools)
    _log_prompt(served, prompt, caller)
    replies: list[Reply] = []
    try:
        for index in range(options.n):
            constraint, is_grammar = await asyncio.to_thread(constraint_of, served, options, tools, tail)
            parser = None
            if served.format.name != "plain":
                parser = served.format.parser(tools=tools or None, prompt_tail=tail, constrained=is_grammar)
            stream = await served.model.astream(
                prompt,
                **_of_choice(options.sampling, index),
                salt=caller.salt,
                constraint=constraint,
                skip_special=parser is None,
            )
            replies.append(Reply(served, stream, parser, caller))
    except BaseException:
        await close_all(replies)
        raise
    return replies, len(prompt)


async def text_replies(served: Served, prompt: str | Sequence[int], options: Options, caller: Caller) -> list[Reply]:
    """`options.n` continuations of a prompt."""
    _log_prompt(served, prompt, caller)
    replies: list[Reply] = []
    try:
        for index in range(options.n):
            constraint = await asyncio.to_thread(served.matcher, options.grammar) if options.grammar else None
            sampling = _of_choice(options.sampling, index)
            stream = await served.model.astream(prompt, **sampling, salt=caller.salt, constraint=constraint)
            replies.append(Reply(served, stream, None, caller))
    except BaseException:
        await close_all(replies)
        raise
    return replies


async def close_all(replies: Sequence[Reply]) -> None:
    for reply in replies:
        await reply.aclose()


async def gather(replies: Sequence[Reply]) -> list[tuple[list[Delta], list[Any]]]:
    """All deltas and tokens of each reply. If one fails or the caller is cancelled, all are closed."""

    async def one(reply: Reply) -> tuple[list[Delta], list[Any]]:
        deltas: list[Delta] = []
        tokens: list[Any] = []
        async for step in reply:
            deltas += step.deltas
            tokens += step.tokens
        return deltas, tokens

    try:
        return list(await asyncio.gather(*(one(reply) for reply in replies)))
    finally:
        await close_all(replies)


async def merged(replies: Sequence[Reply]) -> AsyncIterator[tuple[int, Step | None]]:
    """(which reply, its step) as they come; a None at the end of each."""
    if len(replies) == 1:
        async for step in replies[0]:
            yield 0, step
        yield 0, None
        return
    steps: asyncio.Queue[tuple[int, Any]] = asyncio.Queue()

    async def read(index: int) -> None:
        try:
            async for step in replies[index]:
                steps.put_nowait((index, step))
            steps.put_nowait((index, None))
        except Exception as error:
            steps.put_nowait((index, error))

    tasks = [asyncio.ensure_future(read(index)) for index in range(len(replies))]
    try:
        left = len(replies)
        while left:
            index, step = await steps.get()
            if isinstance(step, Exception):
                raise step
            left -= step is None
            yield index, step
    finally:
        for task in tasks:
            task.cancel()


def assemble(deltas: Sequence[Delta]) -> tuple[str, str, list[dict[str, Any]]]:
    """(answer, reasoning, calls in OpenAI's shape) of a whole reply."""
    answer, reasoning = [], []
    calls: list[dict[str, Any]] = []
    for delta in deltas:
        match delta:
            case Text(text):
                answer.append(text)
            case Reasoning(text):
                reasoning.append(text)
            case ToolCallStart(_, ident, name):
                calls.append({"id": ident, "type": "function", "function": {"name": name, "arguments": ""}})
            case ToolCallArguments(index, fragment):
                calls[index]["function"]["arguments"] += fragment
    return "".join(answer), "".join(reasoning), calls


def arguments_of(call: str) -> dict[str, Any]:
    """A call's arguments as an object: of one that was cut short, those that are whole; none where it is no JSON."""
    try:
        arguments = from_json(call or "{}", allow_partial=True)
    except ValueError:
        return {}
    return arguments if isinstance(arguments, dict) else {}


def _prompt(
    served: Served, messages: Sequence[Mapping[str, Any]], options: Options, tools: list[dict[str, Any]]
) -> tuple[list[int], str]:
    """The prompt's tokens and its end as text."""
    model = served.model
    prompt = model.chat_tokens(template_messages(messages), tools=tools or None, **options.variables)
    tail = model.detokenize(prompt[-TAIL_TOKENS:], skip_special=False)
    if options.thinks is False and served.format.reasoning and served.format.parser(prompt_tail=tail).reasoning_open:
        prompt += model.tokenizer.encode(served.format.forced, special=True)  # a template without a switch opens it
        tail += served.format.forced
    return prompt, tail


def _log_prompt(served: Served, prompt: str | Sequence[int], caller: Caller) -> None:
    if caller.logs_texts:
        text = prompt if isinstance(prompt, str) else served.model.detokenize(prompt, skip_special=False)
        note("prompt", id=caller.id, text=text)


def _of_choice(sampling: dict[str, Any], index: int) -> dict[str, Any]:
    """Choices of one request differ: each has a seed of its own."""
    seed = sampling.get("seed")
    return sampling if seed is None or not index else sampling | {"seed": (seed + index) % (1 << 64)}


def template_messages(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Messages as chat templates want them: text for content, objects for the arguments of calls."""
    return [_message(dict(message)) for message in messages]


def _message(message: dict[str, Any]) -> dict[str, Any]:
    if message["role"] == "developer":
        message["role"] = "system"
    message["content"] = text_of(message.get("content"))
    calls = message.get("tool_calls")
    if calls:
        message["tool_calls"] = [_call(call) for call in calls]
    else:
        message.pop("tool_calls", None)
    return {key: value for key, value in message.items() if value is not None or key == "content"}


def _call(call: Mapping[str, Any]) -> dict[str, Any]:
    function = dict(call["function"])
    with suppress(ValueError):  # a model's own words that are not JSON are shown to it as they were
        function["arguments"] = json.loads(function.get("arguments") or "{}")
    return {**call, "function": function}


def text_of(content: Any) -> str:
    """The text of a message's content: a text, or parts of the type "text"."""
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list) or not all(isinstance(part, dict) for part in content):
        raise ServeError(400, "content: expected a text, or a list of parts with a type each", None, "messages")
    texts = []
    for part in content:
        kind = part.get("type")
        if kind not in ("text", "input_text", "output_text") or not isinstance(part.get("text"), str):
            raise ServeError(
                400, f"content: parts of type {str(kind)[:50]!r} are not supported, only text", None, "messages"
            )
        texts.append(part["text"])
    return "".join(texts)
