"""The application: all protocols over one pool of models."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import JSONResponse, Response

import freehold
from freehold.errors import FreeholdError
from freehold.serve import anthropic, chat_page, ollama, openai, operations
from freehold.serve.errors import ServeError
from freehold.serve.guard import Guard
from freehold.serve.metrics import Metrics
from freehold.serve.pool import ModelPool
from freehold.serve.settings import Settings
from freehold.serve.sse import ClientGone, error_answer

log = logging.getLogger("freehold.serve")


def make_app(settings: Settings, stop: Any = None) -> Any:
    """The ASGI application. `stop()` is called when the first model cannot be loaded."""
    metrics = Metrics()
    pool = ModelPool(settings, metrics.replied)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async def load_first() -> None:
            try:
                await pool.load_first()
            except FreeholdError:
                if stop:
                    stop()

        loading = asyncio.ensure_future(load_first())
        yield
        loading.cancel()
        await asyncio.to_thread(pool.close)

    app = FastAPI(
        title="Freehold",
        version=freehold.__version__,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url="/openapi.json",
    )
    app.state.pool, app.state.metrics, app.state.draining = pool, metrics, False
    for protocol in (openai, anthropic, ollama, operations):
        app.include_router(protocol.router)
    chat_page.mount(app)
    _answer_errors(app)
    guarded: Any = Guard(app, settings, lambda path, status, s: metrics.answered(_known(app, path), status, s))
    guarded.state = app.state
    if settings.origins:
        guarded = CORSMiddleware(
            guarded, allow_origins=settings.origins, allow_methods=["GET", "POST"], allow_headers=["*"]
        )
    return guarded


def _answer_errors(app: FastAPI) -> None:
    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"] if part != "body") or "body"
        got = json.dumps(first.get("input"), default=str)[:80]
        answer = ServeError(400, f"{where}: {first['msg']}, got {got}", "invalid_value", where)
        return error_answer(answer, request.url.path)

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        known = ServeError(error.status_code, str(error.detail), "not_found" if error.status_code == 404 else None)
        answer = error_answer(known, request.url.path)
        answer.headers.update(error.headers or {})
        return answer

    async def ours(request: Request, error: Exception) -> Response:
        return error_answer(error, request.url.path)

    app.add_exception_handler(ServeError, ours)
    app.add_exception_handler(FreeholdError, ours)
    app.add_exception_handler(Exception, ours)

    @app.exception_handler(ClientGone)
    async def gone(request: Request, error: Exception) -> Response:
        return JSONResponse({}, 499)


def _known(app: FastAPI, path: str) -> str:
    """The path if there is such a route, so that no client can make labels without end."""
    known = app.state.__dict__.setdefault("known_paths", {getattr(route, "path", "") for route in app.routes})
    return path if path in known else "other"
