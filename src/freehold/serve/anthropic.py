"""Anthropic's messages."""

import asyncio
import json
import secrets
from collections.abc import AsyncGenerator
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from freehold.serve.body import JsonRoute
from freehold.serve.chat import Options, Reply, arguments_of, assemble, chat_replies, gather, template_messages, text_of
from freehold.serve.constraints import thinking_variables
from freehold.serve.errors import ServeError
from freehold.serve.pool import Served
from freehold.serve.shapes.anthropic import CountRequest, MessagesRequest, ToolChoice
from freehold.serve.shapes.common import least_top_p
from freehold.serve.sse import EventStream, event, until_gone
from freehold.text.deltas import Reasoning, Text, ToolCallArguments, ToolCallStart

router = APIRouter(route_class=JsonRoute)
STOP_REASONS = {"length": "max_tokens", "tool_calls": "tool_use", "stop": "end_turn", "cancelled": "end_turn"}


@router.post("/v1/messages")
async def messages(body: MessagesRequest, request: Request) -> Response:
    """A reply to a conversation, at once or as a stream of events."""
    options = _options(body)
    if body.stream:
        return EventStream(_events(request, body, options), request, _error_event)

    async def answer() -> dict[str, Any]:
        async with request.app.state.pool.use(body.model) as served:
            replies, num_prompt = await chat_replies(served, openai_messages(body), options, request.state.caller)
            ((deltas, _),) = await gather(replies)
            message = _message(served, num_prompt)
            message["content"] = _content(*assemble(deltas))
            return message | _stopped(replies[0]) | {"usage": _usage(replies[0], num_prompt)}

    return JSONResponse(await until_gone(request, answer()))


@router.post("/v1/messages/count_tokens")
async def count_tokens(body: CountRequest, request: Request) -> Response:
    """The number of tokens of a conversation as the model's template writes it."""
    async with request.app.state.pool.use(body.model) as served:
        variables = thinking_variables(_thinks(body))
        conversation, tools = template_messages(openai_messages(body)), _tools(body) or None
        prompt = await asyncio.to_thread(served.model.chat_tokens, conversation, tools=tools, **variables)
        return JSONResponse({"input_tokens": len(prompt)})


def _error_event(error: dict[str, Any]) -> str:
    return event(error, "error")


def _options(body: MessagesRequest) -> Options:
    sampling: dict[str, Any] = {"temperature": 1.0, "top_p": 1.0, "max_tokens": body.max_tokens}
    sampling |= {
        name: value for name in ("temperature", "top_p", "top_k") if (value := getattr(body, name)) is not None
    }
    sampling["top_p"] = least_top_p(sampling["top_p"])
    sampling["stop"] = [text for text in body.stop_sequences or () if text]
    choice, parallel = _tool_choice(body.tool_choice)
    thinks = _thinks(body)
    return Options(
        sampling=sampling,
        tools=_tools(body),
        tool_choice=choice,
        parallel_tools=parallel,
        variables=thinking_variables(thinks),
        thinks=thinks,
        reasoning_budget=body.thinking.budget_tokens if body.thinking and thinks else None,
    )


def _thinks(body: CountRequest) -> bool | None:
    return None if body.thinking is None else body.thinking.type != "disabled"


def _tools(body: CountRequest) -> list[dict[str, Any]]:
    return [
        {
            "type": "function",
            "function": {"name": tool.name, "description": tool.description or "", "parameters": tool.input_schema},
        }
        for tool in body.tools or ()
    ]


def _tool_choice(choice: ToolChoice | None) -> tuple[str, bool]:
    """(OpenAI's word for it, whether several calls may be made)"""
    if choice is None:
        return "auto", True
    if choice.type == "tool" and choice.name is None:
        raise ServeError(400, "tool_choice: type tool needs a name", "invalid_value", "tool_choice")
    word = choice.name if choice.type == "tool" else {"any": "required"}.get(choice.type, choice.type)
    return str(word), not choice.disable_parallel_tool_use


def openai_messages(body: CountRequest) -> list[dict[str, Any]]:
    """The conversation in OpenAI's shape."""
    converted: list[dict[str, Any]] = []
    if system := text_of(body.system):
        converted.append({"role": "system", "content": system})
    for message in body.messages:
        if isinstance(message.content, str):
            converted.append({"role": message.role, "content": message.content})
        else:
            converted += _blocks(message.role, message.content)
    return converted


