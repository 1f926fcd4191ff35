"""The examination of a model's licences: each part by its sources, what it inherits, and where sources contradict."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from freehold.inspection.artefacts import Artefacts
from freehold.inspection.card import Card, read_card
from freehold.inspection.findings import Row, Section
from freehold.inspection.licence import lineage
from freehold.inspection.licence.conflicts import agree, between_sources, with_parents
from freehold.inspection.licence.scopes import each_once, scope_finding
from freehold.inspection.licence.section import section, summary
from freehold.inspection.licence.sources import Kind, gather
from freehold.inspection.licence.terms import Clause, Conflict, Openness, Parent, ScopeFinding, as_json

SCOPES = ("weights", "code", "data")
NOTICE = "This is information read out of the files by a program, not legal advice."


@dataclass(frozen=True, slots=True)
class LicenceReport:
    """What is known of the licences of a model: `clauses` of the weights with what they inherit, conflicts, parents.

    `is_multimodal` is None when the artefacts do not tell.
    """

    name: str
    weights: ScopeFinding
    code: ScopeFinding
    data: ScopeFinding
    parents: tuple[Parent, ...]
    conflicts: tuple[Conflict, ...]
    clauses: tuple[Clause, ...]
    is_multimodal: bool | None
    has_notice_file: bool
    has_licence_text: bool

    def section(self) -> Section:
        return section(self, NOTICE)

    def summary(self) -> tuple[Row, ...]:
        return summary(self)

    def to_dict(self) -> dict[str, Any]:
        """The whole report as JSON types."""
        return {**as_json(self), "notice": NOTICE, "is_open": self.is_open}

    @property
    def is_open(self) -> bool:
        """Whether the weights are under an open licence and nothing that they are made from says otherwise."""
        return self.weights.is_open


def examine(artefacts: Artefacts, card: Card | None = None) -> LicenceReport:
    """Examine the licences of a model's files. Never raises for what is in them."""
    card = read_card(artefacts) if card is None else card
    sources = gather(artefacts, card)
    scopes = {scope: scope_finding(scope, sources, artefacts) for scope in SCOPES}
    weights = scopes["weights"]
    found = lineage.parents(artefacts, card)
    parents = tuple(parent for parent in found if not _is_told_by(weights, parent))
    weights = _after_parents(weights, parents)
    conflicts = [*between_sources(weights, sources), *with_parents(weights, parents, artefacts.name)]
    names = [file.name.rsplit("/", 1)[-1].lower() for file in artefacts.files]
    return LicenceReport(
        artefacts.name,
        weights,
        scopes["code"],
        scopes["data"],
        parents,
        tuple(conflicts),
        _inherited(weights, parents),
        lineage.is_multimodal(artefacts, found),
        any(name.startswith("notice") for name in names),
        any(source.kind is Kind.TEXT for source in sources),
    )


def _after_parents(weights: ScopeFinding, parents: Sequence[Parent]) -> ScopeFinding:
    """An open licence over a parent that is not open: its terms follow. A mere mark of one leaves it in doubt."""
    strict = [parent for parent in parents if parent.licence is not None and not parent.licence.is_open]
    if not weights.is_open or not strict:
        return weights
    certain = [parent for parent in strict if not parent.is_mark]
    parent = (certain or strict)[0]
    because = f"{weights.because}; but {parent.described} ({parent.licence.name if parent.licence else ''})"
    return replace(weights, openness=Openness.NOT_OPEN if certain else Openness.UNKNOWN, because=because)


def _inherited(weights: ScopeFinding, parents: Sequence[Parent]) -> tuple[Clause, ...]:
    inherited = [
        replace(clause, file=clause.file or parent.evidence.file, from_parent=parent.name)
        for parent in parents
        if parent.licence is not None
        for clause in parent.licence.clauses
    ]
    return each_once([*weights.clauses, *inherited])


def _is_told_by(weights: ScopeFinding, parent: Parent) -> bool:
    """Whether a model's own name says only what its licence says, too."""
    if not parent.relation.startswith("itself") or parent.licence is None or not weights.findings:
        return False
    return parent.licence.is_open or agree(weights.findings[0][1], parent.licence)
