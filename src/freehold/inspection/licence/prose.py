"""Licence texts as sentences with their lines, and as words: what the rest of the detection reads.

A text is a stranger's: it is cut at a size, control characters and invisible ones are taken out, and nothing here can
take longer than its length. Angle brackets become spaces, because what stands between them would be markup to a
matcher and so could hide a clause.
"""

import hashlib
import re
import unicodedata
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, pairwise

MAX_CHARACTERS = 1 << 16  # the longest licence in use has 40,000
MAX_SENTENCES = 2000  # the longest has 500
MAX_SENTENCE = 3000
_MAX_HEAD = 400

_INVISIBLE = re.compile(
    r"\x1b\[[0-9;?]{0,20}[A-Za-z]|[\x00-\x08\x0b\x0e-\x1f\x7f-\x9f\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff]"
)
_FOLD = str.maketrans("“”„«»‘’‐‑–—<>", '"""""\'\'----  ')
_SINGLE_QUOTED = re.compile(r"(?<![\w'])'([A-Z][^'\n\"]{2,60})'(?![\w'])")
_WORD = re.compile(r"[\u3400-\u9fff]|[^\W_\u3400-\u9fff]+(?:'[a-z]+)?")
_FRONT_MATTER = re.compile(r"\A---[ \t]*\n(?:[^\n]*\n){1,2000}?---[ \t]*(?:\n|\Z)")

_NUMBERED = r"(?:[a-zA-Z]|[ivxIVX]{1,4}|\d{1,2}(?:\.\d{1,2}){0,3})[.)、]"
_LIST_MARK = re.compile(rf"\s*(?:[-*•·–#]+\s|\(?{_NUMBERED}\s*\S|第.{{1,3}}条|[一二三四五六七八九十]+、)")
_MARK = re.compile(rf"\s*(?:[-*•·–#]+|\(?{_NUMBERED})\s+")
_OPENS_LIST = (":", ":", " to", " for")
_SENTENCE_END = re.compile(
    r"(?<![A-Z])(?<!\be\.g)(?<!\bi\.e)(?<!\bInc)(?<!\bLtd)(?<!\bCo)(?<!\bNo)(?<!\bvs)"
    r"[.!?][\"')\]]*\s+(?=[A-Z\"'(\[\d]|[a-z][.)]\s)|[。！？；]\s*|;\s+(?=\(?[a-z0-9ivx]{1,4}[.)]\s)"
)
# How a sentence begins that is no item of the list above it.
_FRESH = re.compile(
    r"(?:You|This|These|The|We|If|Nothing|Except|Notwithstanding|With respect|Please|By|Upon|To the maximum|In no event"
    r"|Subject to|Sections? \w|Licensor|Attachment|END OF)\b.{40,}[.:]$"
    r"|[^\W\d_]{0,40}[\"'][^\"']{1,60}[\"']\)? (?:means|shall mean)"
)


@dataclass(frozen=True, slots=True)
class Sentence:
    """`text` with folded quotes and single spaces; `head`: the words with a colon that it is an item under."""

    text: str
    line: int
    head: str = ""


@dataclass(frozen=True, slots=True)
class Prose:
    """A text made fit for reading: `content` with its lines as they were, and whether its end was cut off."""

    content: str
    is_cut: bool

    @classmethod
    def of(cls, text: str, max_characters: int = MAX_CHARACTERS) -> "Prose":
        is_cut = len(text) > max_characters
        text = text[:max_characters].replace("\r\n", "\n").replace("\r", "\n").replace("\x0c", "\n")
        text = unicodedata.normalize("NFKC", _INVISIBLE.sub("", text))[: 2 * max_characters]
        front = _FRONT_MATTER.match(text)
        if front:  # a catalogue's record above the text; its lines still count
            text = "\n" * front.group().count("\n") + text[front.end() :]
        return cls(_SINGLE_QUOTED.sub(r'"\1"', text.translate(_FOLD)), is_cut)

    def sentences(self) -> list[Sentence]:
        """The first MAX_SENTENCES sentences."""
        return list(islice(_sentences(self.content), MAX_SENTENCES))

    @property
    def has_more(self) -> bool:
        """Whether there is more than is read of it."""
        return self.is_cut or next(islice(_sentences(self.content), MAX_SENTENCES, None), None) is not None


