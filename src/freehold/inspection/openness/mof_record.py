"""A release's own record in the framework's form, by itself or as `mof.yml` (or .yaml, .json) beside the model."""

from collections.abc import Mapping
from typing import Any

from freehold.errors import ModelFileError
from freehold.inspection.artefacts import Artefacts
from freehold.inspection.card import load_yaml, quote
from freehold.inspection.evidence.facts import Fact, Standing
from freehold.inspection.findings import Evidence
from freehold.inspection.openness.mof import licences_of

UNLICENSED = "unlicensed"
_SUFFIXES = (".yml", ".yaml", ".json")
_NAMES = tuple(f"mof{suffix}" for suffix in _SUFFIXES)


def recorded(artefacts: Artefacts) -> dict[str, Fact]:
    """Each component that the record lists, with its licence; empty when there is no record.

    Raises ModelFileError for a record of the framework that is not sound.
    """
    name = next((f.name for f in artefacts.files if _may_be_record(f.name, artefacts)), None)
    text = artefacts.text(name) if name else None
    record = _load(text.content) if text else None
    if name is None or record is None:
        return {}
    producer = quote(str(record["release"].get("producer") or "the record"))
    return {topic: _fact(name, topic, producer, licence) for topic, licence in _licences(name, record).items()}


def _fact(file: str, topic: str, producer: str, licence: str | None) -> Fact:
    evidence = Evidence(file, f"components, {topic}", asserted_by=producer)
    return Fact(Standing.PRESENT, (evidence,), licence or UNLICENSED)


def _licences(name: str, record: Mapping[str, Any]) -> dict[str, str | None]:
    try:
        return licences_of(record)
    except (AttributeError, TypeError, KeyError):
        raise ModelFileError(f"{name}: expected a record of the Model Openness Framework, got other fields") from None


def _may_be_record(name: str, artefacts: Artefacts) -> bool:
    return name.lower() in _NAMES or (artefacts.folder is None and name.lower().endswith(_SUFFIXES))


def _load(content: str) -> Mapping[str, Any] | None:
    """The document when it is a record of the framework."""
    import yaml

    try:
        document = load_yaml(content)
    except (yaml.YAMLError, ValueError, RecursionError):
        return None
    is_record = isinstance(document, Mapping) and isinstance(document.get("release"), Mapping)
    framework = document.get("framework") if is_record else None
    named = isinstance(framework, Mapping) and framework.get("name") == "Model Openness Framework"
    return document if named else None
