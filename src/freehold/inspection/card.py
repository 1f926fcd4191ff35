"""The model card: what its front matter declares and what its text says, each with its line.

A card is written by whoever publishes the model, so it is read as data of unknown intent: with caps, without YAML
aliases (a few lines of them unfold to gigabytes) and with nothing in it made into an object.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from freehold.inspection.artefacts import Artefacts
from freehold.inspection.findings import Evidence

CARD_NAMES = ("readme.md", "model_card.md", "modelcard.md", "readme.txt", "readme")
MAX_FRONT_MATTER_CHARS = 1 << 19
MAX_DEPTH = 50
MAX_TEXT_CHARS = 1 << 17  # statements are looked for in this much of a card; real ones are shorter
MAX_SENTENCE_CHARS = 1000
QUOTE_CHARS = 200

# What a GGUF file says of itself, by the front matter's names.
_GGUF_KEYS = {
    "general.license": "license",
    "general.license.name": "license_name",
    "general.license.link": "license_link",
    "general.datasets": "datasets",
    "general.tags": "tags",
    "general.languages": "language",
}
_HEADING = re.compile(r"#{1,6}\s+(.*)")
_BEGINS = re.compile(r"\s*(#{1,6}\s|[-*+]\s|\d+[.)]\s|\||```|<)")  # a line that continues no paragraph
_ALONE = re.compile(r"\s*(#{1,6}\s|\||```)")  # and that none continues
_SENTENCE_END = re.compile(r"(?<=[.!?。])\s+(?=\W{0,3}[A-Z\u4e00-\u9fff])")


@dataclass(frozen=True, slots=True)
class Sentence:
    """A sentence of the card, its line (from 1) and the heading under which it stands."""

    text: str
    line: int
    heading: str


@dataclass(frozen=True, slots=True)
class Field:
    """A declared value and where it stands."""

    value: str
    evidence: Evidence


@dataclass(frozen=True)
class Card:
    """`file` is empty when there is no card; `problem` says why a front matter could not be read.

    `places`: of each key of the front matter, and of each item where its value is a list, as in "license, line 2".
    """

    file: str = ""
    front_matter: Mapping[str, Any] = field(default_factory=dict)
    places: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    text: str = ""
    first_line: int = 1  # of the text in the file
    problem: str = ""
    is_cut: bool = False
    is_written: bool = True  # False: what the metadata of a GGUF file declares

    @property
    def has_text(self) -> bool:
        return bool(self.text.strip())

    @cached_property
    def sentences(self) -> tuple[Sentence, ...]:
        return tuple(_sentences(self.text, self.first_line))

    def fields(self, key: str) -> tuple[Field, ...]:
        """A front matter's values that are no lists or mappings: none, one, or the items of a list."""
        value = self.front_matter.get(key)
        items = value if isinstance(value, list) else [value]
        return tuple(
            Field(str(item), Evidence(self.file, place, quote(str(item))))
            for item, place in zip(items, self.places.get(key, ()), strict=False)  # an empty list has a place, too
            if isinstance(item, str | int | float) and str(item).strip()
        )

    def declared(self, key: str) -> tuple[str, ...]:
        """The same, without their places."""
        return tuple(field.value for field in self.fields(key))

    def field_evidence(self, key: str) -> Evidence:
        value = ", ".join(self.declared(key)) or str(self.front_matter.get(key, ""))
        return Evidence(self.file, self.places[key][0], quote(value))

    def line_evidence(self, sentence: Sentence) -> Evidence:
        return Evidence(self.file, f"line {sentence.line}", quote(sentence.text))


def read_card(artefacts: Artefacts) -> Card:
    """The card beside the weights; of a single GGUF file, what its metadata declares."""
    name = next((n for wanted in CARD_NAMES for n in _names(artefacts) if n.lower() == wanted), None)
    text = artefacts.text(name) if name else None
    if name is None or text is None:
        return _card_of_gguf(artefacts)
    return parse_card(name, text.content, is_cut=text.is_cut)


def parse_card(file: str, content: str, *, is_cut: bool = False) -> Card:
    """Front matter between two lines of three dashes, then the text."""
    content = content.removeprefix("\ufeff").replace("\r\n", "\n")
    head, body = _split(content)
    front_matter, places, problem = _load(head)
    text = body[:MAX_TEXT_CHARS]
    first_line = content[: len(content) - len(body)].count("\n") + 1
    return Card(file, front_matter, places, text, first_line, problem, is_cut or len(body) > MAX_TEXT_CHARS)