def printable(text: str) -> str:
    """A text without control characters and invisible ones, on one line."""
    return " ".join(_INVISIBLE.sub("", text).split())


def words(text: str) -> list[str]:
    """Lower-case words without punctuation: what stays the same when a text is wrapped or quoted anew."""
    return _WORD.findall(text.lower().replace("licence", "license"))


def fingerprint(text: str) -> str:
    """sha256 of a text's words in order."""
    return hashlib.sha256(" ".join(words(text)).encode()).hexdigest()


def _sentences(text: str) -> Iterator[Sentence]:
    starts = [0, *(match.end() for match in re.finditer("\n", text))]
    head, head_mark = "", ("", 0)
    for start, end in _paragraphs(text):
        mark = _mark(text[start:end])
        found = _MARK.match(text, start, end)
        start = found.end() if found else start
        if _ends_list(text[start:end].strip(), mark, head_mark):
            head = ""
        for begin, stop in pairwise([start, *_stops(text, start, end)]):
            sentence = _clean(text[begin:stop])
            if not sentence:
                continue
            line = bisect_right(starts, begin + _indent(text[begin:stop]))
            yield Sentence(sentence, line, head)
            if sentence.endswith(_OPENS_LIST):
                head_mark = head_mark if head else mark
                head = f"{head[:_MAX_HEAD]} {sentence[-_MAX_HEAD:]}".strip()


def _mark(block: str) -> tuple[str, int]:
    """What kind of list mark a block begins with, and how far in: ("1", 4), ("a", 8), ("-", 0), ("", 0)."""
    match = _MARK.match(block)
    if match is None:
        return "", _indent(block)
    sign = match[0].strip(" \t\n([")[:1]
    return "1" if sign.isdigit() else "a" if sign.isalpha() else "-", _indent(block)


def _ends_list(block: str, mark: tuple[str, int], head_mark: tuple[str, int]) -> bool:
    """Whether a block is no item of the list above it."""
    if not mark[0]:
        return _FRESH.match(" ".join(block.split())) is not None
    return mark[0] == head_mark[0] and mark[1] <= head_mark[1]


def _paragraphs(text: str) -> list[tuple[int, int]]:
    """Blocks that no sentence crosses: parted by blank lines, list marks, and ends of long lines."""
    blocks: list[tuple[int, int]] = []
    start = position = 0
    previous = ""
    for line in text.splitlines(keepends=True):
        is_break = not line.strip() or _LIST_MARK.match(line) or _ends_block(previous)
        if is_break and position > start:
            blocks.append((start, position))
            start = position
        position += len(line)
        previous = line
    if position > start:
        blocks.append((start, position))
    return blocks


def _ends_block(line: str) -> bool:
    line = line.rstrip()
    return (
        line.endswith((":", ":"))
        or line.startswith("#")
        or (len(line) > 110 and line.endswith((".", ";", "。", '"', ")")))
    )


def _stops(text: str, start: int, end: int) -> list[int]:
    ends = _SENTENCE_END.finditer(text, start, end)
    stops = [match.end() for match in ends if not _is_quoted(text, start, match.start())]
    pieces, position = [], start
    for stop in [*stops, end]:
        while stop - position > MAX_SENTENCE:
            position += MAX_SENTENCE
            pieces.append(position)
        pieces.append(stop)
        position = stop
    return pieces


def _is_quoted(text: str, start: int, position: int) -> bool:
    """Whether a quotation that began not long before is still open there."""
    return text.count('"', start, position + 1) % 2 == 1 and position - text.rfind('"', start, position + 1) < _MAX_HEAD


def _indent(text: str) -> int:
    return len(text) - len(text.lstrip())


def _clean(text: str) -> str:
    return " ".join(text.replace("**", "").replace("`", "").split())
