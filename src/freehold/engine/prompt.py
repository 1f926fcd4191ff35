"""Log-probabilities of tokens that are known, from the logits before them."""

from collections.abc import Sequence
from typing import Any


def prompt_logprobs(logits: Any, tokens: Sequence[int], count: int) -> list[tuple[float, list[tuple[int, float]]]]:
    """For each row of `logits`, float32 (len(tokens), vocabulary): that of its token, and the `count` likeliest."""
    import numpy

    rows = logits.astype(numpy.float64)
    rows -= rows.max(-1, keepdims=True)
    rows -= numpy.log(numpy.exp(rows).sum(-1, keepdims=True))
    result = []
    for row, token in zip(rows, tokens, strict=True):
        likeliest = numpy.argpartition(-row, count - 1)[:count] if count else []
        top = sorted(((int(t), float(row[t])) for t in likeliest), key=lambda pair: (-pair[1], pair[0]))
        result.append((float(row[token]), top))
    return result
