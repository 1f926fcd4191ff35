"""What a model card and the metadata declare: fields by name, each with the place that it was read from."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from freehold.inspection.artefacts import Artefacts
from freehold.inspection.findings import Evidence
from freehold.inspection.licence.prose import printable

_CARDS = ("readme.md", "model_card.md", "modelcard.md", "readme.txt", "readme")
_MAX_FRONT_LINES = 2000
_MAX_ITEMS = 50
_MAX_VALUE = 300
_KEY = re.compile(r"([A-Za-z_][\w-]{0,60}):[ \t]*(.*)$")
_ITEM = re.compile(r"[ \t]*-[ \t]+(.*)$")


@dataclass(frozen=True, slots=True)
class Field:
    """A declared value and where it stands."""

    value: str
    evidence: Evidence


@dataclass(frozen=True, slots=True)
class Card:
    """The model card: its file, its text, and its front matter's fields; all empty when there is none."""

    file: str
    text: str
    fields: Mapping[str, list[Field]]


def read_card(artefacts: Artefacts) -> Card:
    name = next((f.name for wanted in _CARDS for f in artefacts.files if f.name.lower() == wanted), None)
    text = artefacts.text(name) if name else None
    if name is None or text is None:
        return Card("", "", {})
    return Card(name, text.content, front_matter(name, text.content))


def front_matter(file: str, text: str) -> Mapping[str, list[Field]]:
    """Top-level scalars and lists of a front matter; anything deeper is not read."""
    lines = text.removeprefix("\ufeff").splitlines()[:_MAX_FRONT_LINES]
    if not lines or lines[0].strip() != "---":
        return {}
    fields: dict[str, list[Field]] = {}
    key = ""
    for number, line in enumerate(lines[1:], 2):
        if line.strip() == "---":
            return fields
        item = _ITEM.match(line)
        if found := _KEY.match(line):
            key = found[1].lower()
            values = _values(found[2])
        elif item and key:
            values = _values(item[1])
        else:
            continue
        known = fields.setdefault(key, [])
        place = f"front matter, {key} (line {number})"
        known += [Field(value, Evidence(file, place, printable(line)[:_MAX_VALUE])) for value in values][
            : _MAX_ITEMS - len(known)
        ]
    return {}  # no end: not a front matter


def _values(text: str) -> list[str]:
    text = re.sub(r"\s#.*$", "", text).strip()
    items = text[1:-1].split(",") if text.startswith("[") and text.endswith("]") else [text]
    values = [printable(item.strip().strip("'\""))[:_MAX_VALUE] for item in items]
    return [value for value in values if value and value not in ("|", ">", "null", "~")]
