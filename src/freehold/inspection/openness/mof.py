"""The Model Openness Framework 1.0: seventeen components, three classes, each of which contains the one before it.

White et al. 2024, arXiv:2403.13784. The components stand in data/mof.toml; here is how they are counted.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from freehold.errors import ModelFileError
from freehold.inspection.openness.criteria import criteria
from freehold.inspection.openness.licences import licence_lists

CLASSES = (3, 2, 1)  # in the order in which they are reached
UNCLASSIFIED = "Unclassified"


@dataclass(frozen=True, slots=True)
class Component:
    key: str
    name: str
    kind: str  # code, data or document
    number: int  # the class that asks for it
    is_optional: bool
    stands_in: str | None  # the component that may take its place


@dataclass(frozen=True, slots=True)
class Classification:
    """`number` is 3, 2 or 1, or 0 when no class is reached; `progress` in percent, 0 until the class below is whole."""

    number: int
    label: str
    progress: Mapping[int, float]
    missing: Mapping[int, tuple[Component, ...]]  # what each class itself still asks for

    def to_dict(self) -> dict[str, Any]:
        return {
            "class": self.number,
            "label": self.label,
            "progress": {str(number): self.progress[number] for number in (1, 2, 3)},
        }


@cache
def components() -> tuple[Component, ...]:
    return tuple(
        Component(c["key"], c["name"], c["kind"], c["class"], c.get("optional", False), c.get("stands_in"))
        for c in criteria("mof")["component"]
    )


def classify(licences: Mapping[str, str | None]) -> Classification:
    """The class of a release from its components: key to licence; a component that is not there has no key.

    A component counts when its licence is open. A research paper stands in for the technical report; then Class I,
    which asks for the paper itself, asks for one component fewer.
    """
    is_open = licence_lists().is_open
    opened = {key for key, licence in licences.items() if licence and is_open(licence)}
    progress: dict[int, float] = dict.fromkeys(CLASSES, 0.0)
    missing: dict[int, tuple[Component, ...]] = {}
    reached = 0
    for number in CLASSES:
        required = [c for c in components() if c.number >= number and not c.is_optional]
        lacking = [c for c in required if c.key not in opened and not (c.stands_in and c.stands_in in opened)]
        missing[number] = tuple(c for c in lacking if c.number == number)
        if number == 3 or reached == number + 1:
            total = len(required) - _counted_twice(required, opened)
            progress[number] = (total - len(lacking)) / total * 100
            reached = reached if lacking else number
    label = next((c["label"] for c in criteria("mof")["class"] if c["number"] == reached), UNCLASSIFIED)
    return Classification(reached, label, progress, missing)


def _counted_twice(required: list[Component], opened: set[str]) -> int:
    """How many requirements are met by a component that is asked for by itself as well."""
    keys = {c.key for c in required}
    return sum(c.key not in opened and c.stands_in in keys & opened for c in required)


def licences_of(record: Mapping[str, Any]) -> dict[str, str | None]:
    """Component to licence, for those that a record in the framework's own YAML or JSON form lists.

    Raises ModelFileError for a component that the framework does not have.
    """
    release = record["release"]
    by_name = {component.name: component for component in components()}
    licences: dict[str, str | None] = {}
    for entry in release.get("components") or ():
        component = by_name.get(entry.get("name"))
        if component is None:
            raise ModelFileError(
                f"{release.get('name')}: components: expected a component of the framework, got {entry.get('name')!r}",
                f"the components are: {', '.join(by_name)}",
            )
        licences[component.key] = _licence_of(entry, component.kind, release.get("license") or {})
    return licences


def _licence_of(entry: Mapping[str, Any], kind: str, of_release: Any) -> str | None:
    """A component's own licence, else the release's for its kind, else that of the distribution."""
    if entry.get("license") is not None:
        return entry["license"]
    general = of_release if isinstance(of_release, Mapping) else {}
    for level in (kind, "distribution"):
        if name := (general.get(level) or {}).get("name"):
            return name
    return None
