"""OpenAI's completions; with `echo` and `logprobs` also what the model thinks of the prompts' own tokens."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from freehold.serve.body import JsonRoute
from freehold.serve.chat import Options, Reply, close_all, gather, merged, text_replies
from freehold.serve.constraints import response_grammar
from freehold.serve.errors import ServeError
from freehold.serve.guard import Caller
from freehold.serve.openai import DONE, Chunks, finite, head, usage_of
from freehold.serve.pool import Served
from freehold.serve.shapes.openai import CompletionRequest
from freehold.serve.sse import EventStream, event, until_gone
from freehold.text.deltas import Text

router = APIRouter(route_class=JsonRoute)


@router.post("/v1/completions")
async def completions(body: CompletionRequest, request: Request) -> Response:
    """Continuations of one prompt or several, texts or token ids."""
    options = await asyncio.to_thread(_options, body)
    if body.stream:
        return EventStream(_events(request, body, options), request, event)

    async def answer() -> dict[str, Any]:
        async with request.app.state.pool.use(body.model) as served:
            prompts, replies = await _start(served, body, options, request.state.caller)
            await gather(replies)
            choices = [_choice(i, reply, prompts[i // options.n], body) for i, reply in enumerate(replies)]
            usage = usage_of(replies, _num_prompt(replies, options.n))
            return head("text_completion", served, "cmpl") | {"choices": choices, "usage": usage}

    return JSONResponse(await until_gone(request, answer()))


def prompts_of(given: Any) -> list[str | list[int]]:
    """The prompts of a request that may be a text, token ids, or several of either."""
    return [given] if isinstance(given, str) or isinstance(given[0], int) else list(given)


def _options(body: CompletionRequest) -> Options:
    keywords = body.keywords(body.max_tokens)
    if body.logprobs is not None:
        keywords["logprobs"] = body.logprobs
        if body.echo:
            keywords["prompt_logprobs"] = body.logprobs
    if body.max_tokens == 0 and not (body.echo and body.logprobs is not None):
        raise ServeError(400, "max_tokens: 0 needs echo and logprobs", "invalid_value", "max_tokens")
    return Options(sampling=keywords, n=body.n or 1, grammar=response_grammar(body.response_format)[0])


async def _start(
    served: Served, body: CompletionRequest, options: Options, caller: Caller
) -> tuple[list[str | list[int]], list[Reply]]:
    prompts = prompts_of(body.prompt)
    replies: list[Reply] = []
    try:
        for prompt in prompts:
            replies += await text_replies(served, prompt, options, caller)
    except BaseException:
        await close_all(replies)
        raise
    return prompts, replies


def _num_prompt(replies: list[Reply], n: int) -> int:
    return sum(reply.completion.usage.prompt_tokens for reply in replies[::n] if reply.completion)


def _choice(index: int, reply: Reply, prompt: str | list[int], body: CompletionRequest) -> dict[str, Any]:
    completion, tokenizer = reply.completion, reply.served.model.tokenizer
    assert completion is not None
    text = (_text(prompt, tokenizer) if body.echo else "") + completion.text
    logprobs = None
    if body.logprobs is not None:
        rows = reply.echoed() if body.echo else []
        top = completion.top_logprobs or [[] for _ in completion.tokens]
        rows += list(zip(completion.tokens, completion.logprobs, top, strict=True))
        logprobs = _table(rows, tokenizer)
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": completion.finish_reason}


def _text(prompt: str | list[int], tokenizer: Any) -> str:
    return prompt if isinstance(prompt, str) else tokenizer.decode(prompt, skip_special=False)


def _table(rows: list[Any], tokenizer: Any, offset: int = 0) -> dict[str, Any]:
    """OpenAI's legacy form: texts, log-probabilities, likeliest and offsets, in lists side by side."""

    def text(token: int) -> str:
        return tokenizer.piece(token).decode(errors="replace")

    texts = [text(token) for token, _, _ in rows]
    offsets = []
    for piece in texts:
        offsets.append(offset)
        offset += len(piece)
    return {
        "tokens": texts,
        "token_logprobs": [None if logprob is None else finite(logprob) for _, logprob, _ in rows],
        # The likelier of two tokens of one text (halves of characters) is the one that is shown.
        "top_logprobs": [None if top is None else {text(t): finite(p) for t, p in reversed(top)} for _, _, top in rows],
        "text_offset": offsets,
    }


async def _events(request: Request, body: CompletionRequest, options: Options) -> AsyncGenerator[str, None]:
    async with request.app.state.pool.use(body.model) as served:
        prompts, replies = await _start(served, body, options, request.state.caller)
        tokenizer, top = served.model.tokenizer, head("text_completion", served, "cmpl")
        chunks = Chunks(top, "text")
        echoes = {i: prompts[i // options.n] for i in range(len(replies)) if body.echo}
        offsets = [0] * len(replies)
        try:
            async for index, step in merged(replies):
                reply = replies[index]
                text, rows, logprobs = "", [], None
                if index in echoes:
                    text = _text(echoes.pop(index), tokenizer)
                    rows = reply.echoed() if body.logprobs is not None else []
                if step is not None:
                    text += "".join([delta.text for delta in step.deltas if isinstance(delta, Text)])
                    rows += step.tokens if body.logprobs is not None else []
                if body.logprobs is not None and rows:
                    logprobs = _table(rows, tokenizer, offsets[index])
                    offsets[index] += sum(map(len, logprobs["tokens"]))
                reason = reply.finish_reason if step is None else None
                if text or logprobs or reason:
                    yield chunks.chunk(index, text, reason, logprobs)
            if body.stream_options and body.stream_options.include_usage:
                usage = usage_of(replies, _num_prompt(replies, options.n))
                yield event(top | {"choices": [], "usage": usage})
            yield DONE
        finally:
            await close_all(replies)
