"""How far our ratings agree with those of the people of the European Open Source AI Index.

    python benchmarks/openness.py osai_index.json --out docs/openness.md

A record of the index holds, for each dimension, the links that its people found and the note that they wrote. From
these a line of a card is made again, as in "Training code: https://…", once with the links alone and once with the note
as well, and our rules rate it. Cohen's kappa with linear weights says how far the two agree beyond chance. The last
line on the terminal is JSON.
"""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from freehold.inspection.card import parse_card
from freehold.inspection.evidence.gather import combine, of_card
from freehold.inspection.licence.detect import detect_name
from freehold.inspection.openness.licences import licence_lists
from freehold.inspection.openness.osai_index import rate
from freehold.inspection.openness.release import Release
from freehold.inspection.terms import ReleaseTerms, Terms

GRADES = ("closed", "partial", "open")
# How a card would name what the dimension is about.
LABELS = {
    "datasources_basemodel": "Pre-training data",
    "datasources_endmodel": "Fine-tuning data",
    "weights_basemodel": "Base model weights",
    "weights_endmodel": "Model weights",
    "trainingcode": "Training code",
    "code": "Code documentation",
    "hardware_architecture": "Training hardware",
    "preprint": "Preprint",
    "paper": "Paper",
    "datasheet": "Datasheet",
    "licenses": "License",
}
NOT_RATED = {"modelcard": "what a card leaves out can be told from the card alone, and a record does not hold it"}


@dataclass(frozen=True)
class Comparison:
    model: str
    dimension: str
    ours: str
    theirs: str
    links: tuple[str, ...]
    note: str
    why: str


def compare(records: Sequence[Mapping[str, Any]], *, with_notes: bool) -> Iterator[Comparison]:
    """Both ratings of every record and dimension whose evidence the record holds."""
    for record in records:
        for dimension, rating in record["ratings"].items():
            if dimension in LABELS and (rating["link"] or rating["notes"]):
                ours, why = _ours(record, dimension, with_notes=with_notes)
                note = rating["notes"] or ""
                yield Comparison(record["name"], dimension, ours, rating["class"], _links(rating), note, why)


def _ours(record: Mapping[str, Any], dimension: str, *, with_notes: bool) -> tuple[str, str]:
    dimensions = [dimension] if dimension != "licenses" else ["trainingcode"]
    lines = [_line(d, record["ratings"][d], with_notes=with_notes) for d in dimensions if d in record["ratings"]]
    card = parse_card("record", "\n".join(lines))
    found: dict[str, list[Any]] = {}
    for topic, fact in of_card(card):
        found.setdefault(topic, []).append(fact)
    release = Release(combine(found, card, "instruct"), _terms(record), card)
    rating = next(r for r in rate(release) if r.key == dimension)
    return str(rating.grade), rating.why


def _terms(record: Mapping[str, Any]) -> ReleaseTerms:
    finding = detect_name(str(record.get("endmodellicense") or ""))
    if finding is None:
        return ReleaseTerms(Terms())
    return ReleaseTerms(Terms(finding.expression if finding.is_open else finding.name, finding.is_open))


def _line(dimension: str, rating: Mapping[str, Any], *, with_notes: bool) -> str:
    note = " ".join((rating["notes"] or "").split()).replace(". ", ", ").replace("; ", ", ") if with_notes else ""
    links = " ".join(_links(rating))
    return f"{LABELS[dimension]}: {links} {note}" if links or note else ""


def _links(rating: Mapping[str, Any]) -> tuple[str, ...]:
    link = rating["link"] or []
    return tuple(link) if isinstance(link, list) else (link,)


def kappa(pairs: Sequence[tuple[str, str]]) -> float:
    """Cohen's kappa with linear weights over the grades (Cohen 1968); 1 where neither side ever differs."""
    pairs_at = [(GRADES.index(ours), GRADES.index(theirs)) for ours, theirs in pairs]
    observed = sum(abs(a - b) for a, b in pairs_at) / len(pairs)
    expected = sum(abs(a - b) for a, _ in pairs_at for _, b in pairs_at) / len(pairs) ** 2
    return 1 - observed / expected if expected else 1.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("index", type=Path, help="osai_index.json")
    parser.add_argument("--out", type=Path, help="write the tables as Markdown")
    options = parser.parse_args()
    index = json.loads(options.index.read_text("utf-8"))
    runs = {name: list(compare(index["models"], with_notes=name == "notes")) for name in ("links", "notes")}
    page = "\n".join(_page(index, runs)) + "\n"
    if options.out:
        options.out.write_text(page, "utf-8")
    else:
        print(page)
    print(json.dumps({name: _kappas(run) for name, run in runs.items()}))


