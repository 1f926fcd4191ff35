"""Ollama's routes, for programs that look for it. None writes a model."""

import asyncio
import json
import time
from collections.abc import AsyncGenerator
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from freehold.errors import FreeholdError
from freehold.serve.body import JsonRoute
from freehold.serve.chat import Options, Reply, chat_replies, text_replies
from freehold.serve.constraints import response_grammar, thinking_variables
from freehold.serve.embeddings import embed
from freehold.serve.errors import ServeError
from freehold.serve.pool import ModelPool, Served
from freehold.serve.shapes.common import least_top_p, stop_texts
from freehold.serve.shapes.ollama import (
    OllamaChatRequest,
    OllamaEmbedRequest,
    OllamaGenerateRequest,
    OllamaRequest,
    OllamaShowRequest,
)
from freehold.serve.sse import EventStream, line, until_gone
from freehold.text.deltas import Reasoning, Text, ToolCallArguments, ToolCallEnd, ToolCallStart

router = APIRouter(prefix="/api", route_class=JsonRoute)
VERSION = "0.12.0"  # whose routes these are
LOADED = {"done": True, "done_reason": "load"}  # what a request without a prompt is answered with


@router.get("/version")
async def version() -> Response:
    return JSONResponse({"version": VERSION})


@router.get("/tags")
async def tags(request: Request) -> Response:
    """The models that are served and whose files can be read; /v1/models says what is wrong with others."""
    pool: ModelPool = request.app.state.pool
    models = []
    for name in pool.refs:
        with suppress(FreeholdError):
            models.append(_entry(name, await pool.facts(name)))
    return JSONResponse({"models": models})


@router.get("/ps")
async def running(request: Request) -> Response:
    """The models that are loaded."""
    pool: ModelPool = request.app.state.pool
    models = []
    for name, served in pool.loaded.items():
        entry = _entry(name, await pool.facts(name)) | {"size": served.memory_bytes, "size_vram": 0}
        context = served.model.info["context"]
        models.append(entry | {"expires_at": "9999-12-31T23:59:59Z", "context_length": context})
    return JSONResponse({"models": models})


@router.post("/show")
async def show(body: OllamaShowRequest, request: Request) -> Response:
    pool: ModelPool = request.app.state.pool
    name = pool.resolve(body.model)
    info = await pool.facts(name)
    architecture = info["architecture"]
    served = pool.loaded.get(name)
    capabilities = ["completion"]
    if served and served.format.tools:
        capabilities.append("tools")
    if served and served.format.reasoning:
        capabilities.append("thinking")
    return JSONResponse(
        {
            "modelfile": "",
            "parameters": "",
            "template": served.model.template.source if served and served.model.has_template else "",
            "license": str(info["licence"].get("general.license", "")),
            "details": _details(info),
            "model_info": {
                "general.architecture": architecture,
                "general.parameter_count": info["parameters"],
                f"{architecture}.context_length": info["context"],
                f"{architecture}.embedding_length": info["hidden_size"],
                f"{architecture}.block_count": info["layers"],
            },
            "capabilities": capabilities,
            "modified_at": _now(),
        }
    )


def _entry(name: str, info: dict[str, Any]) -> dict[str, Any]:
    full = f"{name}:latest"
    head = {"name": full, "model": full, "modified_at": _now(), "size": info["file_bytes"]}
    return head | {"digest": info["sha256"] or "", "details": _details(info)}


def _details(info: dict[str, Any]) -> dict[str, Any]:
    sizes = {}
    for formats in info["quantization"].values():
        for name, count in formats.items():
            sizes[name] = sizes.get(name, 0) + count
    family = info["architecture"]
    return {
        "parent_model": "",
        "format": "gguf",
        "family": family,
        "families": [family],
        "parameter_size": f"{info['parameters'] / 1e6:.0f}M",
        "quantization_level": max(sizes, key=lambda name: (name not in ("F32", "F16"), sizes[name])),
    }


