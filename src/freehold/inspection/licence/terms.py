"""What is said about a licence, in one form: clauses with their quotes, findings, conflicts, the whole report."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Any

from freehold.inspection.findings import Evidence


class Sort(StrEnum):
    """What a clause does to somebody who uses the model."""

    LIMIT = "limit"  # takes a use away, or asks for another licence
    DUTY = "duty"  # asks for something to be done
    FACT = "fact"  # how the licence is given, ends, and under which law


class Openness(StrEnum):
    """OPEN only for a listed open licence with nothing added; UNKNOWN when no text or name tells."""

    OPEN = "open"
    NOT_OPEN = "not open"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Clause:
    """One clause: `plain` says it in plain words, `quote` is the text itself, `values` what was read out of it.

    `values` holds JSON types only: thresholds (`users`, `revenue_usd_per_month`), `names`, `regions`, `effects` …
    `from_parent` names the model that it was inherited from.
    """

    kind: str
    label: str
    sort: Sort
    plain: str
    quote: str
    values: Mapping[str, Any] = field(default_factory=dict)
    file: str = ""
    line: int = 0
    from_parent: str = ""

    @property
    def evidence(self) -> Evidence:
        return Evidence(self.file, f"line {self.line}" if self.line else "by the name of the licence", self.quote)

    def at(self, file: str, from_parent: str = "") -> "Clause":
        return replace(self, file=file, from_parent=from_parent or self.from_parent)


@dataclass(frozen=True, slots=True)
class Finding:
    """What one text, or one name, is found to be.

    `expression`: SPDX, empty when the licence is not on SPDX's list; `name`: for a reader; `base`: the standard licence
    that a text with further terms is built on; `residual`: those further terms, quoted; `how`: by which method;
    `likeness` to the known text `nearest` from 0 to 1.
    """

    name: str
    expression: str = ""
    openness: Openness = Openness.UNKNOWN
    because: str = ""
    how: str = ""
    base: str = ""
    nearest: str = ""
    likeness: float = 0.0
    residual: tuple[str, ...] = ()
    clauses: tuple[Clause, ...] = ()
    is_policy: bool = False  # rules of use that grant nothing themselves
    has_text: bool = True

    @property
    def is_open(self) -> bool:
        return self.openness is Openness.OPEN

    def at(self, file: str) -> "Finding":
        return replace(self, clauses=tuple(clause.at(file) for clause in self.clauses))


@dataclass(frozen=True, slots=True)
class Conflict:
    """Two sources that cannot both be right."""

    plain: str
    evidence: tuple[Evidence, ...]


_RELATIONS = {
    "adapter": "an adapter of",
    "merge": "a merge of",
    "finetune": "a fine-tune of",
    "quantized": "a quantization of, or made from,",
    "distil": "a distillation of",
    "itself": "by its name",
}


@dataclass(frozen=True, slots=True)
class Parent:
    """A model that this one is derived from: `relation` as the artefacts say it (adapter, merge, quantized …)."""

    name: str
    relation: str
    evidence: Evidence
    family: str = ""
    licence: Finding | None = None
    is_mark: bool = False  # told by its tokenizer or architecture alone

    @property
    def described(self) -> str:
        """The relation as half a sentence: "it is an adapter of google/gemma-2-9b (Gemma)"."""
        if self.is_mark:
            return self.relation
        known = f" ({self.family})" if self.family and self.family != self.name else ""
        noun = next((noun for word, noun in _RELATIONS.items() if self.relation.startswith(word)), "derived from")
        return f"it is {noun} {self.name}{known}"


@dataclass(frozen=True, slots=True)
class ScopeFinding:
    """The licence of one part (weights, code, data): every source that speaks of it, and what they come to together."""

    scope: str
    name: str
    expression: str
    openness: Openness
    because: str
    findings: tuple[tuple[Evidence, Finding], ...] = ()
    clauses: tuple[Clause, ...] = ()

    @property
    def is_open(self) -> bool:
        return self.openness is Openness.OPEN

    @property
    def evidence(self) -> tuple[Evidence, ...]:
        return tuple(evidence for evidence, _ in self.findings)


def as_json(value: Any) -> Any:
    """Dataclasses, tuples and enums as JSON types."""
    return _plain(asdict(value))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, StrEnum) else value
