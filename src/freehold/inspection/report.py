"""A report on a model: what each examination says, in one form for every output."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from freehold.errors import UnsupportedError
from freehold.inspection.artefacts import Artefacts
from freehold.inspection.card import read_card
from freehold.inspection.findings import Row, Section, section_dict

if TYPE_CHECKING:
    from freehold.inspection.cost import Rates

Progress = Callable[[str, int, int], None]  # (file, bytes done, bytes in all)
_COSTS = ("parameters", "weights_bytes", "read_bytes_per_token", "cache_bytes_per_token", "state_bytes", "at_context")


class Examination(Protocol):
    """What every examination gives: a part of the report, and its facts for a program."""

    def section(self) -> Section: ...

    def summary(self) -> tuple[Row, ...]: ...

    def to_dict(self) -> dict[str, Any]: ...


@dataclass(frozen=True, slots=True)
class Summary:
    """The report in short: `rows` to be read, whose texts are plain; `figures` for a program."""

    verdict: str
    rows: tuple[Row, ...]
    figures: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        rows = [{"label": row.label, "value": row.value, "status": str(row.status)} for row in self.rows]
        return {"verdict": self.verdict, **self.figures, "rows": rows}


@dataclass(frozen=True)
class Report:
    """`examinations` by name: use, when one was asked about, openness, licence, trust, cost."""

    name: str
    path: Path
    examinations: Mapping[str, Examination]
    sections: tuple[Section, ...]

    @property
    def verdict(self) -> str:
        return self.sections[list(self.examinations).index("openness")].verdict

    def summary(self) -> Summary:
        """What `freehold show`, the server's list of models and the chat page tell of it."""
        from freehold.inspection.render.plain import plain, plain_value

        rows = [row for examination in self.examinations.values() for row in examination.summary()]
        facts = {name: self.examinations[name].to_dict() for name in ("openness", "licence", "trust", "cost")}
        openness, cost = facts["openness"], facts["cost"]
        figures = {
            "missing_for_next": openness["missing_for_next"],
            "mof": openness["mof"],
            "weights_licence": openness["weights_licence"],
            "conflicts": len(facts["licence"]["conflicts"]),
            "trust": facts["trust"]["worst"],
            **{key: cost[key] for key in _COSTS},
        }
        told = tuple(replace(row, label=plain(row.label), value=plain(row.value)) for row in rows)
        return Summary(self.verdict, told, plain_value(figures))

    def to_dict(self) -> dict[str, Any]:
        """The report for a program: the same rows as on paper, and the facts of each examination."""
        from freehold.inspection.render.plain import plain_value

        facts = {name: examination.to_dict() for name, examination in self.examinations.items()}
        sections = [section_dict(section) for section in self.sections]
        head = {"name": self.name, "path": str(self.path), "verdict": self.verdict}
        return plain_value(head | {"sections": sections} | facts)


def inspect(
    path: str | os.PathLike[str],
    *,
    use: str | None = None,
    hash_files: bool = True,
    measure: bool = False,
    rates: "Rates | None" = None,
    progress: Progress | None = None,
) -> Report:
    """A report on a model's folder or a file of weights. Reads no network.

    `use` asks whether it is allowed, as in "commercial service, 2M monthly users, EU". `hash_files=False` computes no
    digest, the one part that must read all of the files; `progress` is told of it. `measure` runs the model for
    some seconds, for what a million of its tokens take here in time, energy and, by `rates`, money.
    Raises ModelNotFoundError when there is nothing there, ModelFileError for a wrong `evidence.yaml`, RequestError for
    a use that is not understood, UnsupportedError when the extra `inspect` is not installed.
    """
    artefacts = Artefacts(path)
    try:
        examinations = _examine(artefacts, use, hash_files, measure, rates, progress)
    except ModuleNotFoundError as error:
        raise UnsupportedError(f"a report needs the package {error.name}", "pip install 'freehold[inspect]'") from None
    sections = tuple(examination.section() for examination in examinations.values())
    return Report(artefacts.name, artefacts.path, examinations, sections)


def _examine(
    artefacts: Artefacts,
    use: str | None,
    hash_files: bool,
    measure: bool,
    rates: "Rates | None",
    progress: Progress | None,
) -> dict[str, Examination]:
    from freehold.inspection import cost, licence, trust
    from freehold.inspection.openness.examine import examine as examine_openness
    from freehold.inspection.terms import terms_of
    from freehold.inspection.use import answered

    card = read_card(artefacts)
    licences = licence.examine(artefacts, card)
    asked: dict[str, Examination] = {} if use is None else {"use": answered(licences, use)}
    return asked | {
        "openness": examine_openness(artefacts, card, terms_of(licences)),
        "licence": licences,
        "trust": trust.examine(artefacts, hash_files=hash_files, progress=progress),
        "cost": cost.examine(artefacts, card, measured=_measured(artefacts) if measure else None, rates=rates),
    }


def _measured(artefacts: Artefacts) -> Any:
    """Of a folder without a config.json its GGUF file is what runs."""
    from freehold.inspection.cost.measure import measure

    lies_in_folder = artefacts.folder and not artefacts.config and artefacts.gguf_files
    return measure(artefacts.gguf_files[0].path if lies_in_folder else artefacts.path)
