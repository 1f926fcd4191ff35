"""Puts together what files, fields, sentences and persons show, topic by topic."""

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from typing import Any

from freehold.inspection.artefacts import Artefacts
from freehold.inspection.card import Card
from freehold.inspection.evidence.facts import Fact, Standing, strongest
from freehold.inspection.evidence.files import shown
from freehold.inspection.evidence.person import asserted
from freehold.inspection.evidence.statements import fullness, stated, words
from freehold.inspection.findings import Evidence
from freehold.inspection.openness.mof_record import recorded
from freehold.models.registry import GGUF_ARCHITECTURES, MODELS

_TUNED = re.compile(r"(?:^|[-_ .])(instruct|chat|it|sft|dpo|rlhf|thinking|think|assistant)(?:$|[-_ .])", re.IGNORECASE)
_GATED_BASES = re.compile(r"^(meta-llama|google/(code)?gemma)", re.IGNORECASE)
# Topics that come from fields and files alone, beside those of the sentences.
_OTHER_TOPICS = ("model_parameters_final", "model_card", "card_detail", "datasets")


@dataclass(frozen=True)
class Facts:
    """What is known of each topic; a topic of which nothing is known is not evidenced."""

    by_topic: Mapping[str, Fact]
    is_tuned: bool  # trained further after its pre-training

    def __getitem__(self, topic: str) -> Fact:
        return self.by_topic.get(topic, Fact())


def topics() -> frozenset[str]:
    """Every topic that a person may make a claim on."""
    return frozenset([topic.name for topic in words().topics] + list(_OTHER_TOPICS))


def gather(artefacts: Artefacts, card: Card) -> Facts:
    """What the artefacts and the persons beside them show. Raises ModelFileError for a wrong `evidence.yaml`."""
    found: dict[str, list[Fact]] = {name: [fact] for name, fact in asserted(artefacts, topics()).items()}
    for name, fact in recorded(artefacts).items():
        found.setdefault(name, []).append(fact)
    for name, fact in (*shown(artefacts), *_libraries(artefacts, card), *of_card(card)):
        found.setdefault(name, []).append(fact)
    return combine(found, card, artefacts.name)


def of_card(card: Card) -> Iterator[tuple[str, Fact]]:
    """What the card's fields and sentences show."""
    yield from _fields(card)
    yield from stated(card).items()
    if card.has_text:
        yield "model_card", Fact(Standing.PRESENT, (Evidence(card.file, "file"),))
        yield "card_detail", fullness(card)


def combine(found: Mapping[str, list[Fact]], card: Card, name: str) -> Facts:
    """One fact a topic, and what follows from one for another."""
    facts = {topic: strongest(several) for topic, several in found.items()}
    for topic in ("pretraining_data", "posttraining_data"):
        facts[topic] = _unless_taken_back(facts.get(topic, Fact()), found.get(topic, []))
    is_tuned = bool(_bases(card)) or _TUNED.search(name) is not None or _is_published(facts, "posttraining_data")
    if (complete := facts.get("data_complete")) and complete.is_present:
        for topic in ("pretraining_data", "posttraining_data") if is_tuned else ("pretraining_data",):
            facts[topic] = strongest([complete, facts.get(topic, Fact())])
    parts = [facts.get("pretraining_data", Fact())]
    parts += [facts.get("posttraining_data", Fact())] if is_tuned else []
    if "model_parameters_final" not in facts and _is_published(facts, "weights"):
        facts["model_parameters_final"] = replace(facts["weights"], licence="", detail="elsewhere, as the card says")
    facts["datasets"] = strongest([*found.get("datasets", []), _whole(parts)])
    # A card that names its data and says where it lies carries the data card.
    if facts["datasets"].is_present:
        facts["data_card"] = strongest([facts.get("data_card", Fact()), replace(facts["datasets"], licence="")])
    return Facts(facts, is_tuned)


def _unless_taken_back(fact: Fact, several: list[Fact]) -> Fact:
    """A list of data sets is not said to be all of them; where a sentence says that it is not, it is a part."""
    taken_back = [each for each in several if each.detail and not each.is_present]
    if not fact.is_present or not taken_back:
        return fact
    return Fact(Standing.PARTIAL, taken_back[0].evidence + fact.evidence, fact.licence, taken_back[0].detail)


