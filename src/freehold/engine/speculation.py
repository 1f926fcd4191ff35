"""Speculative decoding: by prompt lookup and, where the model has a layer for it, by what that foresees.

Prompt lookup (Saxena 2023): what followed the last tokens before is likely to follow again. The tokens proposed are
computed in one step with the known one, and drawn one by one: as long as a draw is what was proposed, the row after it
was computed for the right token. By the law of the same bits each row's logits are those of plain decoding, so that
neither the distribution nor a single draw changes, greedy or sampled.
"""

from collections.abc import Sequence

NGRAM = 3  # tokens that must have come before
MAX_DRAFTS = 7  # a step of 8 rows streams the weights once, as one of 1 does
MAX_PAUSE = 64  # tokens


class Pause:
    """How long to leave off after guesses that were all wrong: longer each time, until one is right again."""

    def __init__(self) -> None:
        self._left = 0  # tokens until the next proposal
        self._next = 1

    def goes_on(self) -> bool:
        """Whether this token is left to plain decoding."""
        self._left -= (was_left := self._left > 0)
        return was_left

    def learn(self, proposed: int, accepted: int) -> None:
        """Hear how many of the tokens proposed were drawn."""
        if accepted:
            self._next = 1
        else:
            self._left, self._next = self._next, min(MAX_PAUSE, 2 * self._next)


class PromptLookup:
    """Proposes continuations of one request's tokens, more where they prove right and seldom where they do not."""

    def __init__(self) -> None:
        self._after: dict[tuple[int, ...], int] = {}  # where the latest occurrence of each n-gram ended
        self._indexed = NGRAM  # ends of n-grams below this are in the index
        self._limit = MAX_DRAFTS // 2 + 1
        self._pause = Pause()

    def propose(self, tokens: Sequence[int], most: int) -> list[int]:
        """Up to `most` tokens that may follow; none while past proposals were wrong."""
        for end in range(self._indexed, len(tokens)):
            self._after[tuple(tokens[end - NGRAM : end])] = end
        self._indexed = max(self._indexed, len(tokens))
        if self._pause.goes_on():
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
            self._limit = min(MAX_DRAFTS, 2 * self._limit)
        elif accepted == 0:
            self._limit = max(1, self._limit // 2)
        self._pause.learn(proposed, accepted)


class Speculation:
    """Proposes what may follow one request's tokens, and hears what became of it."""

    def __init__(self) -> None:
        self._lookup, self._pause = PromptLookup(), Pause()
        self._asked: PromptLookup | Pause = self._lookup

    def asks_layer(self) -> bool:
        """Whether the model's layer is to make a guess behind the token that was drawn last."""
        return not self._pause.goes_on()

    def propose(self, tokens: Sequence[int], foreseen: Sequence[int], most: int) -> list[int]:
        """Up to `most` tokens that may follow.

        Where prompt lookup differs from what the model's layer has `foreseen`, the layer is believed: it has read all
        of the text, not its last tokens alone.
        """
        drafts, self._asked = self._lookup.propose(tokens, most), self._lookup
        if foreseen and drafts[:1] != foreseen[:1]:
            drafts, self._asked = list(foreseen[:most]), self._pause
        return drafts

    def learn(self, proposed: int, accepted: int) -> None:
        """Hear how many of the tokens proposed were drawn."""
        self._asked.learn(proposed, accepted)
