"""OpenAI's endpoints: chat completions, completions, models."""

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from freehold.api import Completion
from freehold.serve.chat import (
    Options,
    Reply,
    Step,
    chat_replies,
    effort_variables,
    response_grammar,
    text_replies,
)
from freehold.serve.errors import ServeError
from freehold.serve.pool import ModelPool, Served
from freehold.serve.shapes import ChatRequest, CompletionRequest
from freehold.serve.sse import EventStream, event, until_gone
from freehold.text.deltas import Reasoning, Text, ToolCallArguments, ToolCallStart

router = APIRouter()
DONE = "data: [DONE]\n\n"
MODEL_FACTS = ("architecture", "parameters", "context", "trained_context", "quantization", "licence", "sha256")


@router.get("/v1/models")
async def models(request: Request) -> Response:
    """The models that this server answers with, the first where none is named."""
    pool: ModelPool = request.app.state.pool
    return JSONResponse({"object": "list", "data": [model_entry(pool, name) for name in pool.refs]})


@router.get("/v1/models/{name:path}")
async def model(name: str, request: Request) -> Response:
    pool: ModelPool = request.app.state.pool
    return JSONResponse(model_entry(pool, pool.resolve(name)))


def model_entry(pool: ModelPool, name: str) -> dict[str, Any]:
    entry: dict[str, Any] = {"id": name, "object": "model", "created": 0, "owned_by": "freehold"}
    if served := pool.loaded.get(name):
        info = served.model.info
        entry["created"] = int(served.loaded_at)
        names = [
            "architecture",
            "parameters",
            "context",
            "trained_context",
            "quantization",
            "licence",
            "sha256",
            "template_sha256",
        ]
        entry |= {key: info[key] for key in names} | {"max_model_len": info["context"]}
        entry |= {"reasoning": served.format.reasoning is not None, "reasoning_efforts": served.reasoning_efforts}
    return entry | {"loaded": name in pool.loaded}


@router.post("/v1/chat/completions")
async def chat(body: ChatRequest, request: Request) -> Response:
    """A reply to a conversation, at once or as a stream of events."""
    options = await asyncio.to_thread(_chat_options, body)
    messages = [message.model_dump(exclude_none=True) for message in body.messages]
    pool, salt = request.app.state.pool, request.state.salt
    if body.stream:
        return EventStream(_chat_events(pool, body, messages, options, salt), request, event, "text/event-stream")

    async def answer() -> dict[str, Any]:
        async with pool.use(body.model) as served:
            replies, num_prompt = await chat_replies(served, messages, options, salt)
            gathered = await gather(replies)
            choices = [
                _chat_choice(i, reply, *parts) for i, (reply, parts) in enumerate(zip(replies, gathered, strict=True))
            ]
            usage = usage_of(replies, num_prompt)
            return _head("chat.completion", served) | {"choices": choices, "usage": usage}

    return JSONResponse(await until_gone(request, answer()))


def _chat_options(body: ChatRequest) -> Options:
    limit = body.max_completion_tokens or body.max_tokens
    keywords = body.keywords(limit)
    if body.logprobs:
        keywords["logprobs"] = body.top_logprobs or 0
    elif body.top_logprobs:
        raise ServeError(400, "top_logprobs: needs logprobs", "invalid_value", "top_logprobs")
    variables = effort_variables(body.reasoning_effort)
    for name, value in (body.chat_template_kwargs or {}).items():
        if name in ("messages", "tools", "add_generation_prompt", "chat_template") or not name.isidentifier():
            raise ServeError(400, f"chat_template_kwargs: {name[:50]!r} cannot be set", None, "chat_template_kwargs")
        variables[name] = value
    return Options(
        sampling=keywords,
        n=body.n or 1,
        tools=[tool.model_dump(exclude_none=True) for tool in body.tools or ()],
        tool_choice=_tool_choice(body.tool_choice),
        parallel_tools=body.parallel_tool_calls is not False,
        grammar=response_grammar(body.response_format),
        variables=variables,
        reasoning_budget=body.reasoning_budget,
    )


def _tool_choice(choice: Any) -> str:
    match choice:
        case None:
            return "auto"
        case str(word):
            return word
        case {"type": "function", "function": {"name": str(name)}}:
            return name
    raise ServeError(400, "tool_choice: expected none, auto, required or a function's name", None, "tool_choice")


def _head(kind: str, served: Served, prefix: str = "chatcmpl") -> dict[str, Any]:
    ident = f"{prefix}-{secrets.token_hex(12)}"
    return {"id": ident, "object": kind, "created": int(time.time()), "model": served.name}


