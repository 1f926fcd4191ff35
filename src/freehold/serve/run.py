"""The server's process: sockets, signals, the end."""

import asyncio
import math
import resource
import socket
import ssl
import sys
import time
from typing import Any

import uvicorn

from freehold.errors import RequestError
from freehold.serve.app import Application
from freehold.serve.logs import log_lines, note
from freehold.serve.reports import Examine
from freehold.serve.settings import Settings
from freehold.store.references import resolve

SEND_BUFFER_BYTES = 256 << 10  # of a connection, in the kernel: what a slow reader can leave lying there


def serve(settings: Settings, examine: Examine, log_level: str = "info") -> None:
    """Serve until SIGTERM or SIGINT; `examine` reports on a model when somebody asks.

    Raises RequestError when the address or the certificate cannot be used.
    """
    for ref in settings.models:
        resolve(ref)  # an unknown model is said at once
    _allow_many_connections()
    listening = _listen(settings)
    log_lines(log_level)
    application = Application(settings, stop=lambda: setattr(server, "should_exit", True), examine=examine)
    config = uvicorn.Config(
        application.asgi,
        log_config=None,
        access_log=False,
        server_header=False,
        ws="none",
        ssl_certfile=settings.tls_certificate,
        ssl_keyfile=settings.tls_key,
        timeout_graceful_shutdown=1,
        h11_max_incomplete_event_size=64 << 10,
    )
    try:
        config.load()
    except (OSError, ssl.SSLError) as error:
        raise RequestError(f"TLS: {settings.tls_certificate}, {settings.tls_key}: {error}") from None
    server = _Server(config, application, settings.drain_s)
    url = settings.url(listening.getsockname()[1])
    note("listening", url=url)
    print(f"Freehold is at {url}", file=sys.stderr, flush=True)
    server.run(sockets=[listening])
    if application.pool.failure:
        raise application.pool.failure


class _Server(uvicorn.Server):
    """Told to stop, it takes no more work, lets running replies end, and goes; told again, it goes at once."""

    def __init__(self, config: uvicorn.Config, application: Application, drain_s: float):
        super().__init__(config)
        self._guard, self._pool, self._drain_s = application.guard, application.pool, drain_s
        self._deadline: float | None = None

    def handle_exit(self, sig: int, frame: Any) -> None:
        if self._deadline is None:
            note("draining", running=self._guard.active)
            self._guard.draining = True
            self._deadline = time.monotonic() + self._drain_s
        else:
            self.should_exit = True

    async def on_tick(self, counter: int) -> bool:
        if self._deadline is not None:
            if not self._guard.active:
                self.should_exit = True
            elif time.monotonic() >= self._deadline:
                await asyncio.to_thread(self._pool.close)  # running replies end, and say that they are not whole
                self._deadline = math.inf
        return await super().on_tick(counter)


def _listen(settings: Settings) -> socket.socket:
    place = f"--host {settings.host} --port {settings.port}"
    try:
        family, _, _, _, address = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        listening.bind(address)
    except OSError as error:
        raise RequestError(f"{place}: {error.strerror or error}") from None
    except UnicodeError:  # of a name that no name server can be asked for
        raise RequestError(f"{place}: not the name of a host") from None
    listening.listen(1024)
    return listening


def _allow_many_connections() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = min(hard, 1 << 16) if hard != resource.RLIM_INFINITY else 1 << 16
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
