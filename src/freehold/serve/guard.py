"""What every request passes: its host, origin and key, its body, its id, and its line in the log."""

import asyncio
import hashlib
import hmac
import json
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from freehold.serve.errors import ServeError, body
from freehold.serve.logs import log, note
from freehold.serve.settings import Settings

OPEN_PATHS = ("/", "/health", "/ready", "/favicon.ico")  # of these, and of the page's files, none needs a key
BODY_S = 60.0  # in which a body must have come

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]


@dataclass(slots=True)
class Caller:
    """Who asks: what the handlers need to know of a request beside its body."""

    id: str  # of the request
    salt: bytes = b""  # of the key: what one key's requests leave behind, others cannot find
    logs_texts: bool = False
    ignored: list[str] = field(default_factory=list)  # fields of its body that nobody reads
    fields: dict[str, Any] = field(default_factory=dict)  # of the request's line in the log


class Guard:
    """ASGI middleware. Sets `scope["state"]["caller"]`; the application gets bodies that are whole."""

    def __init__(self, app: Any, settings: Settings, on_answer: Callable[[Scope, int, float], None]):
        self._app, self._settings, self._on_answer = app, settings, on_answer
        self._keys = [_digest(key) for key in settings.api_keys]
        self._admin = [_digest(settings.admin_key)] if settings.admin_key else []
        self._names = {settings.host.lower(), *(name.lower() for name in settings.allowed_hosts)}
        self.draining = False
        self.active = 0  # requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(scope, receive, send)
        exchange.caller.logs_texts = self._settings.log_prompts
        self.active += 1
        try:
            exchange.caller.salt = self._check(scope, exchange.headers)
            await exchange.read_body(self._settings.max_body_bytes)
            scope["state"] = {**scope.get("state", {}), "caller": exchange.caller}
            await self._app(_as_get(scope), exchange.receive, exchange.send)
        except ServeError as error:
            await exchange.refuse(error)
        except Exception as error:
            log.error("a request failed", exc_info=error, extra={"fields": {"id": exchange.caller.id}})
            await exchange.refuse(ServeError(500, "an internal error; the server's log says more", "internal_error"))
        finally:
            self.active -= 1
            seconds = time.monotonic() - exchange.began
            self._on_answer(scope, exchange.status, seconds)
            note(
                "request",
                id=exchange.caller.id,
                method=scope["method"],
                path=scope["path"][:200],
                status=exchange.status,
                seconds=round(seconds, 4),
                **exchange.caller.fields,
            )

    def _check(self, scope: Scope, headers: dict[str, str]) -> bytes:
        """The salt of the request's key. Raises ServeError for a request that may not go on."""
        host = headers.get("host", "")
        self._check_host(host)
        if scope["method"] not in ("GET", "HEAD", "OPTIONS"):
            self._check_origin(headers.get("origin"), host)
            if self.draining:
                raise ServeError(503, "the server is stopping", "draining", retry_after_s=5)
        return self._check_key(scope["path"], headers)

    def _check_host(self, header: str) -> None:
        """A name that another site's owner has made lead here must not be answered (DNS rebinding)."""
        name = _hostname(header)
        if not (name == "localhost" or _is_address(name) or name in self._names):
            raise ServeError(403, f"host {name[:100]!r}: not served under this name", "host_not_allowed")

    def _check_origin(self, origin: str | None, host: str) -> None:
        """A page of another site may not make a visitor's browser ask, even if it cannot read the answer."""
        if origin is None or "*" in self._settings.origins or origin in self._settings.origins:
            return
        if urlsplit(origin).netloc.lower() != host.lower():
            raise ServeError(403, f"origin {origin[:100]!r}: not allowed to ask", "origin_not_allowed")

    def _check_key(self, path: str, headers: dict[str, str]) -> bytes:
        if path in OPEN_PATHS or path.startswith("/page/"):
            return b""
        is_admin = path.startswith("/admin/")
        if is_admin and not self._admin:
            raise ServeError(404, "management is off; --admin-key switches it on", "not_found")
        wanted = self._admin if is_admin else self._keys
        if not wanted:
            return b""
        scheme, _, token = headers.get("authorization", "").partition(" ")
        given = [token.strip()] if scheme.lower() == "bearer" else []
        digests = [_digest(key) for key in (*given, headers.get("x-api-key", "")) if key]
        for digest in digests:
            if any([hmac.compare_digest(digest, key) for key in wanted]):  # all of them: no hint by time
                return digest
        raise ServeError(401, "a valid API key is needed (Authorization: Bearer …)", "invalid_api_key")


class _Exchange:
    """One request and its answer."""

    def __init__(self, scope: Scope, receive: Receive, send: Send):
        self._scope, self._receive, self._send = scope, receive, send
        self.headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        given = self.headers.get("x-request-id", "")
        self.caller = Caller(
            given if 0 < len(given) <= 128 and given.isascii() and given.isprintable() else secrets.token_hex(12)
        )
        self.began, self.status = time.monotonic(), 0
        self._body: bytes | None = None

    async def read_body(self, limit: int) -> None:
        """Raises ServeError for a body that is compressed, too large, or takes too long."""
        encoding = self.headers.get("content-encoding", "identity")
        if encoding.lower() != "identity":
            raise ServeError(415, f"content-encoding {encoding[:50]!r}: send the body as it is", "unsupported_encoding")
        length = self.headers.get("content-length", "0")
        if not length.isdigit() or int(length) > limit:
            raise _too_large(limit)
        chunks, size = [], 0
        try:
            async with asyncio.timeout(BODY_S):
                while (message := await self._receive())["type"] == "http.request":
                    chunks.append(message.get("body", b""))
                    size += len(chunks[-1])
                    if size > limit:
                        raise _too_large(limit)
                    if not message.get("more_body"):
                        break
        except TimeoutError:
            raise ServeError(408, f"the request's body has not come within {BODY_S:g} s", "timeout") from None
        self._body = b"".join(chunks)

    async def receive(self) -> Any:
        if self._body is None:
            return await self._receive()
        content, self._body = self._body, None
        return {"type": "http.request", "body": content, "more_body": False}

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = [*message.get("headers", ()), (b"x-request-id", self.caller.id.encode())]
            if self.caller.ignored:
                headers.append((b"x-ignored-fields", ", ".join(self.caller.ignored[:20]).encode()))
            message = {**message, "headers": headers}
        await self._send(message)

    async def refuse(self, error: ServeError) -> None:
        if self.status:  # the answer has begun
            return
        text = json.dumps(body(error, self._scope["path"])).encode()
        headers = {"content-type": "application/json", "content-length": str(len(text)), **error.headers}
        if error.status in (408, 413, 415):
            headers["connection"] = "close"  # what is left of the body is not read
        start = {"type": "http.response.start", "status": error.status}
        await self.send({**start, "headers": [(k.encode(), v.encode()) for k, v in headers.items()]})
        await self._send({"type": "http.response.body", "body": text})


def _as_get(scope: Scope) -> Scope:
    """HEAD is answered as GET is; the HTTP server, whose own the scope is, leaves the body out."""
    return {**scope, "method": "GET"} if scope["method"] == "HEAD" else scope


def _too_large(limit: int) -> ServeError:
    return ServeError(413, f"the request's body is larger than {limit} bytes", "body_too_large")


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def _hostname(header: str) -> str:
    name = header if header.endswith("]") else header.rsplit(":", 1)[0]
    return name.removeprefix("[").removesuffix("]").lower()


def _is_address(name: str) -> bool:
    """A page cannot be rebound to an address, only to a name."""
    try:
        ip_address(name)
    except ValueError:
        return False
    return True
