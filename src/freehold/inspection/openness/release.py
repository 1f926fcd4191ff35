"""Each part of a release with the licence that it counts under, as the criteria need it."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from freehold.inspection.card import Card
from freehold.inspection.evidence.facts import Fact
from freehold.inspection.evidence.gather import Facts
from freehold.inspection.openness.mof import components
from freehold.inspection.terms import ReleaseTerms, Terms

# Published elsewhere under terms of their own, which the release's licence does not reach.
_ELSEWHERE = {"technical_report", "research_paper", "datasets", "evaluation_data"}


@dataclass(frozen=True)
class Release:
    facts: Facts
    terms: ReleaseTerms
    card: Card

    @property
    def weights(self) -> Terms:
        return self.terms.weights

    def fact(self, topic: str) -> Fact:
        return self.facts[topic]

    def licence_of(self, topic: str) -> str:
        """A part's own licence, else what the card says of its kind, else the release's; empty: none is evidenced."""
        if topic == "model_parameters_final":
            return self.weights.name
        if own := self.fact(topic).licence:
            return own
        kind = self._kinds.get(topic, "document")
        if kind == "code" and self.terms.code.name:
            return self.terms.code.name
        if topic == "datasets" and self.terms.data.name:
            return self.terms.data.name
        lies_here = all(e.place == "file" for e in self.fact(topic).evidence)
        return self.weights.name if topic not in _ELSEWHERE or lies_here else ""

    @cached_property
    def licences(self) -> dict[str, str | None]:
        """Component to licence, for the components that are wholly there."""
        return {c.key: self.licence_of(c.key) or None for c in components() if self.fact(c.key).is_present}

    @cached_property
    def _kinds(self) -> Mapping[str, str]:
        return {component.key: component.kind for component in components()}
