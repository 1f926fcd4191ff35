"""Clients of a completions endpoint: a fixed number at once, each reading its stream as it comes.

They are one loop over sockets, so that what is measured is the server and not its clients.
"""

import json
import selectors
import socket
import time
from dataclasses import dataclass, field


@dataclass
class Reply:
    """What one client saw: monotonic seconds of its request and of each read that brought events."""

    asked: float = 0.0
    times: list[float] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)  # events of each read
    data: bytes = b""

    @property
    def num_events(self):
        return sum(self.counts)

    @property
    def to_first(self):
        return self.times[0] - self.asked

    @property
    def gaps(self):
        """Seconds between events; those that come together have none between them."""
        between = [later - earlier for earlier, later in zip(self.times, self.times[1:], strict=False)]
        return between + [0.0] * (self.num_events - len(self.times))


class ClientError(Exception):
    """An answer that is no stream of events, or that ended early."""


def ask_all(port, path, bodies, num_clients, marker=b'"text":', headers=""):
    """(replies, seconds in all) of `bodies`, `num_clients` at a time. `marker`: what each token's event has."""
    selector, waiting = selectors.DefaultSelector(), list(reversed(bodies))
    replies, open_ones = [], 0
    began = time.perf_counter()
    while waiting or open_ones:
        while waiting and open_ones < num_clients:
            replies.append(reply := Reply(time.perf_counter()))
            selector.register(_ask(port, path, waiting.pop(), headers), selectors.EVENT_READ, reply)
            open_ones += 1
        for key, _ in selector.select():
            data = key.fileobj.recv(1 << 16)
            reply = key.data
            if count := data.count(marker):
                reply.times.append(time.perf_counter())
                reply.counts.append(count)
            reply.data = (reply.data + data)[-2000:] if reply.counts else reply.data + data
            if not data or data.endswith((b"data: [DONE]\n\n\r\n0\r\n\r\n", b"\r\n0\r\n\r\n", b"0\r\n\r\n")):
                selector.unregister(key.fileobj)
                key.fileobj.close()
                open_ones -= 1
                if not reply.counts:
                    raise ClientError(reply.data[-500:].decode(errors="replace"))
    return replies, time.perf_counter() - began


def _ask(port, path, body, headers):
    connection = socket.create_connection(("127.0.0.1", port), 120)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Type: application/json\r\n{headers}"
    connection.sendall(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
    return connection
