"""What an examination of trust has to say, one finding at a time."""

import unicodedata
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Any


class Severity(IntEnum):
    NOTE = 0  # a fact that a reader may want
    CAUTION = 1  # look before you use it
    DANGER = 2  # do not use it


class Topic(StrEnum):
    FILES = "Files"
    STRUCTURE = "Structure"
    CODE = "Code"
    TEMPLATE = "Chat template"
    TOKENIZER = "Tokenizer"
    TENSORS = "Tensors"


@dataclass(frozen=True, slots=True)
class Finding:
    """`text` is one sentence without the file; `place` a line, a tensor or a field; all are `visible`."""

    topic: Topic
    severity: Severity
    file: str
    text: str
    place: str = ""
    quote: str = ""

    def to_dict(self) -> dict[str, Any]:
        return {
            "topic": self.topic.value,
            "severity": self.severity.name.lower(),
            "file": self.file,
            "place": self.place,
            "text": self.text,
            "quote": self.quote,
        }


def visible(text: Any, max_characters: int = 160) -> str:
    """A stranger's text on one line, cut, with characters that cannot be seen or that steer a terminal spelled out."""
    shown = "".join(_escaped(c) if is_invisible(c) or c in "\n\r\t" else c for c in str(text)[: max_characters + 1])
    return shown if len(shown) <= max_characters else shown[: max_characters - 1] + "…"


def is_invisible(character: str) -> bool:
    """Control, format (zero width, direction, tags), private and surrogate characters; not line ends and tabs."""
    return unicodedata.category(character) in ("Cc", "Cf", "Co", "Cs", "Zl", "Zp") and character not in "\n\r\t"


def _escaped(character: str) -> str:
    return {"\n": "\\n", "\r": "\\r", "\t": "\\t"}.get(character) or f"\\u{ord(character):04x}"
