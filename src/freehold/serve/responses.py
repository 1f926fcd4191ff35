"""OpenAI's responses, after the Open Responses specification (openresponses.org): create, stream, go on, forget.

Where the specification's name for the event of a thought's text differs from OpenAI's, OpenAI's is sent, since the
clients are OpenAI's.
"""

import asyncio
import time
from collections.abc import AsyncGenerator
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from freehold.serve.body import JsonRoute
from freehold.serve.chat import Options, Reply, chat_replies
from freehold.serve.constraints import effort_variables, response_grammar
from freehold.serve.errors import of_error
from freehold.serve.openai import chosen_tool, token_entries
from freehold.serve.pool import Served
from freehold.serve.response_events import Items
from freehold.serve.response_items import input_items, messages_of, new_id
from freehold.serve.response_store import ResponseStore
from freehold.serve.shapes.common import least_top_p
from freehold.serve.shapes.responses import ResponsesRequest
from freehold.serve.sse import EventStream, event, until_gone

router = APIRouter(route_class=JsonRoute)


@router.post("/v1/responses")
async def create(body: ResponsesRequest, request: Request) -> Response:
    """A response to the input, at once or as a stream of events; kept, unless `store` is false, to go on from."""
    options = await asyncio.to_thread(_options, body)
    store: ResponseStore = request.app.state.responses
    caller = request.state.caller
    before = store.get(caller.salt, body.previous_response_id).messages if body.previous_response_id else []
    items = input_items(body.input)
    messages = [*before, *messages_of(items)]
    told = [{"role": "system", "content": body.instructions}] if body.instructions else []

    async def events() -> AsyncGenerator[str, None]:
        async with request.app.state.pool.use(body.model) as served:
            replies, _ = await chat_replies(served, [*told, *messages], options, caller)
            made = _Response(body, served)
            try:
                async for text in made.events(replies[0]):
                    yield text
                if made.failure and not body.stream:
                    raise made.failure
            finally:
                await replies[0].aclose()
            answers.append(made.response)
            if body.store is not False:
                store.put(caller.salt, made.response, [*messages, *messages_of(made.response["output"])], items)

    answers: list[dict[str, Any]] = []
    if body.stream:
        return EventStream(events(), request, _error_event)

    async def whole() -> dict[str, Any]:
        async for _ in events():
            pass
        return answers[0]

    return JSONResponse(await until_gone(request, whole()))


@router.get("/v1/responses/{ident}")
async def retrieve(ident: str, request: Request) -> Response:
    """A response that is still kept."""
    return JSONResponse(request.app.state.responses.get(request.state.caller.salt, ident).response)


@router.get("/v1/responses/{ident}/input_items")
async def retrieve_input(ident: str, request: Request) -> Response:
    """What a kept response was asked."""
    items = request.app.state.responses.get(request.state.caller.salt, ident).input_items
    named = [{"id": new_id("msg"), "type": "message", **item} for item in items]
    first, last = (named[0]["id"], named[-1]["id"]) if named else (None, None)
    return JSONResponse({"object": "list", "data": named, "first_id": first, "last_id": last, "has_more": False})


@router.delete("/v1/responses/{ident}")
async def delete(ident: str, request: Request) -> Response:
    """Forget a response."""
    request.app.state.responses.delete(request.state.caller.salt, ident)
    return JSONResponse({"id": ident, "object": "response.deleted", "deleted": True})


def _error_event(error: dict[str, Any]) -> str:
    found = error["error"]
    fields = {key: found[key] for key in ("code", "message", "param")}
    return event({"type": "error", "sequence_number": 0, **fields}, "error")


