"""Patterns with gaps that match in linear time.

A pattern is a regular expression in which `.{0,N}` at the top level is a gap. It is not given to the regular
expression engine as such, where several gaps multiply on hostile text, but cut at its gaps: every piece is sought once
in the whole text, and the places are then joined from left to right. Case is folded beforehand, in text and pattern.
"""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from functools import cache

Span = tuple[int, int]
_GAP = re.compile(r"\.\{0,(\d+)\}\??")
_MACRO = re.compile(r"\{([a-z_]+)\}")


class Pattern:
    """Alternatives, each a row of pieces with the widest gap before each piece but the first."""

    def __init__(self, source: str, macros: Mapping[str, str]):
        self.alternatives = [_cut(part) for part in _split(fold(expand(source, macros)))]

    def matches(self, text: "Text", index: int) -> bool:
        return any(_join(text, index, pieces) for pieces in self.alternatives)

    def indices(self, text: "Text") -> set[int]:
        """Sentences that hold all pieces of an alternative, be they in order or not: few, and found at once."""
        found: set[int] = set()
        for pieces in self.alternatives:
            here = set(text.spans(pieces[0][1]))
            for _, piece in pieces[1:]:
                here = here & text.spans(piece).keys() if here else here
            found |= here
        return found

    def found_in(self, words: str) -> bool:
        """Whether it matches in one short text."""
        text = Text([words])
        return self.matches(text, 0)


class Text:
    """Sentences that pieces are sought in: each piece once, over all of them."""

    def __init__(self, sentences: Sequence[str]):
        self.sentences = [sentence.lower() for sentence in sentences]
        self._starts, position = [], 0
        for sentence in self.sentences:
            self._starts.append(position)
            position += len(sentence) + 1
        self._joined = "\n".join(self.sentences)
        self._spans: dict[str, dict[int, list[Span]]] = {}

    def spans(self, piece: str) -> dict[int, list[Span]]:
        """A piece's places by sentence."""
        if piece not in self._spans:
            found: dict[int, list[Span]] = {}
            for match in _compiled(piece).finditer(self._joined):
                index = bisect_right(self._starts, match.start()) - 1
                start, end = match.start() - self._starts[index], match.end() - self._starts[index]
                if end <= len(self.sentences[index]):  # else it runs over into the next sentence
                    found.setdefault(index, []).append((start, end))
            self._spans[piece] = found
        return self._spans[piece]


def expand(source: str, macros: Mapping[str, str]) -> str:
    """Macros in braces replaced, also inside of macros. Raises KeyError for one that is not there."""
    while _MACRO.search(source):
        source = _MACRO.sub(lambda match: macros[match[1]], source)
    return source


def fold(source: str) -> str:
    """A pattern's letters in lower case, its escapes (\\W, \\S) as they are."""
    return re.sub(r"\\.|[A-Z]+", lambda match: match[0] if match[0][0] == "\\" else match[0].lower(), source)


@cache
def _compiled(piece: str) -> re.Pattern[str]:
    return re.compile(piece, re.MULTILINE)  # ^ is the beginning of a sentence


def _split(source: str) -> list[str]:
    """Parts between | that stand in no group."""
    return [source[start:end] for start, end in _between(source, "|")]


def _between(source: str, bar: str) -> Iterable[Span]:
    start = 0
    for position in _top_level(source):
        if source[position] == bar:
            yield start, position
            start = position + 1
    yield start, len(source)


def _top_level(source: str) -> Iterable[int]:
    """Places outside of groups, character classes and escapes."""
    depth, position, in_class = 0, 0, False
    while position < len(source):
        character = source[position]
        if character == "\\":
            position += 2
            continue
        if in_class:
            in_class = character != "]"
        elif character == "[":
            in_class = True
        elif character in "()":
            depth += 1 if character == "(" else -1
        elif depth == 0:
            yield position
        position += 1


def _cut(source: str) -> list[tuple[int, str]]:
    outside = set(_top_level(source))
    pieces, start, gap = [], 0, 0
    for match in _GAP.finditer(source):
        if match.start() not in outside:
            continue
        if source[start : match.start()]:
            pieces.append((gap, source[start : match.start()]))
        start, gap = match.end(), int(match[1])
    if source[start:]:
        pieces.append((gap, source[start:]))
    return pieces


def _join(text: Text, index: int, pieces: Sequence[tuple[int, str]]) -> list[Span]:
    found = text.spans(pieces[0][1]).get(index, [])
    for gap, piece in pieces[1:]:
        if not found:
            return []
        following = text.spans(piece).get(index, [])
        starts = [span[0] for span in following]
        joined = []
        for start, end in found:
            low, high = bisect_left(starts, end), bisect_right(starts, end + gap)
            if low < high:
                joined.append((start, following[low][1]))
                if high - 1 > low:
                    joined.append((start, following[high - 1][1]))
        found = sorted(set(joined), key=lambda span: span[1])
    return found