def quote(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= QUOTE_CHARS else text[: QUOTE_CHARS - 1] + "…"


def _names(artefacts: Artefacts) -> Iterator[str]:
    return (file.name for file in artefacts.files if not file.outside)


def _split(content: str) -> tuple[str, str]:
    if not content.startswith("---\n"):
        return "", content
    end = re.compile(r"^---[ \t]*$", re.MULTILINE).search(content, 4)
    return (content[4 : end.start()], content[end.end() :]) if end else ("", content)


def _load(text: str) -> tuple[Mapping[str, Any], Mapping[str, tuple[str, ...]], str]:
    """The front matter's mapping with the places of its values, or an empty one and what is wrong."""
    import yaml

    if len(text) > MAX_FRONT_MATTER_CHARS:
        return {}, {}, f"front matter: expected at most {MAX_FRONT_MATTER_CHARS} characters, got {len(text)}"
    try:
        value = load_yaml(text)
        places = _places(yaml.compose(text, Loader=_loader())) if isinstance(value, dict) else {}
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        return {}, {}, f"front matter: {quote(str(error))}"
    if value is None:
        return {}, {}, ""
    if not isinstance(value, dict):
        return {}, {}, f"front matter: expected a mapping, got {type(value).__name__}"
    return {str(key): item for key, item in value.items()}, places, ""


def _places(mapping: Any) -> Mapping[str, tuple[str, ...]]:
    """Raises ValueError for a key that stands twice: readers differ in which of the two they take."""
    places: dict[str, tuple[str, ...]] = {}
    for key, value in mapping.value:
        line = key.start_mark.line + 2  # from 1, below the dashes
        if key.value in places:
            raise ValueError(f"line {line}: expected each key once, got {key.value} again")
        items = value.value if value.id == "sequence" and value.value else [key]
        places[str(key.value)] = tuple(f"{key.value}, line {item.start_mark.line + 2}" for item in items)
    return places


def load_yaml(text: str) -> Any:
    """YAML as plain data. Raises yaml.YAMLError for what is not YAML, ValueError for aliases and for deep nesting."""
    import yaml

    depth = 0
    for event in yaml.parse(text, Loader=_loader()):
        if isinstance(event, yaml.AliasEvent):
            raise ValueError(f"line {event.start_mark.line + 1}: expected no YAML alias, got *{event.anchor}")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise ValueError(f"line {event.start_mark.line + 1}: expected at most {MAX_DEPTH} levels of nesting")
    return yaml.load(text, Loader=_loader())


def _loader() -> Any:
    import yaml

    return getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def _card_of_gguf(artefacts: Artefacts) -> Card:
    metadata = artefacts.gguf
    if not metadata:
        return Card()
    declared = {name: metadata[key] for key, name in _GGUF_KEYS.items() if key in metadata}
    places = {
        name: (key,) * (len(metadata[key]) if isinstance(metadata[key], list) else 1)
        for key, name in _GGUF_KEYS.items()
        if key in metadata
    }
    urls = [key for index in range(16) if (key := f"general.base_model.{index}.repo_url") in metadata]
    if urls:
        declared["base_model"] = [str(metadata[key]).removeprefix("https://huggingface.co/") for key in urls]
        places["base_model"] = tuple(urls)
    return Card(artefacts.gguf_files[0].name, declared, places, is_written=False)


def _sentences(text: str, first_line: int) -> Iterator[Sentence]:
    heading = ""
    for number, paragraph in _paragraphs(text, first_line):
        if found := _HEADING.match(paragraph):
            heading = found[1].strip()
        start = 0
        for end in [*(found.end() for found in _SENTENCE_END.finditer(paragraph)), len(paragraph)]:
            line = number + paragraph.count("\n", 0, start)
            sentence = " ".join(paragraph[start:end].split())
            for cut in range(0, len(sentence), MAX_SENTENCE_CHARS):
                yield Sentence(sentence[cut : cut + MAX_SENTENCE_CHARS], line, heading)
            start = end


def _paragraphs(text: str, first_line: int) -> Iterator[tuple[int, str]]:
    """Lines that belong together, with the number of the first; items, rows and headings stand by themselves."""
    lines: list[str] = []
    start = first_line
    for number, line in enumerate(text.split("\n"), first_line):
        if lines and (not line.strip() or _BEGINS.match(line) or _ALONE.match(lines[-1])):
            yield start, "\n".join(lines)
            lines = []
        if line.strip():
            start = start if lines else number
            lines.append(line.strip())
    if lines:
        yield start, "\n".join(lines)