def usage_of(replies: list[Reply], num_prompt: int) -> dict[str, Any]:
    done = [reply.completion for reply in replies if reply.completion]
    generated = sum(completion.usage.completion_tokens for completion in done)
    return {
        "prompt_tokens": num_prompt,
        "completion_tokens": generated,
        "total_tokens": num_prompt + generated,
        "prompt_tokens_details": {"cached_tokens": max((c.usage.cached_tokens for c in done), default=0)},
        "completion_tokens_details": {"reasoning_tokens": sum(reply.reasoning_tokens for reply in replies)},
    }


async def gather(replies: list[Reply]) -> list[tuple[list[Any], list[Any]]]:
    """All deltas and tokens of each reply. If one fails or the caller is cancelled, all are closed."""

    async def one(reply: Reply) -> tuple[list[Any], list[Any]]:
        deltas, tokens = [], []
        async for step in reply:
            deltas += step.deltas
            tokens += step.tokens
        return deltas, tokens

    try:
        return list(await asyncio.gather(*(one(reply) for reply in replies)))
    finally:
        for reply in replies:
            await reply.aclose()


async def merged(replies: list[Reply]) -> AsyncIterator[tuple[int, Step | None]]:
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


def assemble(deltas: list[Any]) -> tuple[str, str, list[dict[str, Any]]]:
    """(answer, reasoning, calls) of a whole reply."""
    answer, reasoning, calls = [], [], []
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


def _chat_choice(index: int, reply: Reply, deltas: list[Any], tokens: list[Any]) -> dict[str, Any]:
    answer, reasoning, calls = assemble(deltas)
    message: dict[str, Any] = {"role": "assistant", "content": answer if answer or not calls else None, "refusal": None}
    if reasoning:
        message["reasoning_content"] = reasoning
    if calls:
        message["tool_calls"] = calls
    return {
        "index": index,
        "message": message,
        "logprobs": chat_logprobs(reply, tokens),
        "finish_reason": reply.finish_reason,
    }


def chat_logprobs(reply: Reply, tokens: list[Any]) -> dict[str, Any]:
    tokenizer = reply.served.model.tokenizer

    def entry(token: int, logprob: float) -> dict[str, Any]:
        data = tokenizer.piece(token)
        return {"token": data.decode(errors="replace"), "logprob": _finite(logprob), "bytes": list(data)}

    content = [
        entry(token, logprob) | {"top_logprobs": [entry(*pair) for pair in top]} for token, logprob, top in tokens
    ]
    return {"content": content, "refusal": None}


def _finite(logprob: float) -> float:
    return max(logprob, -9999.0)  # JSON has no infinity


async def _chat_events(
    pool: ModelPool, body: ChatRequest, messages: list[Any], options: Options, salt: bytes
) -> AsyncGenerator[str, None]:
    async with pool.use(body.model) as served:
        replies, num_prompt = await chat_replies(served, messages, options, salt)
        try:
            head = _head("chat.completion.chunk", served)
            if body.stream_options and body.stream_options.include_usage:
                head["usage"] = None
            for index in range(len(replies)):
                yield event(head | {"choices": [_chunk(index, {"role": "assistant", "content": ""})]})
            async for index, step in merged(replies):
                if step is None:
                    yield event(head | {"choices": [_chunk(index, {}, replies[index].finish_reason)]})
                    continue
                logprobs = chat_logprobs(replies[index], step.tokens) if body.logprobs else None
                for i, delta in enumerate(step.deltas or ([Text("")] if logprobs else [])):
                    choice = _chunk(index, _delta(delta))
                    if logprobs and not i:
                        choice["logprobs"] = logprobs
                    if choice["delta"]:
                        yield event(head | {"choices": [choice]})
            if body.stream_options and body.stream_options.include_usage:
                timings = [asdict(reply.completion.timings) for reply in replies if reply.completion]
                yield event(head | {"choices": [], "usage": usage_of(replies, num_prompt), "timings": timings})
            yield DONE
        finally:
            for reply in replies:
                await reply.aclose()


def _chunk(index: int, delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish_reason}


def _delta(delta: Any) -> dict[str, Any]:
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


# Completions.


