"""Answers that come bit by bit, and answers to clients that may have gone."""

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Awaitable
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from freehold.serve.errors import body, of_error

log = logging.getLogger("freehold.serve")
T = TypeVar("T")


def encode(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def event(value: Any, name: str | None = None) -> str:
    """A server-sent event."""
    return f"event: {name}\ndata: {encode(value)}\n\n" if name else f"data: {encode(value)}\n\n"


def line(value: Any) -> str:
    """A line of a stream of JSON objects."""
    return encode(value) + "\n"


class EventStream(Response):
    """Sends what `events` yields. When the client goes, the generator is closed, and with it its requests.

    An error before the first event is an ordinary answer; after it, an event like `error_event` makes it.
    """

    def __init__(self, events: AsyncGenerator[str, None], request: Request, error_event: Any, media_type: str):
        self._events, self._request, self._error_event = events, request, error_event
        self.media_type = media_type
        self.status_code, self.background = 200, None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            first = await until_gone(self._request, anext(self._events, None))
        except ClientGone:
            await self._events.aclose()
            return
        except Exception as error:
            await self._events.aclose()
            await error_answer(error, scope["path"])(scope, receive, send)
            return
        headers = [(b"content-type", f"{self.media_type}; charset=utf-8".encode()), (b"cache-control", b"no-store")]
        await send({"type": "http.response.start", "status": 200, "headers": [*headers, (b"x-accel-buffering", b"no")]})
        sending = asyncio.ensure_future(self._send_all(first, scope, send))
        gone = asyncio.ensure_future(_gone(self._request))
        try:
            await asyncio.wait((sending, gone), return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
            if not sending.done():
                sending.cancel()
            await asyncio.gather(sending, gone, return_exceptions=True)
            await self._events.aclose()

    async def _send_all(self, first: str | None, scope: Any, send: Any) -> None:
        try:
            if first is not None:
                await send({"type": "http.response.body", "body": first.encode(), "more_body": True})
            async for text in self._events:
                await send({"type": "http.response.body", "body": text.encode(), "more_body": True})
        except OSError:
            return
        except Exception as error:
            answer = of_error(error)
            if answer.status >= 500:
                log.error("a reply failed", exc_info=error)
            text = self._error_event(body(answer, scope["path"]))
            await send({"type": "http.response.body", "body": text.encode(), "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class ClientGone(Exception):
    pass


async def until_gone(request: Request, work: Awaitable[T]) -> T:
    """The result of `work`; cancels it and raises ClientGone when the client goes away before."""
    working, gone = asyncio.ensure_future(work), asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait((working, gone), return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientGone
    finally:
        for task in (working, gone):
            task.cancel()
        await asyncio.gather(working, gone, return_exceptions=True)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def error_answer(error: Exception, path: str) -> Response:
    answer = of_error(error)
    if answer.status == 500:
        log.error("a request failed", exc_info=error)
    return JSONResponse(body(answer, path), answer.status, answer.headers)
