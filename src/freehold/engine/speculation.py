"""Speculative decoding by prompt lookup (Saxena 2023): what followed the last tokens before is likely to follow again.

The tokens proposed are computed in one step with the known one, and drawn one by one: as long as a draw is what was
proposed, the row after it was computed for the right token. By the law of the same bits each row's logits are those of
plain decoding, so that neither the distribution nor a single draw changes, greedy or sampled.
"""

from collections.abc import Sequence

NGRAM = 3  # tokens that must have come before
MAX_DRAFTS = 7  # a step of 8 rows streams the weights once, as one of 1 does
MAX_PAUSE = 64  # tokens


class PromptLookup:
    """Proposes continuations of one request's tokens, more where they prove right and seldom where they do not."""

    def __init__(self) -> None:
        self._after: dict[tuple[int, ...], int] = {}  # where the latest occurrence of each n-gram ended
        self._indexed = NGRAM  # ends of n-grams below this are in the index
        self._limit = MAX_DRAFTS // 2 + 1
        self._pause = 0  # tokens until the next proposal
        self._next_pause = 1

    def propose(self, tokens: Sequence[int], most: int) -> list[int]:
        """Up to `most` tokens that may follow; none while past proposals were wrong."""
        for end in range(self._indexed, len(tokens)):
            self._after[tuple(tokens[end - NGRAM : end])] = end
        self._indexed = max(self._indexed, len(tokens))
        if self._pause:
            self._pause -= 1
            return []
        at = self._after.get(tuple(tokens[-NGRAM:]))
        drafts: list[int] = []
        if at is not None:
            for i in range(at, at + min(self._limit, most)):  # what repeats itself goes on into the drafts
                drafts.append(tokens[i] if i < len(tokens) else drafts[i - len(tokens)])
        return drafts

    def learn(self, proposed: int, accepted: int) -> None:
        """Hear how many of the tokens proposed were drawn."""
        if accepted == proposed:
            self._limit, self._next_pause = min(MAX_DRAFTS, 2 * self._limit), 1
        elif accepted == 0:
            self._limit = max(1, self._limit // 2)
            self._pause, self._next_pause = self._next_pause, min(MAX_PAUSE, 2 * self._next_pause)
        else:
            self._next_pause = 1