@router.post("/chat")
async def chat(body: OllamaChatRequest, request: Request) -> Response:
    """A reply to a conversation; lines of JSON unless `stream` is false."""
    messages = [_message(message.model_dump(exclude_none=True)) for message in body.messages]

    async def start(served: Served, options: Options) -> Reply:
        replies, _ = await chat_replies(served, messages, options, request.state.caller)
        return replies[0]

    options = await asyncio.to_thread(_options, body)
    options.tools = [tool.model_dump(exclude_none=True) for tool in body.tools or ()]
    return await _answer(request, body, options, start, _chat_part)


@router.post("/generate")
async def generate(body: OllamaGenerateRequest, request: Request) -> Response:
    """A reply to a prompt, by the model's template unless `raw`."""
    system = [{"role": "system", "content": body.system}] if body.system else []

    async def start(served: Served, options: Options) -> Reply:
        if body.raw:
            return (await text_replies(served, body.prompt, options, request.state.caller))[0]
        conversation = [*system, {"role": "user", "content": body.prompt}]
        replies, _ = await chat_replies(served, conversation, options, request.state.caller)
        return replies[0]

    return await _answer(request, body, await asyncio.to_thread(_options, body), start, _generate_part)


async def _answer(request: Request, body: OllamaRequest, options: Options, start: Any, part: Any) -> Response:
    async def parts() -> AsyncGenerator[dict[str, Any], None]:
        began = time.monotonic()
        async with request.app.state.pool.use(body.model) as served:
            loaded = time.monotonic()
            if body.is_empty:
                yield {"model": body.model, "created_at": _now()} | part("", "", []) | LOADED
                return
            _check_context(body, served)
            reply = await start(served, options)
            try:
                head = {"model": body.model, "created_at": _now()}
                calls = _Calls()
                async for step in reply:
                    if found := calls.take(step.deltas):
                        yield head | part(*found) | {"done": False}
                yield head | part("", "", []) | _figures(reply, loaded - began, time.monotonic() - began)
            finally:
                await reply.aclose()

    if body.stream is not False:

        async def lines() -> AsyncGenerator[str, None]:
            async for found in parts():
                yield line(found)

        return EventStream(lines(), request, line, "application/x-ndjson")

    async def whole() -> dict[str, Any]:
        found = [one async for one in parts()]
        return found[-1] | _joined(found)

    return JSONResponse(await until_gone(request, whole()))


@router.post("/embed")
async def embeddings(body: OllamaEmbedRequest, request: Request) -> Response:
    """Vectors of texts, as /v1/embeddings makes them."""

    async def answer() -> dict[str, Any]:
        began = time.monotonic()
        async with request.app.state.pool.use(body.model) as served:
            loaded = time.monotonic()
            prompts: list[Any] = [body.input] if isinstance(body.input, str) else list(body.input)
            vectors, num_tokens = await embed(served, prompts, body.dimensions, request)
            return {
                "model": body.model,
                "embeddings": [vector.tolist() for vector in vectors],
                "pooling": served.model.pooling,
                "total_duration": int((time.monotonic() - began) * 1e9),
                "load_duration": int((loaded - began) * 1e9),
                "prompt_eval_count": num_tokens,
            }

    return JSONResponse(await until_gone(request, answer()))


class _Calls:
    """Ollama gives calls whole: their arguments are held back until they end."""

    def __init__(self) -> None:
        self._name, self._arguments = "", ""

    def take(self, deltas: list[Any]) -> tuple[str, str, list[dict[str, Any]]] | None:
        """(answer, thoughts, calls) of the deltas, or None when they complete nothing."""
        answer, thoughts, calls = "", "", []
        for delta in deltas:
            match delta:
                case Text(text):
                    answer += text
                case Reasoning(text):
                    thoughts += text
                case ToolCallStart(_, _, name):
                    self._name, self._arguments = name, ""
                case ToolCallArguments(_, fragment):
                    self._arguments += fragment
                case ToolCallEnd(whole=True):  # what was cut short is no call
                    function = {"name": self._name, "arguments": json.loads(self._arguments or "{}")}
                    calls.append({"function": function})
        return (answer, thoughts, calls) if answer or thoughts or calls else None


