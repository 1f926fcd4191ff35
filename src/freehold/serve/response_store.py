"""Responses that a later request may go on from: in memory, within a bound, each for its own key."""

import json
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from freehold.serve.errors import ServeError

MAX_BYTES = 64 << 20  # of all that is kept; the longest unused goes first
MAX_RESPONSES = 4096


@dataclass(frozen=True, slots=True)
class Stored:
    response: dict[str, Any]
    messages: list[dict[str, Any]]  # in OpenAI's shape: the conversation so far, the reply included
    input_items: list[dict[str, Any]]
    num_bytes: int


class ResponseStore:
    def __init__(self, max_bytes: int = MAX_BYTES, max_responses: int = MAX_RESPONSES):
        self._max_bytes, self._max_responses = max_bytes, max_responses
        self._kept: OrderedDict[tuple[bytes, str], Stored] = OrderedDict()
        self._num_bytes = 0

    def put(
        self,
        salt: bytes,
        response: dict[str, Any],
        messages: list[dict[str, Any]],
        input_items: list[dict[str, Any]],
    ) -> None:
        size = len(json.dumps([response, messages, input_items]))
        self._kept[salt, response["id"]] = Stored(response, messages, input_items, size)
        self._num_bytes += size
        while self._num_bytes > self._max_bytes or len(self._kept) > self._max_responses:
            _, oldest = self._kept.popitem(last=False)
            self._num_bytes -= oldest.num_bytes

    def get(self, salt: bytes, ident: str) -> Stored:
        """Raises ServeError where this key has none of that name, or no more."""
        found = self._kept.get((salt, ident))
        if found is None:
            message = f"response {ident[:200]!r}: not here, or no longer (they are kept in memory, the latest ones)"
            raise ServeError(404, message, "response_not_found", "previous_response_id")
        self._kept.move_to_end((salt, ident))
        return found

    def delete(self, salt: bytes, ident: str) -> None:
        """Raises as `get`."""
        self._num_bytes -= self.get(salt, ident).num_bytes
        del self._kept[salt, ident]
