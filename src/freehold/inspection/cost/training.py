"""What a training took, recomputed from what the card states: 6 N D operations, hours, and whether they fit together.

Source of 6 N D: Kaplan et al. 2020, section 2.1: two operations forward and four backward for each parameter that a
token passes. Utilisation of the peak that trainings report lies between 0.3 and 0.5 (Chowdhery et al. 2022, table 3).
"""

import re
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from freehold.inspection.card import Card, Sentence
from freehold.inspection.findings import Evidence

LEAST, MOST = 0.10, 0.60  # utilisation outside of which a claim is flagged
USUAL = 0.40  # where hours are not stated and must be reckoned
LEAVES_OUT = (
    "failed and repeated runs, ablations and smaller models tried before, data (collection, licences, cleaning, "
    "synthetic data and its models), reinforcement learning's own generation unless it is named, people, buildings, "
    "and the machines where only their rent is counted"
)
_FACTORS = {"k": 1e3, "thousand": 1e3, "m": 1e6, "million": 1e6, "b": 1e9, "billion": 1e9, "t": 1e12, "trillion": 1e12}
_NUMBER = r"(?<![\d.,])(?P<number>\d[\d,]*(?:\.\d+)?)"
_UNIT = r"(?P<unit>k|m|b|t|thousand|million|billion|trillion)\b"
_TOKENS = re.compile(rf"{_NUMBER}\s*{_UNIT}\+?(?:\s+[\w-]+){{0,5}}?\s+tokens", re.IGNORECASE)
_HOURS = re.compile(rf"{_NUMBER}\s*(?:{_UNIT})?(?:[\s-]+[\w./]+){{0,4}}?[\s-]+hours", re.IGNORECASE)
_MACHINES = re.compile(r"gpu|tpu|accelerator|chip|device", re.IGNORECASE)
_DAYS = re.compile(r"(?P<number>\d+(?:\.\d+)?)\s+(?P<unit>day|week|month)s?\b", re.IGNORECASE)
_MAKERS = r"(?:nvidia|amd|google|huawei)"
_COUNT = re.compile(rf"{_NUMBER}\s*[x×]?\s*{_MAKERS}?\s*$", re.IGNORECASE)  # before an accelerator's name
_TRAINED = re.compile(r"train", re.IGNORECASE)
_ACTIVE = (
    re.compile(rf"{_NUMBER}\s*{_UNIT}(?:\s+[\w]+){{0,4}}?\s+activ", re.IGNORECASE),
    re.compile(rf"activ\w*(?:\s+parameters)?\W{{1,3}}(?:\w+\s+){{0,2}}?{_NUMBER}\s*{_UNIT}", re.IGNORECASE),
)
_PARAMETERS = re.compile(rf"{_NUMBER}\s*{_UNIT}(?:\s+total)?\s+parameters", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Accelerator:
    name: str
    flops: float  # peak in 16 bits, of one
    watts: float
    source: str


@dataclass(frozen=True, slots=True)
class Claim:
    """A figure that the card states, and where."""

    value: float
    evidence: Evidence


@dataclass(frozen=True)
class Training:
    """`parameters` are those that a token passes; a figure that nothing states is None."""

    parameters: Claim | None
    tokens: Claim | None
    hours: Claim | None
    accelerator: Accelerator | None
    accelerator_evidence: Evidence | None

    @property
    def flops(self) -> float | None:
        return 6 * self.parameters.value * self.tokens.value if self.parameters and self.tokens else None

    @property
    def utilisation(self) -> float | None:
        """The share of the hardware's peak that the stated tokens would have used in the stated hours."""
        if not (self.flops and self.hours and self.accelerator):
            return None
        return self.flops / (self.hours.value * 3600 * self.accelerator.flops)

    @property
    def is_plausible(self) -> bool:
        return self.utilisation is not None and LEAST <= self.utilisation <= MOST

    @property
    def estimated_hours(self) -> float | None:
        """Hours of the stated accelerator, or of an H100, at the usual utilisation."""
        if not self.flops:
            return None
        return self.flops / (USUAL * 3600 * (self.accelerator or accelerators()["h100"]).flops)


def training_of(card: Card, active_parameters: Claim | None) -> Training:
    """What the card says of the training; `active_parameters` as shapes have them, which count more than the card."""
    said = [s for s in card.sentences if s.text]
    cells = list(_table_cells(said))
    accelerator = _accelerator(card, said)
    return Training(
        active_parameters or _parameters(card, said),
        _own(card, cells, "token", active_parameters) or _most(card, _tokens(said, cells)),
        _own(card, cells, "hours", active_parameters) or _most(card, _hours(said, cells)),
        accelerator[0] if accelerator else None,
        accelerator[1] if accelerator else None,
    )


@cache
def accelerators() -> dict[str, Accelerator]:
    """By name in lower case."""
    data = tomllib.loads(files("freehold.inspection.cost").joinpath("accelerators.toml").read_text())
    return {
        name.lower(): Accelerator(row["names"][0], row["tflops"] * 1e12, row["watts"], row["source"])
        for row in data["accelerator"]
        for name in row["names"]
    }


@cache
def _accelerator_pattern() -> re.Pattern[str]:
    names = sorted(accelerators(), key=len, reverse=True)
    return re.compile(rf"(?<![\w])(?:{'|'.join(map(re.escape, names))})(?!\w)", re.IGNORECASE)


def _number(found: re.Match[str]) -> float:
    unit = found.groupdict().get("unit")
    return float(found["number"].rstrip(",").replace(",", "")) * (_FACTORS[unit.lower()] if unit else 1.0)


def _own(card: Card, cells: list["_Cell"], header: str, active: Claim | None) -> Claim | None:
    """What a table says in the row of a model of this size: cards speak of several."""
    for cell in cells if active else ():
        if (
            header in cell.header.lower()
            and active
            and _names_size(cell.row, active.value)
            and (v := _value(cell.text))
        ):
            return Claim(v, card.line_evidence(cell.sentence))
    return None


def _tokens(said: list[Sentence], cells: list["_Cell"]) -> Iterator[tuple[float, Sentence]]:
    for sentence in said:
        if _TRAINED.search(sentence.text) or _TRAINED.search(sentence.heading):
            for found in _TOKENS.finditer(sentence.text):
                yield _number(found), sentence
    yield from ((v, c.sentence) for c in cells if "token" in c.header.lower() and (v := _value(c.text)))


def _hours(said: list[Sentence], cells: list["_Cell"]) -> Iterator[tuple[float, Sentence]]:
    yield from ((v, c.sentence) for c in cells if "hours" in c.header.lower() and (v := _value(c.text)))
    for sentence in said:
        for found in _HOURS.finditer(sentence.text):
            if _about_machines(found):
                yield _number(found), sentence
        if (days := _DAYS.search(sentence.text)) and _TRAINED.search(sentence.text):
            yield from ((hours, sentence) for hours in _machine_days(sentence.text, days))


def _about_machines(found: re.Match[str]) -> bool:
    """Hours of machines, not those of a video."""
    return bool(_MACHINES.search(found[0]) or _accelerator_pattern().search(found[0]))


def _machine_days(text: str, days: re.Match[str]) -> Iterator[float]:
    hours = float(days["number"]) * 24 * {"day": 1, "week": 7, "month": 30}[days["unit"].lower()]
    for name in _accelerator_pattern().finditer(text):
        if count := _COUNT.search(text[: name.start()]):
            yield _number(count) * hours


def _parameters(card: Card, said: list[Sentence]) -> Claim | None:
    for sentence in said:
        for pattern in _ACTIVE:
            if found := pattern.search(sentence.text):
                return Claim(_number(found), card.line_evidence(sentence))
    return _most(card, ((_number(f), s) for s in said for f in _PARAMETERS.finditer(s.text)))


def _accelerator(card: Card, said: list[Sentence]) -> tuple[Accelerator, Evidence] | None:
    """The one that is named where hours or training are, or else the first that is named."""
    named = [(found[0].lower(), s) for s in said if (found := _accelerator_pattern().search(s.text))]
    if not named:
        return None
    about = [(n, s) for n, s in named if re.search(r"hours", s.text, re.IGNORECASE)]
    about = about or [(n, s) for n, s in named if _TRAINED.search(s.text)] or named
    name, sentence = about[0]
    return accelerators()[name], card.line_evidence(sentence)


def _most(card: Card, stated: Iterable[tuple[float, Sentence]]) -> Claim | None:
    """The largest figure: a card names the parts of a training beside the whole."""
    best = max(stated, key=lambda pair: pair[0], default=None)
    return Claim(best[0], card.line_evidence(best[1])) if best else None


# Tables.


@dataclass(frozen=True, slots=True)
class _Cell:
    header: str
    row: str
    text: str
    sentence: Sentence


def _table_cells(said: list[Sentence]) -> Iterator[_Cell]:
    headers: list[str] = []
    for sentence in said:
        if not sentence.text.startswith("|"):
            headers = []
            continue
        cells = [cell.strip(" *`") for cell in sentence.text.strip("|").split("|")]
        if not headers:
            headers = cells
        elif not set(sentence.text) <= set("|-: "):
            yield from (_Cell(h, cells[0], c, sentence) for h, c in zip(headers, cells, strict=False))


def _value(text: str) -> float | None:
    found = re.match(rf"{_NUMBER}\s*(?:{_UNIT})?", text, re.IGNORECASE)
    return _number(found) if found else None


def _names_size(row: str, parameters: float) -> bool:
    """Whether a row's name, such as "Llama 3.1 405B", is that of a model of this size."""
    sizes: list[Any] = [_number(f) for f in re.finditer(rf"{_NUMBER}\s*{_UNIT}", row, re.IGNORECASE)]
    return any(abs(size / parameters - 1) < 0.12 for size in sizes)