def _options(body: ResponsesRequest) -> Options:
    copied = ("temperature", "top_p", "presence_penalty", "frequency_penalty")
    sampling: dict[str, Any] = {"temperature": 1.0, "top_p": 1.0, "max_tokens": body.max_output_tokens}
    sampling |= {name: value for name in copied if (value := getattr(body, name)) is not None}
    sampling["top_p"] = least_top_p(sampling["top_p"])
    if body.seed is not None:
        sampling["seed"] = body.seed % (1 << 64)
    if body.top_logprobs:
        sampling["logprobs"] = body.top_logprobs
    reasoning = body.reasoning
    effort = reasoning.effort if reasoning else None
    grammar, schema = response_grammar(body.text.format if body.text else None)
    return Options(
        sampling=sampling,
        tools=[
            {
                "type": "function",
                "function": {"name": tool.name, "description": tool.description or ""}
                | ({"parameters": tool.parameters} if tool.parameters else {}),
            }
            for tool in body.tools or ()
        ],
        tool_choice=chosen_tool(body.tool_choice),
        parallel_tools=body.parallel_tool_calls is not False,
        grammar=grammar,
        answer_schema=schema,
        variables=effort_variables(effort),
        thinks=None if effort is None else effort != "none",
        reasoning_budget=reasoning.max_tokens if reasoning else None,
    )


class _Response:
    """The response object while it is made."""

    def __init__(self, body: ResponsesRequest, served: Served):
        self._tokenizer = served.model.tokenizer
        wanted = "message.output_text.logprobs" in (body.include or ()) or bool(body.top_logprobs)
        self._with_logprobs = wanted
        self.failure: Exception | None = None
        choice: Any = body.tool_choice
        format = body.text.format if body.text and body.text.format else {"type": "text"}
        effort = body.reasoning.effort if body.reasoning else None
        self.response: dict[str, Any] = {
            "id": new_id("resp"),
            "object": "response",
            "created_at": int(time.time()),
            "completed_at": None,
            "status": "in_progress",
            "error": None,
            "incomplete_details": None,
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "max_tool_calls": body.max_tool_calls,
            "model": served.name,
            "output": [],
            "parallel_tool_calls": body.parallel_tool_calls is not False,
            "previous_response_id": body.previous_response_id,
            "reasoning": {"effort": effort, "summary": None},
            "service_tier": "default",
            "store": body.store is not False,
            "background": False,
            "temperature": 1.0 if body.temperature is None else body.temperature,
            "top_p": 1.0 if body.top_p is None else body.top_p,
            "presence_penalty": body.presence_penalty or 0.0,
            "frequency_penalty": body.frequency_penalty or 0.0,
            "top_logprobs": body.top_logprobs or 0,
            "text": {"format": format},
            "tool_choice": choice.model_dump() if hasattr(choice, "model_dump") else choice or "auto",
            "tools": [
                {"parameters": None, "strict": True} | tool.model_dump(exclude_none=True) for tool in body.tools or ()
            ],
            "truncation": "disabled",
            "usage": None,
            "user": body.user,
            "safety_identifier": body.safety_identifier,
            "prompt_cache_key": body.prompt_cache_key,
            "metadata": body.metadata or {},
        }

    async def events(self, reply: Reply) -> AsyncGenerator[str, None]:
        """Those of the stream; after the last, `response` is whole."""
        items = Items()
        yield items.event("response.created", response=self.response)
        yield items.event("response.in_progress", response=self.response)
        try:
            async for step in reply:
                logprobs = token_entries(self._tokenizer, step.tokens) if self._with_logprobs else []
                if text := "".join(items.take(step.deltas, logprobs)):
                    yield text
        except Exception as error:
            self.failure = error
            yield "".join(items.close("incomplete"))
            self.response |= {"status": "failed", "output": items.output}
            self.response["error"] = {"code": "server_error", "message": of_error(error).message}
            yield items.event("response.failed", response=self.response)
            return
        status = "incomplete" if reply.finish_reason == "length" else "completed"
        if text := "".join(items.close(status)):
            yield text
        self.response |= {"status": status, "output": items.output, "usage": _usage(reply)}
        if status == "incomplete":
            self.response["incomplete_details"] = {"reason": "max_output_tokens"}
        else:
            self.response["completed_at"] = int(time.time())
        yield items.event(f"response.{status}", response=self.response)


def _usage(reply: Reply) -> dict[str, Any]:
    assert reply.completion is not None
    usage = reply.completion.usage
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": reply.reasoning_tokens},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }
