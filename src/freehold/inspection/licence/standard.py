"""Standard licences in a text, and what the text adds to them.

The library `licenseclassifier` finds the texts on SPDX's list; what stands outside of them is the residual. Its
templates leave room for names in the middle of a text, and it finds nothing once a clause is put between two sentences,
so the texts that labs change most often are also held against the words themselves (data/standard): a word of the text
is known when four words in a row with it stand in the standard text, and what is not known is the residual.
"""

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from license_expression import get_license_index
from licenseclassifier import identify_license

from freehold.inspection.licence.clauses import DATA
from freehold.inspection.licence.expression import current, joined, licensing
from freehold.inspection.licence.prose import Prose, Sentence, words
from freehold.inspection.licence.terms import Clause, Sort

_IN_A_ROW = 4
_MIN_KNOWN = 0.7  # of a standard text's words, in a text that is built on it
_MIN_SAME = 0.8  # of a text's own words, in one that is cut short
_MAX_NAME_WORDS = 12  # in a row, where a template has room for a name
_MIN_REGION = 120  # characters; shorter matches are links and notices

_Row = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Match:
    """`expression`: what was found; `residual`: sentences that it does not hold; `is_whole`: no words are missing."""

    expression: str
    residual: tuple[Sentence, ...]
    is_whole: bool

    @property
    def is_exact(self) -> bool:
        return not self.residual and self.is_whole


def match(prose: Prose) -> Match | None:
    """The standard licences that a text holds; None when it is built on none."""
    text = prose.content
    regions = [r for r in identify_license(text, coverage_threshold=0.0) if r.end - r.start >= _MIN_REGION]
    nearest = _nearest(text)
    covered = sum(region.end - region.start for region in regions)
    if nearest and covered < len(text.strip()) // 2:
        return nearest
    if not regions:
        return None
    outside = _blank(text, [(region.start, region.end) for region in regions])
    residual = [s for s in Prose(outside, False).sentences() if not is_harmless(s.text)]
    for identifier in dict.fromkeys(region.id for region in regions if region.id in _references()):
        reference = _references()[identifier]
        inside = _blank(text, _gaps([(r.start, r.end) for r in regions if r.id == identifier], len(text)))
        residual += [s for s in _unknown(inside, reference) if _holds_more_than_a_name(s.text, reference)]
    expression = joined([current(region.id) for region in regions])
    return Match(expression, tuple(residual), not prose.has_more)


def is_harmless(sentence: str) -> bool:
    """Whether a sentence beside a licence text adds no terms: a title, a copyright line, how to apply it."""
    harmless, never = _residual_patterns()
    sentence = sentence.lower()
    return not never.search(sentence) and any(pattern.match(sentence) for pattern in harmless)


def clauses_of(expression: str, sentences: Sequence[Sentence] = ()) -> tuple[Clause, ...]:
    """What the licences of an expression ask, with their clauses quoted from the text where it is at hand."""
    found: dict[tuple[str, str], Clause] = {}
    for identifier in licensing().license_keys(licensing().parse(expression)):
        for entry in _asked_by(str(identifier)):
            clause = Clause(
                entry["kind"],
                entry["label"],
                Sort(entry["sort"]),
                entry["plain"],
                entry.get("quote", ""),
                entry.get("values", {}),
            )
            found.setdefault((clause.kind, clause.plain), _with_line(clause, sentences))
    return tuple(found.values())


def _with_line(clause: Clause, sentences: Sequence[Sentence]) -> Clause:
    start = words(clause.quote)[:6]
    for sentence in sentences if start else ():
        if " ".join(start) in " ".join(words(sentence.text)):
            return Clause(
                clause.kind, clause.label, clause.sort, clause.plain, clause.quote, clause.values, "", sentence.line
            )
    return clause


def _asked_by(identifier: str) -> list[Mapping[str, Any]]:
    data = _standards()
    groups = [group for group in data["group"] if identifier in group["licences"]]
    if groups:
        return [clause for group in groups for clause in group["clause"]]
    category = _categories().get(identifier, "")
    return [data["category"][category]] if category in data["category"] else []


