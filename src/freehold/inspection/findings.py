"""What every examination says, in one form: rows with their evidence, so that each output can show all of them."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

NOT_EVIDENCED = "not evidenced"  # the value of a row of which the artefacts do not tell


class Status(StrEnum):
    """How a row reads to somebody who must decide."""

    GOOD = "good"
    PARTIAL = "partial"
    BAD = "bad"
    UNKNOWN = "unknown"  # not evidenced: never guessed
    NEUTRAL = "neutral"  # a fact, neither good nor bad


@dataclass(frozen=True, slots=True)
class Evidence:
    """Where a claim rests: `file` is relative to the folder, `place` a line ("line 12") or field ("license")."""

    file: str
    place: str
    quote: str = ""
    asserted_by: str = ""  # a person who added it; empty: the artefact itself


@dataclass(frozen=True, slots=True)
class Row:
    label: str
    value: str
    status: Status = Status.NEUTRAL
    evidence: tuple[Evidence, ...] = ()


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the report: its title, a verdict in a line, rows, and what a reader must know beside them."""

    title: str
    verdict: str
    rows: tuple[Row, ...] = ()
    notes: tuple[str, ...] = ()


def evidence_dict(evidence: Evidence) -> dict[str, str]:
    fields = {"file": evidence.file, "place": evidence.place, "quote": evidence.quote}
    return fields | ({"asserted_by": evidence.asserted_by} if evidence.asserted_by else {})


def section_dict(section: Section) -> dict[str, Any]:
    rows = [
        {
            "label": r.label,
            "value": r.value,
            "status": str(r.status),
            "evidence": [evidence_dict(e) for e in r.evidence],
        }
        for r in section.rows
    ]
    return {"title": section.title, "verdict": section.verdict, "rows": rows, "notes": list(section.notes)}