def _blocks(role: str, blocks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    results, texts, calls, thoughts = [], [], [], []
    for block in blocks:
        match block:
            case {"type": "text", "text": str(text)}:
                texts.append(text)
            case {"type": "thinking", "thinking": str(text)}:
                thoughts.append(text)
            case {"type": "redacted_thinking"}:
                pass
            case {"type": "tool_use", "id": str(ident), "name": str(name), "input": dict(arguments)}:
                function = {"name": name, "arguments": json.dumps(arguments)}
                calls.append({"id": ident, "type": "function", "function": function})
            case {"type": "tool_result", "tool_use_id": str(ident)}:
                results.append({"role": "tool", "tool_call_id": ident, "content": text_of(block.get("content"))})
            case _:
                raise ServeError(
                    400, f"content: block {str(block.get('type'))[:50]!r} cannot be read", None, "messages"
                )
    message: dict[str, Any] = {"role": role, "content": "".join(texts)}
    if thoughts:
        message["reasoning_content"] = "".join(thoughts)
    if calls:
        message["tool_calls"] = calls
    return [*results, *([message] if texts or calls or not results else [])]


def _message(served: Served, num_prompt: int) -> dict[str, Any]:
    return {
        "id": f"msg_{secrets.token_hex(12)}",
        "type": "message",
        "role": "assistant",
        "model": served.name,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {"input_tokens": num_prompt, "output_tokens": 0},
    }


def _content(answer: str, reasoning: str, calls: list[dict[str, Any]]) -> list[dict[str, Any]]:
    blocks: list[dict[str, Any]] = []
    if reasoning:
        blocks.append({"type": "thinking", "thinking": reasoning, "signature": ""})
    if answer or not (reasoning or calls):
        blocks.append({"type": "text", "text": answer, "citations": None})
    for call in calls:
        function = call["function"]
        arguments = arguments_of(function["arguments"])
        blocks.append({"type": "tool_use", "id": call["id"], "name": function["name"], "input": arguments})
    return blocks


def _stopped(reply: Reply) -> dict[str, Any]:
    sequence = reply.completion.stop_text if reply.completion else None
    reason = "stop_sequence" if sequence is not None else STOP_REASONS[reply.finish_reason]
    return {"stop_reason": reason, "stop_sequence": sequence}


def _usage(reply: Reply, num_prompt: int) -> dict[str, Any]:
    usage = reply.completion.usage if reply.completion else None
    cached = usage.cached_tokens if usage else 0
    return {
        "input_tokens": num_prompt - cached,
        "cache_read_input_tokens": cached,
        "cache_creation_input_tokens": 0,
        "output_tokens": usage.completion_tokens if usage else 0,
    }


class _Blocks:
    """Events of content blocks, one open at a time."""

    def __init__(self) -> None:
        self._index, self._kind = -1, ""

    def delta(self, delta: Any) -> list[str]:
        match delta:
            case Text(text):
                return self._in("text", {"type": "text", "text": ""}, {"type": "text_delta", "text": text})
            case Reasoning(text):
                start = {"type": "thinking", "thinking": "", "signature": ""}
                return self._in("thinking", start, {"type": "thinking_delta", "thinking": text})
            case ToolCallStart(_, ident, name):
                return [*self.close(), self._open("tool", {"type": "tool_use", "id": ident, "name": name, "input": {}})]
            case ToolCallArguments(_, fragment):
                return [self._delta({"type": "input_json_delta", "partial_json": fragment})]
        return []

    def close(self) -> list[str]:
        if not self._kind:
            return []
        self._kind = ""
        return [event({"type": "content_block_stop", "index": self._index}, "content_block_stop")]

    def _in(self, kind: str, start: dict[str, Any], delta: dict[str, Any]) -> list[str]:
        opening = [] if self._kind == kind else [*self.close(), self._open(kind, start)]
        return [*opening, self._delta(delta)]

    def _open(self, kind: str, block: dict[str, Any]) -> str:
        self._index, self._kind = self._index + 1, kind
        start = {"type": "content_block_start", "index": self._index, "content_block": block}
        return event(start, "content_block_start")

    def _delta(self, delta: dict[str, Any]) -> str:
        return event({"type": "content_block_delta", "index": self._index, "delta": delta}, "content_block_delta")


async def _events(request: Request, body: MessagesRequest, options: Options) -> AsyncGenerator[str, None]:
    async with request.app.state.pool.use(body.model) as served:
        replies, num_prompt = await chat_replies(served, openai_messages(body), options, request.state.caller)
        blocks = _Blocks()
        try:
            yield event({"type": "message_start", "message": _message(served, num_prompt)}, "message_start")
            async for step in replies[0]:
                if text := "".join(text for delta in step.deltas for text in blocks.delta(delta)):
                    yield text
            for text in blocks.close():
                yield text
            end = {
                "type": "message_delta",
                "delta": _stopped(replies[0]),
                "usage": _usage(replies[0], num_prompt),
            }
            yield event(end, "message_delta")
            yield event({"type": "message_stop"}, "message_stop")
        finally:
            await replies[0].aclose()