def _whole(parts: list[Fact]) -> Fact:
    """The whole of several parts: there when all of them are, in part when any is."""
    evidence = tuple(e for part in parts for e in part.evidence)
    if all(part.is_present for part in parts):
        licence = next((part.licence for part in parts if part.licence), "")
        return Fact(Standing.PRESENT, evidence, licence)
    if any(part.is_published for part in parts):
        return Fact(Standing.PARTIAL, evidence)
    return strongest(parts)


def _is_published(facts: Mapping[str, Fact], topic: str) -> bool:
    return topic in facts and facts[topic].is_published


def _fields(card: Card) -> Iterator[tuple[str, Fact]]:
    present = Standing.PRESENT
    if card.declared("datasets"):
        # Data sets of the hub: of the last training, which for a derived model is not the first.
        topic = "posttraining_data" if _bases(card) else "pretraining_data"
        yield topic, Fact(present, (card.field_evidence("datasets"),))
        yield "datasheet", Fact(Standing.PARTIAL, (card.field_evidence("datasets"),))
    if isinstance(card.front_matter.get("model-index"), list):
        yield "evaluation_results", Fact(present, (card.field_evidence("model-index"),))
    if any(tag.lower().startswith("arxiv:") for tag in card.declared("tags")):
        yield "research_paper", Fact(present, (card.field_evidence("tags"),))
    gates = [key for key in card.front_matter if key.startswith("extra_gated_")]
    if gates:
        yield "gate", Fact(present, (card.field_evidence(gates[0]),))
    if bases := _bases(card):
        standing = Standing.PARTIAL if _GATED_BASES.search(bases[0]) else present
        yield "base_weights", Fact(standing, (card.field_evidence("base_model"),))


def _bases(card: Card) -> tuple[str, ...]:
    return card.declared("base_model")


@dataclass(frozen=True, slots=True)
class _Library:
    name: str
    licence: str
    has_architecture: bool
    use: re.Pattern[str]


@cache
def _known_libraries() -> tuple[_Library, ...]:
    data = tomllib.loads(files("freehold.inspection.evidence").joinpath("statements.toml").read_text("utf-8"))
    return tuple(
        _Library(name, entry["licence"], entry["architecture"], re.compile(entry["use"]))
        for name, entry in data["libraries"].items()
    )


def _libraries(artefacts: Artefacts, card: Card) -> Iterator[tuple[str, Fact]]:
    """Code that a model's own repository need not carry, because an open library does."""
    config: Mapping[str, Any] = artefacts.config
    if config.get("transformers_version") and config.get("architectures") and "auto_map" not in config:
        evidence = Evidence("config.json", "transformers_version", str(config["transformers_version"])[:40])
        yield from _carried(_known_libraries()[0], evidence)
    if artefacts.gguf.get("general.architecture"):
        name = artefacts.gguf_files[0].name
        evidence = Evidence(name, "general.architecture", str(artefacts.gguf["general.architecture"])[:80])
        yield from _carried(next(library for library in _known_libraries() if library.name == "llama.cpp"), evidence)
    if name := _runs_here(artefacts):
        yield "model_architecture", Fact(Standing.PRESENT, (name,), "Apache-2.0", "in Freehold itself")
    for library in _known_libraries():
        if library.name in card.declared("library_name") and "auto_map" not in config:
            yield from _carried(library, card.field_evidence("library_name"))
        elif sentence := next((s for s in card.sentences if library.use.search(s.text)), None):
            yield "inference_code", _library_fact(library, card.line_evidence(sentence))
            yield "supporting_libraries", _library_fact(library, card.line_evidence(sentence))


def _runs_here(artefacts: Artefacts) -> Evidence | None:
    """Where the artefacts name an architecture that Freehold runs, and so has the code of."""
    model_type = artefacts.config.get("model_type")
    if isinstance(model_type, str) and model_type in MODELS:
        return Evidence("config.json", "model_type", model_type)
    architecture = artefacts.gguf.get("general.architecture")
    if isinstance(architecture, str) and GGUF_ARCHITECTURES.get(architecture, architecture) in MODELS:
        return Evidence(artefacts.gguf_files[0].name, "general.architecture", architecture)
    return None


def _carried(library: _Library, evidence: Evidence) -> Iterator[tuple[str, Fact]]:
    for topic in ("inference_code", "supporting_libraries"):
        yield topic, _library_fact(library, evidence)
    if library.has_architecture:
        yield "model_architecture", _library_fact(library, evidence)


def _library_fact(library: _Library, evidence: Evidence) -> Fact:
    return Fact(Standing.PRESENT, (evidence,), library.licence, f"in {library.name}")
