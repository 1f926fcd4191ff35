"""The verdict that a newspaper reader understands, and the shortest list of what the next one asks for."""

from dataclasses import dataclass

from freehold.inspection.openness.criteria import criteria
from freehold.inspection.openness.osaid import Element, Met, is_open_source
from freehold.inspection.openness.release import Release


@dataclass(frozen=True, slots=True)
class Verdict:
    name: str
    plain: str
    next_name: str  # empty at the top
    missing: tuple[str, ...]  # for the next one


def judge(release: Release, elements: tuple[Element, ...]) -> Verdict:
    """The first verdict of data/verdict.toml whose conditions are met."""
    better: dict = {}
    for entry in criteria("verdict")["verdict"]:
        if not _lacking(entry, release, elements):
            missing = _lacking(better, release, elements) if better else []
            plain = entry["plain"] if release.weights.name else entry.get("plain_without_licence", entry["plain"])
            return Verdict(entry["name"], plain, better.get("name", ""), tuple(missing))
        better = entry
    raise AssertionError("the last verdict has no conditions")


def _lacking(entry: dict, release: Release, elements: tuple[Element, ...]) -> list[str]:
    """What keeps a release from a verdict, in words; empty when nothing does."""
    lacking = []
    is_published = release.fact("model_parameters_final").is_published
    if entry.get("weights") and not is_published:
        return ["published weights"]
    if entry.get("weights") == "open" and not release.weights.is_open:
        under = f" (they are under {release.weights.name})" if release.weights.name else " (none is evidenced)"
        lacking.append(f"an open licence of the weights{under}")
    by_key = {element.key: element for element in elements}
    for topic in entry.get("code", ()):
        element = by_key["architecture_code" if topic == "model_architecture" else topic]
        if element.met is not Met.YES:
            lacking.append(_in_words(element))
    if entry.get("osaid") and not is_open_source(elements):
        lacking += dict.fromkeys(_in_words(e) for e in elements if e.met is not Met.YES and e.key != "parameters")
    return lacking


def _in_words(element: Element) -> str:
    return f"{element.label} ({element.why})"
