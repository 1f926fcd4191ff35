"""Ratings in the dimensions of the European Open Source AI Index: open, partial or closed.

The index's people read papers and repositories; this rates what a card and its files tell. Where they are silent the
dimension is closed, as it is in the index.
"""

from dataclasses import dataclass
from enum import StrEnum

from freehold.inspection.evidence.facts import Fact, Standing, strongest
from freehold.inspection.findings import Evidence
from freehold.inspection.openness.criteria import criteria
from freehold.inspection.openness.licences import licence_lists
from freehold.inspection.openness.release import Release


class Grade(StrEnum):
    OPEN = "open"
    PARTIAL = "partial"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class Rating:
    key: str
    label: str
    grade: Grade
    is_evidenced: bool  # False: nothing in the artefacts tells of it
    why: str  # in a few words
    evidence: tuple[Evidence, ...]


def rate(release: Release) -> tuple[Rating, ...]:
    """Every dimension of the index."""
    return tuple(_rating(release, entry) for entry in criteria("osai_index")["dimension"])


def _rating(release: Release, entry: dict) -> Rating:
    fact = _licences(release) if entry["topic"] == "licenses" else _fact(release, entry)
    is_evidenced = fact.standing is not Standing.UNKNOWN
    return Rating(entry["key"], entry["label"], _grade(fact), is_evidenced, _why(fact), fact.evidence)


def _fact(release: Release, entry: dict) -> Fact:
    topic = entry["topic"] if release.facts.is_tuned else entry.get("untuned", entry["topic"])
    fact = release.fact(topic)
    if "or" in entry:
        fact = strongest([fact, release.fact(entry["or"])])
    gate = release.fact("gate")
    if entry.get("gate") and fact.is_present and gate.is_present:
        return Fact(Standing.PARTIAL, gate.evidence)
    return fact


def _licences(release: Release) -> Fact:
    lists = licence_lists()
    weights = release.weights
    if not weights.name:
        return Fact()
    if not (weights.is_open and lists.is_osi_approved(weights.name)):
        return Fact(Standing.ABSENT, weights.evidence, detail=f"weights under {weights.name}")
    code = release.fact("training_code")
    has_code = code.is_present and lists.is_osi_approved(release.licence_of("training_code"))
    detail = f"weights under {weights.name}, training code {'open' if has_code else 'not evidenced as open'}"
    return Fact(Standing.PRESENT if has_code else Standing.PARTIAL, weights.evidence, detail=detail)


def _why(fact: Fact) -> str:
    return f"{fact.standing}: {fact.detail}" if fact.detail else str(fact.standing)


def _grade(fact: Fact) -> Grade:
    if fact.is_present:
        return Grade.OPEN
    return Grade.PARTIAL if fact.standing is Standing.PARTIAL else Grade.CLOSED
