"""Which licences are open, by SPDX identifier; data/licences.toml says who says so."""

import re
from dataclasses import dataclass
from functools import cache

from freehold.inspection.openness.criteria import criteria


@dataclass(frozen=True, slots=True)
class LicenceLists:
    """SPDX identifiers in lower case, for the list's identifiers are compared without regard to case."""

    osi: frozenset[str]  # approved as the Model Openness Tool's list has it
    osi_since: frozenset[str]
    fsf: frozenset[str]
    data: frozenset[str]
    data_by_spdx: frozenset[str]  # where SPDX and the framework's list write it differently
    model: frozenset[str]
    names: dict[str, str]  # from what a licence, open or not, is commonly called (in lower case) to its identifier
    open_names: dict[str, str]  # of these the open ones', and the lists' own identifiers

    def is_open(self, identifier: str) -> bool:
        """Open in the sense of the Model Openness Framework: for code, data, documents or models."""
        return identifier.lower() in self.osi | self.fsf | self.data | self.data_by_spdx | self.model

    def is_osi_approved(self, identifier: str) -> bool:
        return identifier.lower() in self.osi | self.osi_since

    def listed_by(self, identifier: str) -> str:
        """Who counts a licence as open, in words; empty when nobody does."""
        if self.is_osi_approved(identifier):
            return "approved by the OSI"
        if identifier.lower() in self.fsf:
            return "free by the FSF's list"
        if identifier.lower() in self.data | self.data_by_spdx:
            return "an open data licence by the Model Openness Framework"
        return "an open model licence by the Model Openness Framework" if self.is_open(identifier) else ""

    def named_in(self, text: str) -> str | None:
        """The first open licence that a text names, as in "released under the Apache 2.0 license"."""
        found = _pattern(tuple(sorted(self.open_names, key=len, reverse=True))).search(text)
        return self.open_names[found[0].lower()] if found else None


@cache
def _pattern(names: tuple[str, ...]) -> re.Pattern[str]:
    # A short identifier in lower case is a word like any other ("intel", "ruby"): only what reads as a licence counts.
    telling = [re.escape(name) for name in names if re.search(r"\d|licen|^mit$|^cc0$|odc|pddl|openmdw", name)]
    return re.compile(rf"(?<![\w.-])(?<!modified )(?:{'|'.join(telling)})(?![\w-]|\.\d)", re.IGNORECASE)


@cache
def licence_lists() -> LicenceLists:
    data = criteria("licences")
    lists = ("osi_approved", "osi_approved_since", "fsf_libre", "open_data", "open_data_by_spdx", "open_model")
    listed = {identifier.lower(): identifier for name in lists for identifier in data[name]}
    return LicenceLists(
        osi=_lower(data["osi_approved"]),
        osi_since=_lower(data["osi_approved_since"]),
        fsf=_lower(data["fsf_libre"]),
        data=_lower(data["open_data"]),
        data_by_spdx=_lower(data["open_data_by_spdx"]),
        model=_lower(data["open_model"]),
        names=data["names"],
        open_names=listed | {name: called for name, called in data["names"].items() if called.lower() in listed},
    )


def _lower(identifiers: list[str]) -> frozenset[str]:
    return frozenset(identifier.lower() for identifier in identifiers)
