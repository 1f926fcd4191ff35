"""Licences: what they are, whether they are open, what they ask, and whether a use is allowed.

`examine(artefacts)` reports on a model's files, `detect(text)` on one text, `answer(report, use)` on a use of it.
"""

from freehold.inspection.licence.detect import detect
from freehold.inspection.licence.judge import Answer, Reason, Verdict, answer
from freehold.inspection.licence.report import LicenceReport, examine
from freehold.inspection.licence.terms import Clause, Conflict, Finding, Openness, Parent, ScopeFinding, Sort
from freehold.inspection.licence.use import Use, parse_use

__all__ = [
    "Answer",
    "Clause",
    "Conflict",
    "Finding",
    "LicenceReport",
    "Openness",
    "Parent",
    "Reason",
    "ScopeFinding",
    "Sort",
    "Use",
    "Verdict",
    "answer",
    "detect",
    "examine",
    "parse_use",
]
