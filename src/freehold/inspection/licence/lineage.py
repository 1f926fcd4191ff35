"""What a model is derived from, as its artefacts tell, and the licences that follow from that (data/families.toml)."""

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from freehold.inspection.artefacts import Artefacts
from freehold.inspection.card import Card
from freehold.inspection.findings import Evidence
from freehold.inspection.licence.clauses import DATA
from freehold.inspection.licence.detect import detect_name
from freehold.inspection.licence.prose import printable
from freehold.inspection.licence.terms import Finding, Parent

_MAX_PARENTS = 20
_MAX_NAME = 200
_ITSELF = "itself"
_MERGE_MODEL = re.compile(r"(?:^|[\s{,-])(?:model|base_model)\s*:\s*[\"']?([\w.-]+/[\w.-]+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Family:
    name: str
    licence: str
    is_multimodal: bool = False
    is_derived: bool = False
    also: tuple[str, ...] = ()  # licences under which the same mark is found, too


def parents(artefacts: Artefacts, card: Card) -> tuple[Parent, ...]:
    """Models that this one is derived from, most telling source first, each family once."""
    found: dict[str, Parent] = {}
    for name, relation, evidence in [*_declared(artefacts, card), *_own_names(artefacts, card)]:
        family = family_of(name)
        if relation == _ITSELF and family is None:
            continue
        if relation == _ITSELF and family is not None:
            relation = "derived, by its name" if family.is_derived else "itself, by its name"
        key = family.name if family else name.lower()
        found.setdefault(key, Parent(name, relation, evidence, family.name if family else "", _licence(family)))
    for family, evidence, what in _marks(artefacts):
        if not any(_covers(parent, family) for parent in found.values()):
            found[family.name] = Parent(family.name, what, evidence, family.name, _licence(family), is_mark=True)
    return tuple(found.values())[:_MAX_PARENTS]


def family_of(name: str) -> Family | None:
    plain = re.sub(r"[\s_]+", "-", name.lower())[:_MAX_NAME]
    return next((family for pattern, family in _families() if pattern.search(plain)), None)


def is_multimodal(artefacts: Artefacts, found: tuple[Parent, ...]) -> bool | None:
    """Whether the model takes more than text; None when the artefacts do not tell."""
    config = artefacts.config
    if any(key in config for key in ("vision_config", "audio_config", "vision_tower")) or "mllama" in str(
        config.get("model_type", "")
    ):
        return True
    if any(key.startswith("clip.") for key in artefacts.gguf) or any(
        "mmproj" in file.name.lower() for file in artefacts.files
    ):
        return True
    if any((family := family_of(parent.name)) and family.is_multimodal for parent in found):
        return True
    return False if config.get("model_type") or artefacts.gguf else None


def _declared(artefacts: Artefacts, card: Card) -> Iterator[tuple[str, str, Evidence]]:
    relation = printable(next(iter(card.declared("base_model_relation")), ""))
    adapter = artefacts.json("adapter_config.json")
    relation = relation or ("adapter" if isinstance(adapter, dict) else "derived")
    for field in card.fields("base_model") if card.is_written else ():
        yield printable(field.value[:_MAX_NAME]), relation, field.evidence
    if isinstance(adapter, dict) and isinstance(base := adapter.get("base_model_name_or_path"), str) and base:
        base = printable(base[:_MAX_NAME])
        yield base, "adapter", Evidence("adapter_config.json", "base_model_name_or_path", base)
    yield from _gguf_bases(artefacts)
    for file in ("mergekit_config.yml", "mergekit_config.yaml"):
        text = artefacts.text(file, 1 << 16)
        for match in _MERGE_MODEL.finditer(text.content) if text else ():
            line = text.content[: match.start(1)].count("\n") + 1 if text else 1
            yield match[1], "merge", Evidence(file, f"line {line}", match[0].strip())
    base = artefacts.config.get("_name_or_path")
    if isinstance(base, str) and base and not _is_itself(base, artefacts):
        base = printable(base[:_MAX_NAME])
        yield base, "derived", Evidence("config.json", "_name_or_path", base)


def _gguf_bases(artefacts: Artefacts) -> Iterator[tuple[str, str, Evidence]]:
    metadata = artefacts.gguf
    for index in range(_MAX_PARENTS):
        for key in ("name", "repo_url", "organization"):
            place = f"general.base_model.{index}.{key}"
            value = metadata.get(place)
            if isinstance(value, str) and value and key != "organization":
                value = printable(value[:_MAX_NAME])
                name = re.sub(r"^https?://[^/]+/", "", value)
                yield name, "quantized or derived", Evidence(artefacts.gguf_files[0].name, place, value)
                break


def _own_names(artefacts: Artefacts, card: Card) -> Iterator[tuple[str, str, Evidence]]:
    yield artefacts.name, _ITSELF, Evidence(artefacts.name, "name")
    for key in ("general.name", "general.basename"):
        value = artefacts.gguf.get(key)
        if isinstance(value, str):
            size = artefacts.gguf.get("general.size_label")
            value = printable(value[:_MAX_NAME])
            name = f"{value} {size}" if key == "general.basename" and isinstance(size, str) else value
            yield name[:_MAX_NAME], _ITSELF, Evidence(artefacts.gguf_files[0].name, key, value)
    title = re.search(r"^#\s+(.{2,100})$", card.text[:20_000], re.MULTILINE)
    if title:
        line = card.text[: title.start()].count("\n") + card.first_line
        yield printable(title[1]), _ITSELF, Evidence(card.file, f"line {line}", printable(title[1]))


def _is_itself(path: str, artefacts: Artefacts) -> bool:
    """Whether _name_or_path names this very model, or only a folder on its maker's machine."""
    own = path.rstrip("/").rsplit("/", 1)[-1].lower() == artefacts.name.lower()
    return own or path.startswith(("/", ".", "~")) or "\\" in path or path.count("/") > 1


def _marks(artefacts: Artefacts) -> Iterator[tuple[Family, Evidence, str]]:
    """Families that the model's kind or its vocabulary shows."""
    kind, kind_evidence = _type(artefacts)
    vocabulary, count, vocabulary_evidence = _vocabulary(artefacts)
    for mark, family in _mark_families():
        if kind in mark["types"]:
            yield family, kind_evidence, f"its architecture is {kind}"
        elif mark["tokens"] and count >= mark["vocabulary"] and all(token in vocabulary for token in mark["tokens"]):
            yield family, vocabulary_evidence, f"its tokenizer is that of {family.name}"


def _type(artefacts: Artefacts) -> tuple[str, Evidence]:
    kind = artefacts.config.get("model_type")
    if isinstance(kind, str):
        return kind, Evidence("config.json", "model_type", kind)
    kind = artefacts.gguf.get("general.architecture")
    file = artefacts.gguf_files[0].name if artefacts.gguf_files else ""
    return (kind, Evidence(file, "general.architecture", kind)) if isinstance(kind, str) else ("", Evidence("", ""))


def _vocabulary(artefacts: Artefacts) -> tuple[frozenset[str], int, Evidence]:
    """Special tokens, the number of all tokens, and where they stand."""
    tokens = artefacts.gguf.get("tokenizer.ggml.tokens")
    if isinstance(tokens, list):
        marks = frozenset(token for token in tokens if isinstance(token, str) and token.startswith("<"))
        return (
            marks,
            len(tokens),
            Evidence(artefacts.gguf_files[0].name, "tokenizer.ggml.tokens", f"{len(tokens)} tokens"),
        )
    for file in ("tokenizer_config.json", "tokenizer.json"):
        value = artefacts.json(file)
        if not isinstance(value, dict):
            continue
        added = value.get("added_tokens_decoder") or value.get("added_tokens")
        items = added.values() if isinstance(added, dict) else added if isinstance(added, list) else []
        marks = frozenset(str(item.get("content")) for item in items if isinstance(item, dict))
        size = artefacts.config.get("vocab_size")
        if marks:
            return (
                marks,
                size if isinstance(size, int) else 0,
                Evidence(file, "added tokens", f"{len(marks)} added tokens"),
            )
    return frozenset(), 0, Evidence("", "")


def _covers(parent: Parent, family: Family) -> bool:
    """Whether a parent explains a mark: the same licence, or one under which the same mark is found."""
    known = family_of(parent.name)
    same_lab = known is not None and known.name.split()[0] == family.name.split()[0]
    return known is not None and (same_lab or known.licence in (family.licence, *family.also))


def _licence(family: Family | None) -> Finding | None:
    finding = detect_name(family.licence) if family else None
    return replace(finding, how="by its lineage") if finding else None


@cache
def _families() -> tuple[tuple[re.Pattern[str], Family], ...]:
    entries = _data()["family"]
    return tuple(
        (
            re.compile(e["pattern"]),
            Family(e["name"], e["licence"], e.get("is_multimodal", False), e.get("is_derived", False)),
        )
        for e in entries
    )


@cache
def _mark_families() -> tuple[tuple[Mapping[str, Any], Family], ...]:
    return tuple((e, Family(e["name"], e["licence"], also=tuple(e.get("also", ())))) for e in _data()["mark"])


@cache
def _data() -> Mapping[str, Any]:
    return tomllib.loads((DATA / "families.toml").read_text("utf-8"))