def _chat_part(answer: str, thoughts: str, calls: list[dict[str, Any]]) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": answer}
    if thoughts:
        message["thinking"] = thoughts
    if calls:
        message["tool_calls"] = calls
    return {"message": message}


def _generate_part(answer: str, thoughts: str, calls: list[dict[str, Any]]) -> dict[str, Any]:
    return {"response": answer} | ({"thinking": thoughts} if thoughts else {})


def _joined(parts: list[dict[str, Any]]) -> dict[str, Any]:
    if "message" not in parts[0]:
        joined = {"response": "".join(part["response"] for part in parts)}
        thoughts = "".join(part.get("thinking", "") for part in parts)
        return joined | ({"thinking": thoughts} if thoughts else {})
    messages = [part["message"] for part in parts]
    return _chat_part(
        "".join(message["content"] for message in messages),
        "".join(message.get("thinking", "") for message in messages),
        [call for message in messages for call in message.get("tool_calls", ())],
    )


def _options(body: OllamaRequest) -> Options:
    given = body.options.model_dump(exclude_none=True, exclude={"num_ctx", "stop"}) if body.options else {}
    sampling: dict[str, Any] = {"temperature": 0.8, "top_p": 0.9, "top_k": 40}  # Ollama's defaults
    sampling["stop"] = stop_texts(body.options.stop if body.options else None)
    limit = given.pop("num_predict", -1)
    sampling["max_tokens"] = limit if limit > 0 else 1 if limit == 0 else None
    if "repeat_penalty" in given:
        sampling["repetition_penalty"] = given.pop("repeat_penalty")
    if "seed" in given:
        sampling["seed"] = given.pop("seed") % (1 << 64)
    sampling |= given
    sampling["top_p"] = least_top_p(sampling["top_p"])
    thinks = None if body.think is None else bool(body.think)
    variables = thinking_variables(thinks)
    if isinstance(body.think, str):
        variables["reasoning_effort"] = body.think
    grammar, schema = response_grammar(_response_format(body.format))
    return Options(sampling=sampling, grammar=grammar, answer_schema=schema, variables=variables, thinks=thinks)


def _response_format(format: Any) -> dict[str, Any] | None:
    if format == "json":
        return {"type": "json_object"}
    return {"type": "json_schema", "schema": format} if format else None


def _check_context(body: OllamaRequest, served: Served) -> None:
    wanted, there = (body.options.num_ctx if body.options else None) or 0, served.model.info["context"]
    if wanted > there:
        raise ServeError(400, f"num_ctx: the model is served with a context of {there} tokens, got {wanted}")


def _message(message: dict[str, Any]) -> dict[str, Any]:
    """In OpenAI's shape."""
    if "thinking" in message:
        message["reasoning_content"] = message.pop("thinking")
    if "tool_name" in message:
        message["name"] = message.pop("tool_name")
    calls = []
    for i, call in enumerate(message.pop("tool_calls", ())):
        function = call.get("function") if isinstance(call.get("function"), dict) else {}
        name, arguments = str(function.get("name", "")), json.dumps(function.get("arguments") or {})
        calls.append({"id": f"call_{i}", "type": "function", "function": {"name": name, "arguments": arguments}})
    return message | ({"tool_calls": calls} if calls else {})


def _figures(reply: Reply, load_s: float, total_s: float) -> dict[str, Any]:
    completion = reply.completion
    assert completion is not None
    reason = "length" if completion.finish_reason == "length" else "stop"
    timings, usage = completion.timings, completion.usage
    return {
        "done": True,
        "done_reason": reason,
        "total_duration": int(total_s * 1e9),
        "load_duration": int(load_s * 1e9),
        "prompt_eval_count": usage.prompt_tokens,
        "prompt_eval_duration": int(timings.prefill_s * 1e9),
        "eval_count": usage.completion_tokens,
        "eval_duration": int(timings.decode_s * 1e9),
    }


def _now() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")
