"""The application: all protocols over one pool of models."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import JSONResponse, Response

import freehold
from freehold.errors import FreeholdError
from freehold.serve import (
    anthropic,
    chat_completions,
    chat_page,
    completions,
    embeddings,
    models,
    ollama,
    operations,
    responses,
)
from freehold.serve.errors import ServeError, body, of_error
from freehold.serve.guard import Guard
from freehold.serve.metrics import Metrics
from freehold.serve.openapi import openapi
from freehold.serve.pool import ModelPool
from freehold.serve.reports import Examine, Reports
from freehold.serve.response_store import ResponseStore
from freehold.serve.settings import Settings
from freehold.serve.sse import ClientGone, error_answer

PROTOCOLS = (chat_completions, completions, embeddings, responses, models, anthropic, ollama, operations)


class Application:
    """`asgi` for the HTTP server; `guard` knows what runs, `pool` which models there are."""

    def __init__(self, settings: Settings, stop: Callable[[], None], examine: Examine):
        """`stop` is called when the first model cannot be loaded; `examine` reports on a model."""
        self._stop = stop
        self._metrics = Metrics()
        self.pool = ModelPool(settings, self._metrics)
        app = FastAPI(
            title="Freehold", version=freehold.__version__, lifespan=self._lifespan, docs_url=None, redoc_url=None
        )
        for protocol in PROTOCOLS:
            app.include_router(protocol.router)
        chat_page.mount(app)
        app.openapi = lambda: openapi(app, with_keys=bool(settings.api_keys))
        _answer_errors(app)
        self.guard = Guard(app, settings, self._answered)
        app.state.pool, app.state.metrics, app.state.guard = self.pool, self._metrics, self.guard
        app.state.reports = Reports(examine, self.pool.refs)
        app.state.responses, app.state.settings = ResponseStore(), settings
        self.asgi: Any = self.guard
        if settings.origins:
            self.asgi = CORSMiddleware(
                self.asgi,
                allow_origins=settings.origins,
                allow_methods=["GET", "POST", "DELETE"],
                allow_headers=["*"],
                expose_headers=["x-request-id"],
            )

    @asynccontextmanager
    async def _lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        loading = asyncio.ensure_future(self._load_first())
        yield
        loading.cancel()
        await asyncio.to_thread(self.pool.close)

    async def _load_first(self) -> None:
        try:
            await self.pool.load_first()
            self.pool.compute_digests()
        except FreeholdError:
            self._stop()

    def _answered(self, scope: Any, status: int, seconds: float) -> None:
        route = scope.get("route")  # what a client has made up must not become a label
        self._metrics.answered(getattr(route, "path", "other"), status, seconds)


def _nearest(errors: Sequence[Any]) -> Any:
    """What is wrong with a value that may be of several types: of the type that it comes nearest to."""
    first = errors[0]["loc"]
    where = first[: max(2, len(first) - 1)]  # the last part names the type that was tried
    tried = [error for error in errors if error["loc"][: len(where)] == where]
    return max(tried, key=lambda error: (not error["type"].endswith("_type"), len(error["loc"])))


def _answer_errors(app: FastAPI) -> None:
    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        first = _nearest(error.errors())
        where = ".".join(str(part) for part in first["loc"] if part != "body") or "body"
        got = json.dumps(first.get("input"), default=str)
        got = got if len(got) <= 80 else got[:77] + "…"
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

    @app.exception_handler(Exception)
    async def bug(request: Request, error: Exception) -> Response:  # the guard writes it into the log
        answer = of_error(error)
        return JSONResponse(body(answer, request.url.path), answer.status)

    app.add_exception_handler(ServeError, ours)
    app.add_exception_handler(FreeholdError, ours)

    @app.exception_handler(ClientGone)
    async def gone(request: Request, error: Exception) -> Response:
        return JSONResponse({}, 499)
