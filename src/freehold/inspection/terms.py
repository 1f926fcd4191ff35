"""Under which licence a release and its parts stand, as the examination of openness needs it."""

from dataclasses import dataclass

from freehold.inspection.findings import Evidence
from freehold.inspection.licence import LicenceReport, ScopeFinding
from freehold.inspection.openness.licences import licence_lists


@dataclass(frozen=True, slots=True)
class Terms:
    """`name` is an SPDX identifier or what the licence is called, empty when none is evidenced."""

    name: str = ""
    is_open: bool = False
    evidence: tuple[Evidence, ...] = ()


@dataclass(frozen=True, slots=True)
class ReleaseTerms:
    """The licence of the weights, which parts without one of their own share; those of code and of data, where told."""

    weights: Terms
    code: Terms = Terms()
    data: Terms = Terms()


def terms_of(licences: LicenceReport) -> ReleaseTerms:
    """What the examination of the licences has found."""
    return ReleaseTerms(_terms(licences.weights), _terms(licences.code), _terms(licences.data))


def _terms(scope: ScopeFinding) -> Terms:
    if not scope.findings:
        return Terms()
    name = scope.expression if scope.is_open and scope.expression else scope.name
    if not scope.is_open and licence_lists().is_open(name):
        name += ", which other sources contradict"
    return Terms(name, scope.is_open, scope.evidence)
