"""OpenAI's chat completions."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from freehold.serve.body import JsonRoute
from freehold.serve.chat import Options, Reply, Step, assemble, chat_replies, close_all, gather, merged
from freehold.serve.constraints import effort_variables, response_grammar, thinking_variables
from freehold.serve.errors import ServeError
from freehold.serve.openai import DONE, Chunks, chosen_tool, head, token_entries, usage_of
from freehold.serve.shapes.openai import ChatRequest
from freehold.serve.sse import EventStream, event, until_gone
from freehold.text.deltas import Delta, Reasoning, Text, ToolCallArguments, ToolCallStart

router = APIRouter(route_class=JsonRoute)
_TEMPLATE_OWN = ("messages", "tools", "add_generation_prompt", "chat_template", "documents")


@router.post("/v1/chat/completions")
async def chat(body: ChatRequest, request: Request) -> Response:
    """A reply to a conversation, at once or as a stream of events."""
    options = await asyncio.to_thread(_options, body)
    if body.stream:
        return EventStream(_events(request, body, options), request, event)

    async def answer() -> dict[str, Any]:
        async with request.app.state.pool.use(body.model) as served:
            replies, num_prompt = await chat_replies(served, _messages(body), options, request.state.caller)
            gathered = await gather(replies)
            choices = [
                _choice(index, reply, *parts, bool(body.logprobs))
                for index, (reply, parts) in enumerate(zip(replies, gathered, strict=True))
            ]
            usage = usage_of(replies, num_prompt)
            return head("chat.completion", served, "chatcmpl") | {"choices": choices, "usage": usage}

    return JSONResponse(await until_gone(request, answer()))


def _messages(body: ChatRequest) -> list[dict[str, Any]]:
    return [message.model_dump(exclude_none=True) for message in body.messages]


def _options(body: ChatRequest) -> Options:
    keywords = body.keywords(body.max_completion_tokens or body.max_tokens)
    if body.logprobs:
        keywords["logprobs"] = body.top_logprobs or 0
    elif body.top_logprobs:
        raise ServeError(400, "top_logprobs: needs logprobs", "invalid_value", "top_logprobs")
    budget = body.reasoning_budget
    if budget is None and body.thinking is not None:
        budget = body.thinking.budget_tokens
    grammar, schema = response_grammar(body.response_format)
    return Options(
        sampling=keywords,
        n=body.n or 1,
        tools=[tool.model_dump(exclude_none=True) for tool in body.tools or ()],
        tool_choice=chosen_tool(body.tool_choice),
        parallel_tools=body.parallel_tool_calls is not False,
        grammar=grammar,
        answer_schema=schema,
        variables=_variables(body),
        thinks=False if budget == 0 else body.thinks,
        reasoning_budget=budget,
    )


def _variables(body: ChatRequest) -> dict[str, Any]:
    variables = effort_variables(body.reasoning_effort) | thinking_variables(body.thinks)
    for name, value in (body.chat_template_kwargs or {}).items():
        if name in _TEMPLATE_OWN or not name.isidentifier() or name.startswith("_"):
            raise ServeError(400, f"chat_template_kwargs: {name[:50]!r} cannot be set", None, "chat_template_kwargs")
        variables[name] = value
    return variables


def _choice(index: int, reply: Reply, deltas: list[Delta], tokens: list[Any], logprobs: bool) -> dict[str, Any]:
    answer, reasoning, calls = assemble(deltas)
    message: dict[str, Any] = {"role": "assistant", "content": answer if answer or not calls else None, "refusal": None}
    if reasoning:
        message["reasoning_content"] = reasoning
    if calls:
        message["tool_calls"] = calls
    found = _logprobs(reply, tokens) if logprobs else None
    return {"index": index, "message": message, "logprobs": found, "finish_reason": reply.finish_reason}


def _logprobs(reply: Reply, tokens: Sequence[Any]) -> dict[str, Any]:
    return {"content": token_entries(reply.served.model.tokenizer, tokens), "refusal": None}


async def _events(request: Request, body: ChatRequest, options: Options) -> AsyncGenerator[str, None]:
    async with request.app.state.pool.use(body.model) as served:
        replies, num_prompt = await chat_replies(served, _messages(body), options, request.state.caller)
        try:
            top = head("chat.completion.chunk", served, "chatcmpl")
            with_usage = body.stream_options is not None and body.stream_options.include_usage
            if with_usage:
                top["usage"] = None
            chunks = Chunks(top, "delta")
            for index in range(len(replies)):
                yield chunks.chunk(index, {"role": "assistant", "content": ""})
            async for index, step in merged(replies):
                if step is None:
                    yield chunks.chunk(index, {}, replies[index].finish_reason)
                elif text := _step_text(chunks, index, replies[index], step, bool(body.logprobs)):
                    yield text
            if with_usage:
                timings = [asdict(reply.completion.timings) for reply in replies if reply.completion]
                yield event(top | {"choices": [], "usage": usage_of(replies, num_prompt), "timings": timings})
            yield DONE
        finally:
            await close_all(replies)


def _step_text(chunks: Chunks, index: int, reply: Reply, step: Step, logprobs: bool) -> str:
    if not logprobs:
        return "".join(chunks.chunk(index, found) for delta in step.deltas if (found := _delta(delta)))
    choices = [_delta(delta) for delta in step.deltas] or [{"content": ""}]
    found: Any = _logprobs(reply, step.tokens)
    texts = []
    for delta in filter(None, choices):
        texts.append(chunks.chunk(index, delta, logprobs=found))
        found = None  # with the first only
    return "".join(texts)


def _delta(delta: Delta) -> dict[str, Any]:
    match delta:
        case Text(text):
            return {"content": text}
        case Reasoning(text):
            return {"reasoning_content": text}
        case ToolCallStart(index, ident, name):
            function = {"name": name, "arguments": ""}
            return {"tool_calls": [{"index": index, "id": ident, "type": "function", "function": function}]}
        case ToolCallArguments(index, fragment):
            return {"tool_calls": [{"index": index, "function": {"arguments": fragment}}]}
    return {}
