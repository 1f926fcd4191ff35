"""The server's process: sockets, signals, logs."""

import logging
import signal
import socket
import sys
from typing import Any

import uvicorn

from freehold.errors import RequestError
from freehold.serve.app import make_app
from freehold.serve.guard import JsonLines
from freehold.serve.settings import Settings
from freehold.store.references import resolve

log = logging.getLogger("freehold.serve")


def serve(settings: Settings, log_level: str = "info") -> None:
    """Serve until SIGTERM or SIGINT. Raises RequestError when the address cannot be used."""
    for ref in settings.models:
        resolve(ref)  # an unknown model is said at once
    _log_lines(log_level)
    listening = _listen(settings)
    port = listening.getsockname()[1]
    app = make_app(settings, stop=lambda: setattr(server, "should_exit", True))
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        ssl_certfile=settings.tls_certificate,
        ssl_keyfile=settings.tls_key,
        timeout_graceful_shutdown=max(1, int(settings.drain_s)),
        h11_max_incomplete_event_size=64 << 10,
    )
    server = _Server(config, app.state)
    url = settings.url.rsplit(":", 1)[0] + f":{port}"
    log.info("listening", extra={"fields": {"url": url}})
    print(f"Freehold is at {url}", file=sys.stderr, flush=True)
    server.run(sockets=[listening])


class _Server(uvicorn.Server):
    """Says that it drains as soon as it is told to stop."""

    def __init__(self, config: uvicorn.Config, state: Any):
        super().__init__(config)
        self._state = state

    def handle_exit(self, sig: int, frame: Any) -> None:
        self._state.draining = True
        super().handle_exit(signal.SIGTERM, frame)


def _listen(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((settings.host, settings.port))
    except OSError as error:
        raise RequestError(f"--host {settings.host} --port {settings.port}: {error.strerror or error}") from None
    listening.listen(1024)
    return listening


def _log_lines(level: str) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    root = logging.getLogger("freehold")
    root.addHandler(handler)
    root.setLevel(level.upper())
    root.propagate = False