@router.post("/v1/completions")
async def completions(body: CompletionRequest, request: Request) -> Response:
    """Continuations of prompts; with `echo` and `logprobs` also what the model thinks of the prompts' own tokens."""
    options = await asyncio.to_thread(_completion_options, body)
    pool, salt = request.app.state.pool, request.state.salt
    if body.stream:
        return EventStream(_completion_events(pool, body, options, salt), request, event, "text/event-stream")

    async def answer() -> dict[str, Any]:
        async with pool.use(body.model) as served:
            prompts, replies = await _start(served, body, options, salt)
            await gather(replies)
            choices = [_completion_choice(i, reply, prompts[i // options.n], body) for i, reply in enumerate(replies)]
            num_prompt = sum(r.completion.usage.prompt_tokens for r in replies[:: options.n] if r.completion)
            head = _head("text_completion", served, "cmpl")
            return head | {"choices": choices, "usage": usage_of(replies, num_prompt)}

    return JSONResponse(await until_gone(request, answer()))


def _completion_options(body: CompletionRequest) -> Options:
    keywords = body.keywords(body.max_tokens)
    if body.logprobs is not None:
        keywords["logprobs"] = body.logprobs
        if body.echo:
            keywords["prompt_logprobs"] = body.logprobs
    if body.max_tokens == 0 and not (body.echo and body.logprobs is not None):
        raise ServeError(400, "max_tokens: 0 needs echo and logprobs", "invalid_value", "max_tokens")
    if body.echo and body.stream:
        raise ServeError(400, "echo: not while streaming", "invalid_value", "echo")
    return Options(sampling=keywords, n=body.n or 1, grammar=response_grammar(body.response_format))


async def _start(
    served: Served, body: CompletionRequest, options: Options, salt: bytes
) -> tuple[list[str | list[int]], list[Reply]]:
    given: Any = body.prompt
    is_one = isinstance(given, str) or isinstance(given[0], int)
    prompts: list[str | list[int]] = [given] if is_one else list(given)
    if len(prompts) > 256:
        raise ServeError(400, f"prompt: up to 256 at once, got {len(prompts)}", "invalid_value", "prompt")
    replies: list[Reply] = []
    try:
        for prompt in prompts:
            replies += await text_replies(served, prompt, options, salt)
    except BaseException:
        for reply in replies:
            await reply.aclose()
        raise
    return prompts, replies


def _completion_choice(index: int, reply: Reply, prompt: str | list[int], body: CompletionRequest) -> dict[str, Any]:
    completion, tokenizer = reply.completion, reply.served.model.tokenizer
    assert completion is not None
    text = completion.text
    if body.echo:
        text = (prompt if isinstance(prompt, str) else tokenizer.decode(prompt, skip_special=False)) + text
    logprobs = None if body.logprobs is None else _completion_logprobs(completion, tokenizer, bool(body.echo))
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": completion.finish_reason}


def _completion_logprobs(completion: Completion, tokenizer: Any, echo: bool) -> dict[str, Any]:
    rows: list[Any] = []
    if echo:
        known = completion.prompt_logprobs or []
        rows += [(entry.token, entry.logprob, None if entry.logprob is None else entry.top) for entry in known]
    top = completion.top_logprobs or [[] for _ in completion.tokens]
    rows += list(zip(completion.tokens, completion.logprobs, top, strict=True))
    return token_table(rows, tokenizer)


def token_table(rows: list[Any], tokenizer: Any) -> dict[str, Any]:
    """OpenAI's legacy form: texts, log-probabilities, likeliest and offsets, in lists side by side."""

    def text(token: int) -> str:
        return tokenizer.piece(token).decode(errors="replace")

    texts = [text(token) for token, _, _ in rows]
    offsets, at = [], 0
    for piece in texts:
        offsets.append(at)
        at += len(piece)
    return {
        "tokens": texts,
        "token_logprobs": [None if logprob is None else _finite(logprob) for _, logprob, _ in rows],
        "top_logprobs": [
            None if top is None else {text(t): _finite(p) for t, p in reversed(top)} for _, _, top in rows
        ],
        "text_offset": offsets,
    }


async def _completion_events(
    pool: ModelPool, body: CompletionRequest, options: Options, salt: bytes
) -> AsyncGenerator[str, None]:
    async with pool.use(body.model) as served:
        _, replies = await _start(served, body, options, salt)
        tokenizer, head = served.model.tokenizer, _head("text_completion", served, "cmpl")
        try:
            async for index, step in merged(replies):
                choice: dict[str, Any] = {"index": index, "text": "", "logprobs": None, "finish_reason": None}
                if step is None:
                    choice["finish_reason"] = replies[index].finish_reason
                else:
                    choice["text"] = "".join(delta.text for delta in step.deltas if isinstance(delta, Text))
                    if body.logprobs is not None:
                        choice["logprobs"] = token_table(step.tokens, tokenizer)
                    elif not choice["text"]:
                        continue
                yield event(head | {"choices": [choice]})
            if body.stream_options and body.stream_options.include_usage:
                num_prompt = sum(r.completion.usage.prompt_tokens for r in replies[:: options.n] if r.completion)
                yield event(head | {"choices": [], "usage": usage_of(replies, num_prompt)})
            yield DONE
        finally:
            for reply in replies:
                await reply.aclose()
