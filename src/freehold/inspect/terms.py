"""Under which licence a release and its parts stand, as the examination of openness needs it."""

import re
from dataclasses import dataclass, replace

from freehold.inspect.artefacts import Artefacts
from freehold.inspect.card import Card
from freehold.inspect.findings import Evidence
from freehold.inspect.openness.licences import licence_lists

_LICENCE_FILE = re.compile(r"(^|/)(licen[cs]e|copying)[\w.-]*$", re.IGNORECASE)
_UNNAMED = {"other", "unknown", ""}
_CODE = re.compile(r"\b(code|codebase|code repository|software|repo|scripts)\b", re.IGNORECASE)
_DATA = re.compile(r"\b(data|datasets?|corpus|corpora)\b", re.IGNORECASE)
_LICENSED = re.compile(r"\b(licen[cs]ed?|released|distributed|available|published)\b", re.IGNORECASE)


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


def declared_terms(artefacts: Artefacts, card: Card) -> ReleaseTerms:
    """What the card's fields and sentences declare; a licence file beside weights without a field is one of its own."""
    terms = card_terms(card)
    file = next((f for f in artefacts.files if _LICENCE_FILE.search(f.name) and not f.outside), None)
    if terms.weights.name or file is None:
        return terms
    return replace(terms, weights=Terms("a licence of its own", False, (Evidence(file.name, "file"),)))


def card_terms(card: Card) -> ReleaseTerms:
    """What a card declares by itself."""
    return ReleaseTerms(_declared(card), _said(_CODE, card), _said(_DATA, card))


def _declared(card: Card) -> Terms:
    for key in ("license", "license_name"):
        names = [name for name in card.declared(key) if name.lower() not in _UNNAMED]
        if names:
            open_name = licence_lists().identify(names[0])
            return Terms(open_name or names[0], open_name is not None, (card.field_evidence(key),))
    return Terms()


def _said(of: re.Pattern[str], card: Card) -> Terms:
    """The first open licence that a sentence of the card gives to the code, or to the data."""
    for sentence in card.sentences:
        is_said = of.search(sentence.text) and _LICENSED.search(sentence.text)
        if is_said and (found := licence_lists().named_in(sentence.text)):
            return Terms(found, True, (card.line_evidence(sentence),))
    return Terms()
