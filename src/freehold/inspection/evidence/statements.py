"""What the sentences of a card say, by the patterns of statements.toml: a thing is published, in part, or not."""

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from freehold.inspection.card import Card, Sentence, quote
from freehold.inspection.evidence.facts import Fact, Standing, strongest
from freehold.inspection.openness.licences import licence_lists

_NOTHING = re.compile(r"(?!)")


@dataclass(frozen=True, slots=True)
class Topic:
    name: str
    present: re.Pattern[str]
    partial: re.Pattern[str]
    named: re.Pattern[str]  # a part that is known, whatever else is denied
    mention: re.Pattern[str]  # counts only when it is denied
    hedges: re.Pattern[str]
    denials: re.Pattern[str]  # beside those of all topics
    needs_availability: bool
    of_a_derived_model: re.Pattern[str] | None  # without it, a derived model's sentence is of the topic `otherwise`
    otherwise: str


@dataclass(frozen=True, slots=True)
class Words:
    """What is common to all topics."""

    denials: re.Pattern[str]
    available: re.Pattern[str]
    aside: re.Pattern[str]
    topics: tuple[Topic, ...]
    aspects: Mapping[str, re.Pattern[str]]
    aspects_needed: int
    aspects_some: int


@cache
def words() -> Words:
    data = tomllib.loads(files("freehold.inspection.evidence").joinpath("statements.toml").read_text("utf-8"))
    aspects = dict(data["aspects"])
    needed, some = aspects.pop("needed"), aspects.pop("some")
    return Words(
        denials=_any(data["denials"]),
        available=_any([data["available"]]),
        aside=_any([data["aside"]]),
        topics=tuple(_topic(entry, data["hedges"]) for entry in data["topic"]),
        aspects={name: _any([pattern]) for name, pattern in aspects.items()},
        aspects_needed=needed,
        aspects_some=some,
    )


def _topic(entry: Mapping[str, Any], hedges: list[str]) -> Topic:
    return Topic(
        name=entry["name"],
        present=_any(entry.get("present", [])),
        partial=_any(entry.get("partial", [])),
        named=_any(entry.get("named", [])),
        mention=_any(entry.get("mention", [])),
        hedges=_any(hedges + entry.get("hedges", [])),
        denials=_any(entry.get("denials", [])),
        needs_availability=entry.get("available", False),
        of_a_derived_model=_any(entry["of_a_derived_model"]) if "of_a_derived_model" in entry else None,
        otherwise=entry.get("otherwise", ""),
    )


def _any(patterns: list[str]) -> re.Pattern[str]:
    return re.compile("|".join(f"(?:{p})" for p in patterns), re.IGNORECASE) if patterns else _NOTHING


def stated(card: Card) -> dict[str, Fact]:
    """What the card's text says of each topic; topics that it does not speak of are left out."""
    found: dict[str, list[Fact]] = {}
    seen: set[str] = set()
    for sentence in card.sentences:
        if len(sentence.text) > 3 and sentence.text not in seen:
            seen.add(sentence.text)
            for name, fact in _in_sentence(card, sentence):
                found.setdefault(name, []).append(fact)
    return {name: strongest(facts) for name, facts in found.items()}


def _in_sentence(card: Card, sentence: Sentence) -> Iterable[tuple[str, Fact]]:
    for clause in words().aside.sub("", sentence.text).split("; "):
        for name, standing, telling in _in_clause(clause, is_derived=bool(card.declared("base_model"))):
            licence = licence_lists().named_in(clause) or ""
            yield name, Fact(standing, (card.line_evidence(sentence),), licence, telling)


def _in_clause(text: str, *, is_derived: bool) -> Iterable[tuple[str, Standing, str]]:
    common = words()
    denied, available = common.denials.search(text), common.available.search(text)
    for topic in common.topics:
        standing, telling = _standing(topic, text, denied, available is not None)
        if standing is not Standing.UNKNOWN:
            is_own = not is_derived or topic.of_a_derived_model is None or topic.of_a_derived_model.search(text)
            yield topic.name if is_own else topic.otherwise, standing, telling


def _standing(topic: Topic, text: str, denied: re.Match[str] | None, is_available: bool) -> tuple[Standing, str]:
    """What a sentence says of a topic, and the words by which it takes something back."""
    whole, part = topic.present.search(text), topic.partial.search(text)
    if not (whole or part or topic.mention.search(text)):
        return Standing.UNKNOWN, ""
    if denied := denied or topic.denials.search(text):
        standing = Standing.PARTIAL if topic.named.search(text) else Standing.ABSENT
        return standing, f"“{quote(denied[0])}”"
    if not (whole or part) or (topic.needs_availability and not is_available):
        return Standing.UNKNOWN, ""
    hedged = topic.hedges.search(text)
    if whole and not hedged:
        return Standing.PRESENT, ""
    return Standing.PARTIAL, f"“{hedged[0]}”" if hedged else ""


def fullness(card: Card) -> Fact:
    """How much of what a card should tell this one speaks of."""
    common = words()
    spoken = [name for name, pattern in common.aspects.items() if pattern.search(card.text)]
    lacking = [name for name in common.aspects if name not in spoken]
    evidence = card.line_evidence(Sentence(f"{len(spoken)} of {len(common.aspects)} aspects", card.first_line, ""))
    standing = (
        Standing.PRESENT
        if len(spoken) >= common.aspects_needed
        else Standing.PARTIAL
        if len(spoken) >= common.aspects_some
        else Standing.ABSENT
    )
    detail = f"does not speak of: {', '.join(lacking)}" if lacking else ""
    return Fact(standing, (evidence,), detail=detail)
