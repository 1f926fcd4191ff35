"""A server that speaks as much of OpenAI's API as the chat page needs, and says what a test has written."""

import json
import mimetypes
import select
import socket
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

from freehold.serve.chat_page import PAGE, PAGE_HEADERS

KEY = "a-key-for-the-page"
USAGE = {"prompt_tokens": 20, "completion_tokens": 12, "total_tokens": 32}
QWEN = {
    "id": "thinker",
    "context": 32768,
    "trained_context": 40960,
    "parameters": 630167424,
    "architecture": "qwen3",
    "quantization": {"ffn_up": {"Q4_K": 24}, "attn_norm": {"F32": 48}, "output": {"Q6_K": 1}},
    "licence": {"general.license": "apache-2.0"},
    "sha256": "ab" * 32,
    "reasoning": True,
    "reasoning_efforts": ["none", "medium"],
    "loaded": True,
}
SMALL = {"id": "small", "context": 2048, "licence": {}, "reasoning": False, "reasoning_efforts": [], "loaded": True}


@dataclass
class Refusal:
    """An error's answer instead of a reply."""

    status: int
    message: str
    headers: dict[str, str] = field(default_factory=dict)


# What a reply is made of: a text; fields of a delta; a gate that the test opens; an event as it is; None cuts the line.
Script = Iterable[str | dict[str, Any] | threading.Event | None]


class PageServer:
    """`answer(body)` makes the script of a reply, or a Refusal; `requests` are the bodies that came."""

    def __init__(self) -> None:
        self.reset()
        handler = type("Handler", (_Handler,), {"owner": self})
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_port}/"
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()

    def reset(self) -> None:
        self.models: list[dict[str, Any]] = [QWEN, SMALL]
        self.summary: dict[str, Any] = {"rows": [{"label": "Openness", "value": "open-weight: free", "status": "good"}]}
        self.answer: Callable[[dict[str, Any]], Script | Refusal] = lambda body: ["Hello."]
        self.usage: dict[str, Any] = USAGE
        self.key: str | None = None
        self.bytes_at_once = 1 << 20
        self.requests: list[dict[str, Any]] = []
        self.gone = threading.Event()  # a client has left before its reply was over

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()


class _Handler(BaseHTTPRequestHandler):
    owner: PageServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        if self.path == "/v1/models":
            if self._is_allowed():
                self._send(200, "application/json", json.dumps({"data": self.owner.models}).encode())
            return
        if self.path.startswith("/v1/models/"):
            name = unquote(self.path.removeprefix("/v1/models/"))
            model = next(model for model in self.owner.models if model["id"] == name)
            self._send(200, "application/json", json.dumps(model | {"summary": self.owner.summary}).encode())
            return
        path = PAGE / (self.path.removeprefix("/page/") if self.path.startswith("/page/") else "index.html")
        kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        self._send(200, kind, path.read_bytes(), PAGE_HEADERS)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if not self._is_allowed():
            return
        self.owner.requests.append(body)
        script = self.owner.answer(body)
        if isinstance(script, Refusal):
            self._refuse(script)
            return
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")  # ends the body, whose length nobody knows
        self.end_headers()
        try:
            self._stream(script)
        except OSError:
            self.owner.gone.set()

    def _stream(self, script: Script) -> None:
        finish = "stop"
        for item in script:
            match item:
                case None:
                    return
                case threading.Event():
                    self._wait(item)
                case {"error": _}:
                    self._event(item)
                    return
                case {"finish_reason": reason}:
                    finish = reason
                case str():
                    self._event({"choices": [{"index": 0, "delta": {"content": item}, "finish_reason": None}]})
                case _:
                    self._event({"choices": [{"index": 0, "delta": item, "finish_reason": None}]})
        self._event({"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]})
        self._event({"choices": [], "usage": self.owner.usage})
        self._write(b"data: [DONE]\n\n")

    def _event(self, value: Any) -> None:
        self._write(f"data: {json.dumps(value, ensure_ascii=False)}\n\n".encode())

    def _write(self, data: bytes) -> None:
        for at in range(0, len(data), self.owner.bytes_at_once):
            self.wfile.write(data[at : at + self.owner.bytes_at_once])
            self.wfile.flush()

    def _wait(self, gate: threading.Event) -> None:
        """Raises OSError when the client leaves meanwhile."""
        while not gate.wait(0.02):
            readable = select.select([self.connection], [], [], 0)[0]
            if readable and not self.connection.recv(1, socket.MSG_PEEK):
                raise ConnectionResetError

    def _is_allowed(self) -> bool:
        key = self.owner.key
        allowed = key is None or self.headers["authorization"] == f"Bearer {key}"
        if not allowed:
            self._refuse(Refusal(401, "a valid API key is needed (Authorization: Bearer …)"))
        return allowed

    def _refuse(self, refusal: Refusal) -> None:
        body = json.dumps({"error": {"message": refusal.message, "code": "refused"}}).encode()
        self._send(refusal.status, "application/json", body, refusal.headers)

    def _send(self, status: int, kind: str, body: bytes, headers: dict[str, str] | None = None) -> None:
        with suppress(OSError):
            self.send_response(status)
            for name, value in {"content-type": kind, "content-length": str(len(body)), **(headers or {})}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)
