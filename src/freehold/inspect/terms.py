"""Under which licence a release stands, as far as its fields and files declare it."""

import re
from dataclasses import dataclass

from freehold.inspect.artefacts import Artefacts
from freehold.inspect.card import Card
from freehold.inspect.findings import Evidence
from freehold.inspect.openness.licences import licence_lists

_LICENCE_FILE = re.compile(r"(^|/)(licen[cs]e|copying)[\w.-]*$", re.IGNORECASE)
_UNNAMED = {"other", "unknown", ""}
_SAID_OF = {
    "code": re.compile(r"\b(code|codebase|code repository|software|repo|scripts)\b", re.IGNORECASE),
    "data": re.compile(r"\b(data|datasets?|corpus|corpora)\b", re.IGNORECASE),
}
_LICENSED = re.compile(r"\b(licen[cs]ed?|released|distributed|available|published)\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Terms:
    """`name` is an SPDX identifier or what the licence is called, empty when none is evidenced."""

    name: str = ""
    is_open: bool = False
    evidence: tuple[Evidence, ...] = ()


def weights_terms(artefacts: Artefacts, card: Card) -> Terms:
    """The licence of the weights, which the release's other parts share unless they have one of their own."""
    terms = declared_terms(card)
    file = next((f for f in artefacts.files if _LICENCE_FILE.search(f.name) and not f.outside), None)
    if terms.name or file is None:
        return terms
    return Terms("a licence of its own", False, (Evidence(file.name, "file"),))


def declared_terms(card: Card) -> Terms:
    """The licence that the card's fields declare."""
    declared = [name for name in card.declared("license") if name.lower() not in _UNNAMED]
    evidence = [card.field_evidence("license")] if declared else []
    if not declared and (declared := list(card.declared("license_name"))):
        evidence = [card.field_evidence("license_name")]
    if declared:
        open_name = licence_lists().identify(declared[0])
        return Terms(open_name or declared[0], open_name is not None, tuple(evidence))
    return Terms()


def licence_said_of(kind: str, card: Card) -> str:
    """The open licence that a sentence of the card gives to the "code" or to the "data"; empty when none does."""
    for sentence in card.sentences:
        is_said = _SAID_OF[kind].search(sentence.text) and _LICENSED.search(sentence.text)
        if is_said and (found := licence_lists().named_in(sentence.text)):
            return found
    return ""
