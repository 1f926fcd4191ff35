"""Clients of a completions endpoint: a fixed number at once, each reading its stream as it comes.

They are one loop over sockets, so that what is measured is the server and not its clients.
"""

import json
import selectors
import socket
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

END = b"0\r\n\r\n"  # of a chunked answer
TAIL_BYTES = 2000


@dataclass
class Reply:
    """What one client saw: seconds of its request, and of each read that brought events of tokens."""

    asked: float
    times: list[float] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)  # events of each read
    tail: bytes = b""
    left: bool = False  # the client went away on purpose

    @property
    def seconds_to_first(self):
        return self.times[0] - self.asked

    @property
    def gaps(self):
        """Seconds between tokens; those that come together have none between them."""
        between = [later - earlier for earlier, later in zip(self.times, self.times[1:], strict=False)]
        return between + [0.0] * (sum(self.counts) - len(self.times))


class ClientError(Exception):
    """An answer that is no stream of events, or that did not end as it must."""


def ask_all(port, bodies: Iterable[dict], num_clients, *, path="/v1/completions", leaves=lambda index: None):
    """(replies, seconds in all) of `bodies`, `num_clients` at a time.

    `leaves(index)`: the number of events after which the client of that index goes away, None for those that stay.
    Raises ClientError for an answer that is not a whole stream that ended with "length".
    """
    selector, waiting = selectors.DefaultSelector(), enumerate(bodies)
    replies, num_open, began = [], 0, time.perf_counter()
    while True:
        while num_open < num_clients and (following := next(waiting, None)):
            index, body = following
            replies.append(reply := Reply(time.perf_counter()))
            selector.register(_ask(port, path, body), selectors.EVENT_READ, (reply, leaves(index)))
            num_open += 1
        if not num_open:
            return replies, time.perf_counter() - began
        for key, _ in selector.select():
            reply, last = key.data
            is_over = _read(key.fileobj, reply)
            reply.left = not is_over and last is not None and sum(reply.counts) >= last
            if is_over or reply.left:
                selector.unregister(key.fileobj)
                key.fileobj.close()
                num_open -= 1
            if is_over:
                _check(reply)


def _ask(port, path, body):
    connection = socket.create_connection(("127.0.0.1", port), 120)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Type: application/json\r\n"
    connection.sendall(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
    return connection


def _read(connection, reply):
    """Whether the answer is over."""
    data = connection.recv(1 << 16)
    if count := data.count(b'"text":'):
        reply.times.append(time.perf_counter())
        reply.counts.append(count)
    reply.tail = (reply.tail + data)[-TAIL_BYTES:]
    return not data or reply.tail.endswith(END)


def _check(reply):
    if b'"length"' not in reply.tail or not reply.counts:
        raise ClientError(reply.tail[-500:].decode(errors="replace"))
