"""A fact: what the artefacts show of one topic, and where. What they do not show is not evidenced, never guessed."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from freehold.inspection.findings import Evidence

MAX_EVIDENCE = 4  # a card may say the same thing a hundred times


class Standing(StrEnum):
    PRESENT = "present"
    PARTIAL = "partial"
    ABSENT = "absent"  # the artefacts say that it is not published
    UNKNOWN = "not evidenced"


# What a later source may improve on: a statement that something is there outweighs one that it is not.
_ORDER = (Standing.UNKNOWN, Standing.ABSENT, Standing.PARTIAL, Standing.PRESENT)


@dataclass(frozen=True, slots=True)
class Fact:
    """`licence` is an SPDX identifier or a name, empty when none is evidenced; `detail` is for people."""

    standing: Standing = Standing.UNKNOWN
    evidence: tuple[Evidence, ...] = ()
    licence: str = ""
    detail: str = ""

    @property
    def is_present(self) -> bool:
        return self.standing is Standing.PRESENT

    @property
    def is_published(self) -> bool:
        return self.standing in (Standing.PRESENT, Standing.PARTIAL)


def strongest(facts: Iterable[Fact]) -> Fact:
    """One fact of several on the same topic: the highest standing, with all the evidence for it."""
    facts = list(facts)
    top = max((fact.standing for fact in facts), key=_ORDER.index, default=Standing.UNKNOWN)
    same = [fact for fact in facts if fact.standing is top]
    evidence = dict.fromkeys(e for fact in same for e in fact.evidence)
    return Fact(
        top,
        tuple(evidence)[:MAX_EVIDENCE],
        next((fact.licence for fact in same if fact.licence), ""),
        next((fact.detail for fact in same if fact.detail), ""),
    )