@cache
def _standards() -> Mapping[str, Any]:
    return tomllib.loads((DATA / "standards.toml").read_text("utf-8"))


@cache
def _categories() -> Mapping[str, str]:
    """ScanCode's category by SPDX identifier, from the index that license-expression ships."""
    return {
        entry["spdx_license_key"]: entry["category"] for entry in get_license_index() if entry.get("spdx_license_key")
    }


@cache
def _references() -> Mapping[str, str]:
    return {path.stem: path.read_text("utf-8") for path in sorted((DATA / "standard").glob("*.txt"))}


def _nearest(text: str) -> Match | None:
    """The reference that a changed text is built on, or was cut off from."""
    rows = set(_rows(words(text)))
    best: tuple[float, str] = (0.0, "")
    for identifier, reference in _references().items():
        known = _rows(words(reference))
        best = max(best, (sum(row in rows for row in known) / len(known), identifier))
    share, identifier = best
    if not identifier:
        return None
    reference = _references()[identifier]
    is_cut_short = share > 0.2 and _known_share(text, reference) > _MIN_SAME
    if share < _MIN_KNOWN and not is_cut_short:
        return None
    residual = [s for s in _unknown(text, reference) if not is_harmless(s.text)]
    return Match(identifier, tuple(residual), share > 0.999)


def _rows(found: Sequence[str]) -> list[_Row]:
    return [tuple(found[i : i + _IN_A_ROW]) for i in range(len(found) - _IN_A_ROW + 1)]


def _known_share(text: str, reference: str) -> float:
    found = words(text)
    known = _known(found, frozenset(_rows(words(reference))))
    return sum(known) / max(len(found), 1)


def _known(found: Sequence[str], rows: frozenset[_Row]) -> list[bool]:
    """For each word whether four in a row with it stand in the standard text."""
    known = [False] * len(found)
    for start in range(len(found) - _IN_A_ROW + 1):
        if tuple(found[start : start + _IN_A_ROW]) in rows:
            known[start : start + _IN_A_ROW] = [True] * _IN_A_ROW
    return known


def _unknown(text: str, reference: str) -> list[Sentence]:
    """Sentences with words that are not the standard text's."""
    rows = frozenset(_rows(words(reference)))
    sentences = Prose(text, False).sentences()
    counts = [len(words(s.text)) for s in sentences]
    known = _known([word for s in sentences for word in words(s.text)], rows)
    found, position = [], 0
    for sentence, count in zip(sentences, counts, strict=True):
        if not all(known[position : position + count]):
            found.append(sentence)
        position += count
    return found


def _holds_more_than_a_name(sentence: str, reference: str) -> bool:
    """Whether words that a template leaves room for say more than who made it."""
    found = words(sentence)
    known = _known(found, frozenset(_rows(words(reference))))
    _, never = _residual_patterns()
    strange = [word for word, is_known in zip(found, known, strict=True) if not is_known]
    is_own_sentence = len(strange) == len(found) > _IN_A_ROW
    is_long = is_own_sentence or len(strange) > _MAX_NAME_WORDS
    return not is_harmless(sentence) and (is_long or never.search(" ".join(strange)) is not None)


def _blank(text: str, spans: Sequence[tuple[int, int]]) -> str:
    """The text with spans, in order, made empty, and every line where it was."""
    pieces, position = [], 0
    for start, end in spans:
        pieces += [text[position:start], re.sub(r"[^\n]", " ", text[start:end])]
        position = end
    return "".join([*pieces, text[position:]])


def _gaps(spans: Sequence[tuple[int, int]], length: int) -> list[tuple[int, int]]:
    """What lies between spans."""
    edges = [0, *(edge for span in spans for edge in span), length]
    return [(edges[i], edges[i + 1]) for i in range(0, len(edges), 2)]


@cache
def _residual_patterns() -> tuple[tuple[re.Pattern[str], ...], re.Pattern[str]]:
    data = tomllib.loads((DATA / "residual.toml").read_text("utf-8"))
    return tuple(re.compile(pattern) for pattern in data["harmless"]), re.compile(data["never"])