def _kappas(run: Sequence[Comparison]) -> dict[str, float]:
    return {d: round(kappa([(c.ours, c.theirs) for c in run if c.dimension == d]), 3) for d in LABELS}


def _page(index: Mapping[str, Any], runs: Mapping[str, list[Comparison]]) -> Iterator[str]:
    yield "# Our ratings beside those of the European Open Source AI Index\n"
    yield (
        f"Made by `benchmarks/openness.py` from {len(index['models'])} records of the index ({index['source']}; "
        f"{index['licence']}). Notes are the index's own words, cut short.\n"
    )
    yield (
        "A record holds the links that people found and the note that they wrote. Of these a line of a card is made "
        "again, with the links alone and with the note, and rated by the patterns that rate real cards. *With the "
        "note* shows whether we draw from the same words the conclusion that people drew; the patterns were improved "
        "on these same records, so it is no forecast for others. *Links alone* is what a card without a word of "
        "explanation would give. Kappa is Cohen's with linear weights.\n"
    )
    yield "| dimension | rated | kappa, links alone | same grade | kappa, with the note | same grade |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for dimension in LABELS:
        cells = [_cell([c for c in run if c.dimension == dimension]) for run in runs.values()]
        count = sum(c.dimension == dimension for c in runs["notes"])
        yield f"| {dimension} | {count} | {' | '.join(cells)} |"
    cells = [_cell(run) for run in runs.values()]
    yield f"| all | {len(runs['notes'])} | {' | '.join(cells)} |"
    for dimension, why in NOT_RATED.items():
        yield f"\nNot compared: `{dimension}`: {why}."
    yield "\n## Where the index is at odds with itself\n"
    yield from _at_odds(index["models"])
    yield "\n## Where we differ, with the note\n"
    yield "| dimension | model | ours | theirs | their link | their note | our reason |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for c in sorted(runs["notes"], key=lambda c: (list(LABELS).index(c.dimension), c.model.lower())):
        if c.ours != c.theirs:
            cells = (c.dimension, c.model, c.ours, c.theirs, *(_short(t) for t in (" ".join(c.links), c.note, c.why)))
            yield f"| {' | '.join(cells)} |"


def _cell(comparisons: Sequence[Comparison]) -> str:
    pairs = [(c.ours, c.theirs) for c in comparisons]
    return f"{kappa(pairs):.2f} | {sum(a == b for a, b in pairs) / len(pairs):.0%}"


def _short(text: str) -> str:
    text = " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
    return text if len(text) <= 100 else f"{text[:99]}…"


def _at_odds(records: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Grades that the record itself contradicts; each check says what it looked for."""
    osi = licence_lists().is_osi_approved
    for title, is_odd in (
        (
            "`preprint` is closed although the record links a preprint",
            lambda r: r["preprint"]["class"] == "closed" and "arxiv.org/abs" in " ".join(_links(r["preprint"])),
        ),
        (
            "`code` (its documentation) is open although `trainingcode` is closed",
            lambda r: r["code"]["class"] == "open" and r["trainingcode"]["class"] == "closed",
        ),
        (
            "a data set is open although nothing is linked and nothing noted",
            lambda r: any(
                r[d]["class"] == "open" and not r[d]["link"] and not r[d]["notes"]
                for d in ("datasources_basemodel", "datasources_endmodel", "datasheet")
                if d in r
            ),
        ),
        (
            "the note calls CC-BY-4.0 OSI-approved, which it is not",
            lambda r: "CC-BY-4.0, an OSI-approved" in (r["licenses"]["notes"] or ""),
        ),
    ):
        odd = [record["name"] for record in records if is_odd(record["ratings"])]
        yield f"- {title}: {', '.join(odd) or 'none'}."
    grades: dict[str, list[str]] = {grade: [] for grade in GRADES}
    for record in records:
        named = licence_lists().identify(str(record.get("endmodellicense")))
        if named and osi(named) and record["ratings"]["trainingcode"]["class"] == "closed":
            grades[record["ratings"]["licenses"]["class"]].append(record["name"])
    told = "; ".join(f"{grade}: {', '.join(names)}" for grade, names in reversed(grades.items()))
    yield "- weights under an OSI-approved licence and no training code, the same facts, have "
    yield f"  each grade of `licenses`: {told}."
    bare = sum(not r["link"] and not r["notes"] for record in records for r in record["ratings"].values())
    yield f"- {bare} grades of {sum(len(r['ratings']) for r in records)} have neither a link nor a note."


if __name__ == "__main__":
    main()
