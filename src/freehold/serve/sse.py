"""Answers that come bit by bit, and answers to clients that may have gone."""

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from freehold.serve.errors import body, of_error
from freehold.serve.logs import log, note

LOOK_S = 0.25
MAX_LOOKS = 4  # at a client that takes nothing while its buffers are full: then it is cut off
T = TypeVar("T")

encode = json.JSONEncoder(separators=(",", ":")).encode  # made once: json.dumps makes one at each call


def event(value: Any, name: str | None = None) -> str:
    """A server-sent event."""
    return f"event: {name}\ndata: {encode(value)}\n\n" if name else f"data: {encode(value)}\n\n"


def line(value: Any) -> str:
    """A line of a stream of JSON objects."""
    return encode(value) + "\n"


class EventStream(Response):
    """Sends what `events` yields. When the client goes or reads too slowly, the generator is closed, and with it its
    requests.

    An error before the first event is an ordinary answer; after it, an event like `error_event` makes it.
    """

    def __init__(
        self,
        events: AsyncGenerator[str, None],
        request: Request,
        error_event: Callable[[dict[str, Any]], str],
        media_type: str = "text/event-stream",
    ):
        self._events, self._request, self._error_event = events, request, error_event
        self.media_type = media_type
        self.status_code, self.background = 200, None
        self._sent = 0  # sends begun
        self._is_sending = False

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
        self._look(sending, 0, -1)
        try:
            await asyncio.wait((sending, gone), return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
            sending.cancel()
            await asyncio.gather(sending, gone, return_exceptions=True)
            await self._events.aclose()

    def _look(self, sending: asyncio.Future[None], looks: int, seen: int) -> None:
        """Called again and again while it is sent; `looks` have found the same send waiting that was `seen` before."""
        if sending.done():
            return
        looks = looks + 1 if self._is_sending and self._sent == seen else 0
        if looks >= MAX_LOOKS:
            note("a slow reader is cut off", id=self._request.state.caller.id)
            sending.cancel()
        else:
            sending.get_loop().call_later(LOOK_S, self._look, sending, looks, self._sent)

    async def _send_all(self, first: str | None, scope: Any, send: Any) -> None:
        async def send_text(text: str, more: bool = True) -> None:
            self._sent += 1
            self._is_sending = True
            await send({"type": "http.response.body", "body": text.encode(), "more_body": more})
            self._is_sending = False

        try:
            if first is not None:
                await send_text(first)
            async for text in self._events:
                await send_text(text)
        except OSError:
            return
        except Exception as error:
            answer = of_error(error)
            if answer.status == 500:
                log.error("a reply failed", exc_info=error)
            await send_text(self._error_event(body(answer, scope["path"])))
        await send_text("", more=False)


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
