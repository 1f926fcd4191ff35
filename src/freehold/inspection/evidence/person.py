"""What a person states in a file `evidence.yaml` beside the model, where the artefacts themselves are silent.

    asserted_by: Ada Lovelace, 2026-11-01
    claims:
      training_code:
        status: present            # present, partial or absent
        licence: Apache-2.0        # may be left out
        source: https://example.org/code
        note: read on the day above

The report shows who asserted what; a person's word is never taken for the artefact's own.
"""

from collections.abc import Collection, Mapping
from typing import Any

from freehold.errors import ModelFileError
from freehold.inspection.artefacts import Artefacts
from freehold.inspection.card import load_yaml, quote
from freehold.inspection.evidence.facts import Fact, Standing
from freehold.inspection.findings import Evidence

FILE = "evidence.yaml"
_STATUSES = (Standing.PRESENT, Standing.PARTIAL, Standing.ABSENT)
_KEYS = {"status", "licence", "source", "note"}


def asserted(artefacts: Artefacts, topics: Collection[str]) -> dict[str, Fact]:
    """Each claim of the file. Raises ModelFileError with the field that is wrong."""
    text = artefacts.text(FILE)
    if text is None:
        return {}
    document = _load(text.content)
    who = document.get("asserted_by")
    if not isinstance(who, str) or not who.strip():
        raise ModelFileError(f"{FILE}: asserted_by: expected the name of who asserts it, got {who!r}")
    claims = document.get("claims")
    if not isinstance(claims, Mapping):
        raise ModelFileError(f"{FILE}: claims: expected a mapping of topic to claim, got {type(claims).__name__}")
    return {str(topic): _fact(str(topic), claim, who.strip(), topics) for topic, claim in claims.items()}


def _load(content: str) -> Mapping[str, Any]:
    import yaml

    try:
        document = load_yaml(content)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ModelFileError(f"{FILE}: {quote(str(error))}") from None
    if not isinstance(document, Mapping):
        raise ModelFileError(f"{FILE}: expected a mapping, got {type(document).__name__}")
    return document


def _fact(topic: str, claim: Any, who: str, topics: Collection[str]) -> Fact:
    place = f"claims.{topic}"
    if topic not in topics:
        raise ModelFileError(f"{FILE}: {place}: no such topic", f"topics: {', '.join(sorted(topics))}")
    if not isinstance(claim, Mapping) or not claim.keys() <= _KEYS:
        raise ModelFileError(f"{FILE}: {place}: expected status, licence, source and note, got {quote(str(claim))!r}")
    if claim.get("status") not in _STATUSES:
        raise ModelFileError(
            f"{FILE}: {place}.status: expected present, partial or absent, got {claim.get('status')!r}"
        )
    said = "; ".join(str(claim[key]) for key in ("source", "note") if claim.get(key))
    evidence = Evidence(FILE, place, quote(said), asserted_by=quote(who))
    return Fact(Standing(claim["status"]), (evidence,), str(claim.get("licence") or ""))
