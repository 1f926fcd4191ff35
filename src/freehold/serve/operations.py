"""Health, figures, tokens: what those ask who run the server, and the routes that load and unload models."""

import asyncio

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from freehold.serve.body import JsonRoute
from freehold.serve.chat import template_messages
from freehold.serve.errors import ServeError
from freehold.serve.pool import ModelPool
from freehold.serve.shapes.common import DetokenizeRequest, TokenizeRequest

router = APIRouter(route_class=JsonRoute)


@router.get("/health")
async def health() -> Response:
    """The process lives."""
    return JSONResponse({"status": "ok"})


@router.get("/ready")
async def ready(request: Request) -> Response:
    """A model is loaded and requests are taken."""
    if request.app.state.guard.draining:
        raise ServeError(503, "the server is stopping", "draining", retry_after_s=5)
    if not request.app.state.pool.loaded:
        raise ServeError(503, "the model is being loaded", "loading", retry_after_s=1)
    return JSONResponse({"status": "ready"})


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    """In Prometheus' text format."""
    text = request.app.state.metrics.render(request.app.state.pool)
    return PlainTextResponse(text, media_type="text/plain; version=0.0.4")


@router.post("/tokenize")
async def tokenize(body: TokenizeRequest, request: Request) -> Response:
    """Token ids of a text, or of a conversation as the model's template writes it."""
    if (body.prompt is None) == (body.messages is None):
        raise ServeError(400, "expected either prompt or messages", "invalid_value", "prompt")
    async with request.app.state.pool.use(body.model) as served:
        model = served.model
        if body.messages is not None:
            messages = template_messages([message.model_dump(exclude_none=True) for message in body.messages])
            tokens = await asyncio.to_thread(model.chat_tokens, messages)
        else:
            tokens = await model.atokenize(body.prompt or "")
            if body.add_special_tokens:
                tokens = [*model.tokenizer.prefix_ids, *tokens]
        return JSONResponse({"tokens": tokens, "count": len(tokens), "max_model_len": model.info["context"]})


@router.post("/detokenize")
async def detokenize(body: DetokenizeRequest, request: Request) -> Response:
    async with request.app.state.pool.use(body.model) as served:
        size = served.model.tokenizer.vocab_size
        if any(not 0 <= token < size for token in body.tokens):
            raise ServeError(400, f"tokens: expected ids below {size}", "invalid_value", "tokens")
        return JSONResponse({"prompt": await served.model.adetokenize(body.tokens, skip_special=False)})


@router.post("/admin/models/{name:path}/load")
async def load(name: str, request: Request) -> Response:
    """Load a model of the server before it is asked for."""
    pool: ModelPool = request.app.state.pool
    await pool.get(pool.resolve(name))
    return JSONResponse({"model": name, "loaded": True})


@router.post("/admin/models/{name:path}/unload")
async def unload(name: str, request: Request) -> Response:
    """Free a model's memory; 409 while it answers."""
    pool: ModelPool = request.app.state.pool
    was_loaded = await pool.unload(pool.resolve(name))
    return JSONResponse({"model": name, "loaded": False, "was_loaded": was_loaded})
