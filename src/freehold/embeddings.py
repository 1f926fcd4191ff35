"""Vectors of texts, from the hidden states that a model ends with."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from freehold.engine.request import Event, FinishEvent, HiddenEvent, Request
from freehold.errors import EngineError, UnsupportedError

POOLINGS = {1: "mean", 2: "cls", 3: "last", 4: "rank"}  # GGUF's {architecture}.pooling_type


@dataclass(frozen=True, slots=True)
class Embedded:
    vector: Any  # float32 (width,), of length 1
    num_tokens: int


def pooling_of(metadata: Mapping[str, Any]) -> str:
    """What the model's file says, "mean" where it says nothing."""
    return POOLINGS.get(metadata.get(f"{metadata.get('general.architecture')}.pooling_type", 0), "mean")


class PendingEmbedding:
    """Takes the events of one request. Raises UnsupportedError for a pooling that a decoder does not have."""

    def __init__(self, request: Request, pooling: str):
        if pooling not in ("mean", "last"):
            raise UnsupportedError(f"embeddings: pooling {pooling!r} is not supported, only mean and last")
        self.request, self._pooling = request, pooling
        self._rows: dict[int, Any] = {}  # by the position of the first
        self._finish: FinishEvent | None = None

    @property
    def is_done(self) -> bool:
        return self._finish is not None

    def take(self, event: Event) -> None:
        if isinstance(event, HiddenEvent):
            self._rows[event.first] = event.rows
        elif isinstance(event, FinishEvent):
            self._finish = event

    def result(self) -> Embedded:
        """Raises the request's error if it failed."""
        import numpy

        assert self._finish is not None
        if self._finish.reason != "stop":
            raise self._finish.error or EngineError("the model was closed before its embedding was there")
        rows = numpy.empty((self.request.num_prompt, next(iter(self._rows.values())).shape[1]), numpy.float32)
        for first, part in sorted(self._rows.items()):
            rows[first : first + len(part)] = part
        pooled = rows[-1].astype(numpy.float64) if self._pooling == "last" else rows.mean(0, dtype=numpy.float64)
        length = float(numpy.linalg.norm(pooled)) or 1.0
        return Embedded((pooled / length).astype(numpy.float32), self.request.num_prompt)
