"""A report on a model: what each examination says, in one form for every output."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from freehold.inspect.artefacts import Artefacts
from freehold.inspect.card import Card, read_card
from freehold.inspect.findings import Section, section_dict


class Examination(Protocol):
    """What every examination gives: a part of the report, and its facts for a program."""

    def section(self) -> Section: ...

    def to_dict(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Report:
    """`examinations` by name: openness and whatever else there is to say; `verdict` is that of openness."""

    name: str
    path: Path
    examinations: Mapping[str, Examination]
    sections: tuple[Section, ...]

    @property
    def verdict(self) -> str:
        return self.sections[0].verdict

    def to_dict(self) -> dict[str, Any]:
        """The report for a program: the same rows as on paper, and the facts of each examination."""
        from freehold.inspect.render.plain import plain_value

        facts = {name: examination.to_dict() for name, examination in self.examinations.items()}
        sections = [section_dict(section) for section in self.sections]
        head = {"name": self.name, "path": str(self.path), "verdict": self.verdict}
        return plain_value(head | {"sections": sections} | facts)


def inspect(path: str | os.PathLike[str]) -> Report:
    """A report on a model's folder or a file of weights. Reads no network.

    Raises ModelNotFoundError when there is nothing there, ModelFileError for a wrong `evidence.yaml`.
    """
    artefacts = Artefacts(path)
    examinations = dict(_examine(artefacts, read_card(artefacts)))
    sections = tuple(examination.section() for examination in examinations.values())
    return Report(artefacts.name, artefacts.path, examinations, sections)


def _examine(artefacts: Artefacts, card: Card) -> Iterator[tuple[str, Examination]]:
    from freehold.inspect.openness.examine import examine as examine_openness
    from freehold.inspect.terms import declared_terms

    yield "openness", examine_openness(artefacts, card, declared_terms(artefacts, card))
