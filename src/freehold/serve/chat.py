"""One reply, whatever the protocol: from messages and options to a stream of deltas."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from freehold.api import AsyncStream, Completion, Piece
from freehold.serve.errors import ServeError
from freehold.serve.pool import Served
from freehold.text.deltas import Delta, Text, ToolCallStart

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
    variables: dict[str, Any] = field(default_factory=dict)  # of the chat template
    reasoning_budget: int | None = None  # tokens


@dataclass(frozen=True, slots=True)
class Step:
    """What has come since the step before: deltas, and (token, log-probability, likeliest) of its tokens."""

    deltas: list[Delta]
    tokens: list[tuple[int, float, list[tuple[int, float]]]]


class Reply:
    """An async iterator of Steps; then `completion` and `finish_reason` are there."""

    def __init__(self, served: Served, stream: AsyncStream, parser: Any):
        self._stream, self._parser = stream, parser
        self.served = served
        self.completion: Completion | None = None
        self.finish_reason = ""
        self.reasoning_tokens = 0
        self._called = False

    async def __aiter__(self) -> AsyncIterator[Step]:
        async for piece in self._stream:
            yield self._step(piece)
        self.completion = self._stream.completion
        if last := self._noted(self._parser.finish() if self._parser else []):
            yield Step(last, [])
        if self.completion:
            self.served.replied(self.completion)
        reason = self.completion.finish_reason if self.completion else "cancelled"
        self.finish_reason = "tool_calls" if self._called and reason == "stop" else reason

    async def aclose(self) -> None:
        await self._stream.aclose()

    def _step(self, piece: Piece) -> Step:
        if self._parser is None:
            deltas: list[Delta] = [Text(piece.text)] if piece.text else []
        else:
            self.reasoning_tokens += len(piece.token_ids) if self._parser.reasoning_open else 0
            deltas = self._noted(self._parser.push(piece.text))
        return Step(deltas, list(zip(piece.token_ids, piece.logprobs, piece.top_logprobs, strict=True)))

    def _noted(self, deltas: list[Delta]) -> list[Delta]:
        self._called = self._called or any(isinstance(delta, ToolCallStart) for delta in deltas)
        return deltas


async def chat_replies(
    served: Served, messages: Sequence[Mapping[str, Any]], options: Options, salt: bytes
) -> tuple[list[Reply], int]:
    """`options.n` replies to a conversation, running, and the number of the prompt's tokens."""
    tools = options.tools if options.tool_choice != "none" else []
    prompt = await asyncio.to_thread(
        served.model.chat_tokens, template_messages(messages), tools=tools or None, **options.variables
    )
    tail = served.model.detokenize(prompt[-TAIL_TOKENS:], skip_special=False)
    replies: list[Reply] = []
    try:
        for index in range(options.n):
            constraint, is_grammar = await asyncio.to_thread(_constraint, served, options, tools, tail)
            parser = None
            if served.format.name != "plain":
                parser = served.format.parser(tools=tools or None, prompt_tail=tail, constrained=is_grammar)
            sampling = _of_choice(options.sampling, index)
            stream = await served.model.astream(
                prompt, **sampling, salt=salt, constraint=constraint, skip_special=parser is None
            )
            replies.append(Reply(served, stream, parser))
    except BaseException:
        for reply in replies:
            await reply.aclose()
        raise
    return replies, len(prompt)


async def text_replies(served: Served, prompt: str | Sequence[int], options: Options, salt: bytes) -> list[Reply]:
    """`options.n` continuations of a prompt."""
    replies = []
    for index in range(options.n):
        constraint = await asyncio.to_thread(served.matcher, options.grammar) if options.grammar else None
        sampling = _of_choice(options.sampling, index)
        stream = await served.model.astream(prompt, **sampling, salt=salt, constraint=constraint)
        replies.append(Reply(served, stream, None))
    return replies


def _of_choice(sampling: dict[str, Any], index: int) -> dict[str, Any]:
    """Choices of one request differ: each has a seed of its own."""
    seed = sampling.get("seed")
    return sampling if seed is None or not index else sampling | {"seed": (seed + index) % (1 << 64)}


def _constraint(served: Served, options: Options, tools: list[dict[str, Any]], tail: str) -> tuple[Any, bool]:
    """(the reply's constraint or None, whether it is the grammar of the family's tool calls)."""
    from freehold.text.grammar import AfterReasoning

    whole = None
    if tools:
        whole = served.format.tool_grammar(
            tools, choice=options.tool_choice, parallel=options.parallel_tools, prompt_tail=tail
        )
    if tools and whole is None and options.tool_choice not in ("auto", "none"):
        raise ServeError(400, "tool_choice: calls of this model or schema cannot be required", None, "tool_choice")
    grammar = whole or options.grammar
    matcher = served.matcher(grammar) if grammar else None
    reasoning = served.format.reasoning
    if reasoning is None:
        return matcher, whole is not None
    thinks = served.format.parser(prompt_tail=tail).reasoning_open
    if options.reasoning_budget is None and (matcher is None or whole or not thinks):
        return matcher, whole is not None
    if not thinks and whole is None and matcher is not None:
        return matcher, False
    after = AfterReasoning(
        served.model.tokenizer,
        reasoning[1],
        budget=options.reasoning_budget if thinks else None,
        answer=matcher,
        whole=whole is not None,
    )
    return after, whole is not None


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
    texts = []
    for part in content:
        kind = part.get("type")
        if kind not in ("text", "input_text", "output_text") or not isinstance(part.get("text"), str):
            raise ServeError(
                400, f"content: parts of type {str(kind)[:50]!r} are not supported, only text", None, "messages"
            )
        texts.append(part["text"])
    return "".join(texts)


def effort_variables(effort: str | None) -> dict[str, Any]:
    """Variables by which chat templates of the families switch reasoning on and off."""
    if effort is None:
        return {}
    thinks = effort != "none"
    return {"reasoning_effort": effort, "enable_thinking": thinks, "thinking": thinks}


def response_grammar(format: Mapping[str, Any] | None) -> str | None:
    """The grammar of a `response_format` in OpenAI's shape. Raises RequestError for a schema that cannot be."""
    from freehold.text import grammar

    match format:
        case None | {"type": "text"}:
            return None
        case {"type": "json_object"}:
            return grammar.json_object()
        case {"type": "json_schema", "json_schema": {"schema": schema}} if isinstance(schema, (dict, bool)):
            return grammar.json_schema(schema)
        case {"type": "json_schema", "schema": schema} if isinstance(schema, (dict, bool)):
            return grammar.json_schema(schema)
        case {"type": "regex", "pattern": str(pattern)}:
            return grammar.regex(pattern)
        case {"type": "lark" | "grammar", "grammar": str(text)}:
            return grammar.lark(text)
        case {"type": "choice", "choices": list(choices)}:
            return grammar.choice(choices)
    kind = re.sub(r"[^\w-]", "?", str(format.get("type")))[:50]
    raise ServeError(400, f"response_format: type {kind!r} is unknown or lacks its schema", None, "response_format")
