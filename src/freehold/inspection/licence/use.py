"""A use of a model: what somebody wants to do with it, as options or in words."""

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from freehold.errors import RequestError
from freehold.inspection.licence.amounts import amounts
from freehold.inspection.licence.clauses import DATA, fields_in, region_names, regions_in

_UNDERSTOOD = (
    'say, parted by commas, what holds: commercial or non-commercial, service, "2M monthly users", '
    '"$5M monthly revenue", EU or another region, trains models on outputs, redistributes, fine-tunes, military'
)
_NOT_BEFORE = re.compile(r"\b(?:no|not|without|never)\b[\w\s]{0,20}$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Use:
    """What somebody wants to do with a model. None: not said, so that what depends on it becomes a condition.

    `monthly_users` of the products together; `monthly_revenue_usd` of the organisation; `regions` as in words.toml (EU,
    UK, US …); `fields` of use (military, medical …).
    """

    commercial: bool | None = None
    serves: bool | None = None
    monthly_users: float | None = None
    monthly_revenue_usd: float | None = None
    regions: tuple[str, ...] = ()
    trains_models_on_outputs: bool | None = None
    redistributes: bool | None = None
    modifies: bool | None = None
    fields: tuple[str, ...] = ()


def parse_use(text: str) -> Use:
    """A use in words, parts parted by commas. Raises RequestError for a part of which nothing is understood."""
    use = Use()
    parts = [part.strip() for part in re.split(r"[,;\n]+(?!\d{3}\b)", text[:2000]) if part.strip()]
    for part in parts or [""]:
        known = _amounts_of(part) | _words_of(part)
        regions = tuple(dict.fromkeys([*use.regions, *_regions_of(part)]))
        fields = tuple(dict.fromkeys([*use.fields, *fields_in(part)]))
        if not known and regions == use.regions and fields == use.fields:
            raise RequestError(f"use: expected words about a use, got {part[:60]!r}", _UNDERSTOOD)
        use = replace(use, **known, regions=regions, fields=fields)
    return use


def _words_of(part: str) -> dict[str, Any]:
    known: dict[str, Any] = {}
    for word in reversed(_words()):
        found = re.search(word["pattern"], part, re.IGNORECASE)
        if found:
            is_negated = _NOT_BEFORE.search(part[: found.start()]) is not None
            known[word["says"]] = word.get("value", True) != is_negated
    return known


def _amounts_of(part: str) -> dict[str, float]:
    known: dict[str, float] = {}
    for amount in amounts(part):
        if amount.kind == "users":
            known["monthly_users"] = amount.value
        elif amount.kind == "money":
            known["monthly_revenue_usd"] = amount.usd_per_month
    return known


def _regions_of(part: str) -> list[str]:
    by_country = [name for name, pattern in region_names().items() if pattern.search(part)]
    usa = ["US"] if re.search(r"\bUS\b|\bU\.S\.|\bUSA\b", part) and not re.search(r"US ?\$|US dollar", part) else []
    return [*regions_in(part), *by_country, *usa]


@cache
def _words() -> Sequence[Mapping[str, Any]]:
    return tomllib.loads((DATA / "uses.toml").read_text("utf-8"))["word"]
