"""What a bill of materials of a model lists: the model, its files with their digests, its base, licence and data.

All of it as the artefacts declare it. What they do not say is left out, never filled in.
"""

import re
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from freehold.errors import RequestError
from freehold.inspection.artefacts import Artefacts
from freehold.inspection.card import Card, read_card
from freehold.inspection.trust.files import Examination
from freehold.inspection.trust.finding import visible
from freehold.store.digest import Progress, sha256_of_files

FORMATS = ("cyclonedx", "spdx")
WEIGHTS = frozenset({"gguf", "safetensors", "pickle", "zip", "hdf5", "numpy array"})
MAX_ITEMS = 500  # of a list in a card
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_URL = re.compile(r"https?://[\w.~:/?#@!$&()*+,;=%-]+", re.ASCII)
_SPACE = uuid.UUID("6f0cf5ce-0a1d-5a52-9b0e-7c6ae8f8d9b4")  # ours, for names made of digests


@dataclass(frozen=True, slots=True)
class BomFile:
    name: str
    sha256: str
    num_bytes: int
    kind: str

    @property
    def is_weights(self) -> bool:
        return self.kind in WEIGHTS


@dataclass(frozen=True, slots=True)
class Metric:
    """A result that the card reports."""

    kind: str
    value: str
    data: str


@dataclass(frozen=True)
class Materials:
    name: str
    publisher: str
    description: str
    architecture: str
    task: str
    files: tuple[BomFile, ...]
    licences: tuple[str, ...]  # as declared
    licence_link: str
    base_models: tuple[str, ...]
    base_relation: str  # quantized, adapter, finetune, merge; empty when it is not declared
    datasets: tuple[str, ...]
    languages: tuple[str, ...]
    metrics: tuple[Metric, ...]
    parameters: int  # of the weights as they are stored; 0: not known
    created: datetime

    @property
    def identifier(self) -> uuid.UUID:
        """One and the same for the same files and declarations."""
        return uuid.uuid5(_SPACE, "\n".join([self.name, *(f"{f.sha256} {f.name}" for f in self.files), *self.licences]))


def bill_of_materials(
    artefacts: Artefacts, form: str, *, created: datetime | None = None, progress: Progress | None = None
) -> dict[str, Any]:
    """A model's bill of materials as JSON: "cyclonedx" (1.7, with a model card) or "spdx" (3.0.1, AI profile)."""
    if form not in FORMATS:
        raise RequestError(f"format {form!r}: expected one of {', '.join(FORMATS)}")
    materials = gather(artefacts, created=created, progress=progress)
    if form == "spdx":
        from freehold.inspection.trust.spdx import spdx

        return spdx(materials)
    from freehold.inspection.trust.cyclonedx import cyclonedx

    return cyclonedx(materials)


def gather(artefacts: Artefacts, *, created: datetime | None = None, progress: Progress | None = None) -> Materials:
    """What the artefacts say, and the digest of each file."""
    examination = Examination(artefacts)
    examination.run()
    readable = {file.name: file.path for file in artefacts.files if not file.outside}
    digests = sha256_of_files(readable, progress=progress)
    card, gguf, config = read_card(artefacts), artefacts.gguf, artefacts.config
    architectures = [*_items(config.get("architectures")), config.get("model_type"), gguf.get("general.architecture")]
    return Materials(
        name=visible(gguf.get("general.name") or artefacts.name),
        publisher=visible(gguf.get("general.organization") or gguf.get("general.author") or ""),
        description=visible(_description(card, gguf), 400),
        architecture=next((visible(name, 80) for name in architectures if isinstance(name, str)), ""),
        task=visible(next(iter(card.declared("pipeline_tag")), "")),
        files=tuple(
            BomFile(visible(file.name), digests[file.name], file.num_bytes, examination.kinds[file.name])
            for file in artefacts.files
            if file.name in digests and file.name in examination.kinds
        ),
        licences=_licences(card),
        licence_link=next(filter(_URL.fullmatch, card.declared("license_link")), ""),
        base_models=_declared(card, "base_model"),
        base_relation=next(iter(_declared(card, "base_model_relation")), ""),
        datasets=_declared(card, "datasets"),
        languages=_declared(card, "language"),
        metrics=tuple(_metrics(card.front_matter.get("model-index")))[:MAX_ITEMS],
        parameters=sum(_count(weights.shape) for weights in examination.weights),
        created=(created or datetime.now(UTC)).astimezone(UTC).replace(microsecond=0),
    )


def hub_url(name: str, kind: str = "") -> str:
    """Where a model or data set of a hub lies; empty for a name that is not a hub's."""
    return f"https://huggingface.co/{kind}{name}" if _HUB_NAME.fullmatch(name) else ""


def _declared(card: Card, key: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(visible(item) for item in card.declared(key)[:MAX_ITEMS]))


def _licences(card: Card) -> tuple[str, ...]:
    named = _declared(card, "license")
    if named and named[0].lower() not in ("other", "unknown"):
        return named
    return _declared(card, "license_name") or named


def _description(card: Card, gguf: Mapping[str, Any]) -> str:
    for sentence in card.sentences:
        if len(sentence.text.split()) >= 6 and not sentence.text.startswith(("#", "<", "[", "!", "|")):
            return sentence.text
    return str(gguf.get("general.description") or "")


def _metrics(index: Any) -> Iterator[Metric]:
    """Results in a card's model-index, as the hub defines it."""
    for model in _items(index):
        for result in _items(_get(model, "results")):
            name = _get(_get(result, "dataset"), "name")
            for metric in _items(_get(result, "metrics")):
                if isinstance(_get(metric, "value"), int | float | str):
                    yield Metric(visible(metric.get("type")), visible(metric["value"]), visible(name or ""))


def _items(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _get(value: Any, key: str) -> Any:
    return value.get(key) if isinstance(value, dict) else None


def _count(shape: tuple[int, ...]) -> int:
    count = 1
    for length in shape:
        count *= length
    return count
