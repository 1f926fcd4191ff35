"""What every request passes: its host and key, the size of its body, its id, and its line in the log."""

import hashlib
import hmac
import json
import logging
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import Any

from freehold.serve.errors import ServeError, body
from freehold.serve.settings import Settings, is_loopback

log = logging.getLogger("freehold.serve")
OPEN_PATHS = ("/", "/health", "/ready", "/page/", "/favicon.ico")  # of these none needs a key

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]


class Guard:
    """ASGI middleware. Sets `scope["state"]["salt"]` and `["request_id"]`."""

    def __init__(self, app: Any, settings: Settings, on_answer: Callable[[str, int, float], None]):
        self._app, self._settings, self._on_answer = app, settings, on_answer
        self._keys = [_digest(key) for key in settings.api_keys]
        self._admin = _digest(settings.admin_key) if settings.admin_key else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = _Request(scope, receive, send, self._settings.max_body_bytes)
        try:
            self._check_host(request.headers.get("host", ""))
            salt = self._check_key(scope["path"], request.headers)
            request.check_length()
            scope["state"] = {**scope.get("state", {}), "salt": salt, "request_id": request.id}
            await self._app(scope, request.receive, request.send)
        except ServeError as error:
            await request.refuse(error)
        finally:
            seconds = time.monotonic() - request.began
            self._on_answer(scope["path"], request.status, seconds)
            log.info(
                "request",
                extra={
                    "fields": {
                        "id": request.id,
                        "method": scope["method"],
                        "path": scope["path"],
                        "status": request.status,
                        "seconds": round(seconds, 4),
                    }
                },
            )

    def _check_host(self, header: str) -> None:
        """A page of another site whose name leads here must not be answered (DNS rebinding)."""
        name = header.rsplit(":", 1)[0] if not header.endswith("]") else header
        name = name.strip("[]").lower()
        known = {self._settings.host, *self._settings.allowed_hosts}
        if not (is_loopback(name) or name in known or (not is_loopback(self._settings.host) and not known - {name})):
            if self._settings.host in ("0.0.0.0", "::") and not self._settings.allowed_hosts and _is_address(name):
                return
            raise ServeError(
                403, f"host {name[:100]!r}: not served under this name (--allowed-host)", "host_not_allowed"
            )

    def _check_key(self, path: str, headers: dict[str, str]) -> bytes:
        """The prefix cache's salt: that of the key. Raises ServeError where none or a wrong one is given."""
        is_admin = path.startswith("/admin/")
        wanted = ([self._admin] if self._admin else []) if is_admin else self._keys
        if is_admin and not wanted:
            raise ServeError(404, "management is off; --admin-key switches it on", "not_found")
        if not wanted or path in OPEN_PATHS or path.startswith("/page/"):
            return b""
        given = headers.get("authorization", "").removeprefix("Bearer ") or headers.get("x-api-key", "")
        digest = _digest(given)
        if not any([hmac.compare_digest(digest, key) for key in wanted]):
            raise ServeError(401, "a valid API key is needed (Authorization: Bearer …)", "invalid_api_key")
        return digest


class _Request:
    """One exchange: what goes by is measured, headers are added."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, max_body_bytes: int):
        self._scope, self._receive, self._send = scope, receive, send
        self._left = self._max = max_body_bytes
        self.headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        given = self.headers.get("x-request-id", "")
        self.id = given if 0 < len(given) <= 128 and given.isascii() and given.isprintable() else secrets.token_hex(12)
        self.began, self.status, self._started = time.monotonic(), 0, False

    def check_length(self) -> None:
        length = self.headers.get("content-length", "0")
        if not length.isdigit() or int(length) > self._max:
            raise self._too_large()

    async def receive(self) -> Any:
        message = await self._receive()
        if message["type"] == "http.request":
            self._left -= len(message.get("body", b""))
            if self._left < 0:
                raise self._too_large()
        return message

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.status, self._started = message["status"], True
            message = {**message, "headers": [*message.get("headers", ()), (b"x-request-id", self.id.encode())]}
        await self._send(message)

    async def refuse(self, error: ServeError) -> None:
        if self._started:
            return
        text = json.dumps(body(error, self._scope["path"])).encode()
        headers = {"content-type": "application/json", "content-length": str(len(text)), **error.headers}
        if error.status == 401:
            headers["www-authenticate"] = "Bearer"
        start = {"type": "http.response.start", "status": error.status}
        await self.send({**start, "headers": [(k.encode(), v.encode()) for k, v in headers.items()]})
        await self._send({"type": "http.response.body", "body": text})

    def _too_large(self) -> ServeError:
        return ServeError(413, f"the request's body is larger than {self._max} bytes", "body_too_large")


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def _is_address(name: str) -> bool:
    from ipaddress import ip_address

    try:
        ip_address(name)
    except ValueError:
        return False
    return True


class JsonLines(logging.Formatter):
    """One JSON object to a line: time, level, event, and the fields given as `extra={"fields": …}`."""

    def format(self, record: logging.LogRecord) -> str:
        line = {"time": self.formatTime(record), "level": record.levelname.lower(), "event": record.getMessage()}
        line |= getattr(record, "fields", {})
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=True)
