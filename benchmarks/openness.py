"""How far our ratings agree with those of the people of the European Open Source AI Index.

    python benchmarks/openness.py ../shared/data/osai-index/osai_index.json --out docs/openness.md

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

from freehold.inspect.card import parse_card
from freehold.inspect.evidence.gather import combine, of_card
from freehold.inspect.openness.osai_index import rate
from freehold.inspect.openness.release import Release
from freehold.inspect.terms import Terms, declared_terms

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


def compare(records: Sequence[Mapping[str, Any]], *, with_notes: bool) -> Iterator[Comparison]:
    """Both ratings of every record and dimension whose evidence the record holds."""
    for record in records:
        for dimension, rating in record["ratings"].items():
            if dimension in LABELS and (rating["link"] or rating["notes"]):
                ours = _ours(record, dimension, with_notes=with_notes)
                yield Comparison(
                    record["name"], dimension, ours, rating["class"], _links(rating), rating["notes"] or ""
                )


def _ours(record: Mapping[str, Any], dimension: str, *, with_notes: bool) -> str:
    dimensions = [dimension] if dimension != "licenses" else ["trainingcode"]
    lines = [_line(d, record["ratings"][d], with_notes=with_notes) for d in dimensions if d in record["ratings"]]
    card = parse_card("record", _front_matter(record) + "\n".join(lines))
    found: dict[str, list[Any]] = {}
    for topic, fact in of_card(card):
        found.setdefault(topic, []).append(fact)
    release = Release(combine(found, card, "instruct"), declared_terms(card), card)
    return next(str(r.grade) for r in rate(release) if r.key == dimension)


def _front_matter(record: Mapping[str, Any]) -> str:
    return f"---\nlicense: {json.dumps(str(record.get('endmodellicense') or 'unknown'))}\n---\n"


def _line(dimension: str, rating: Mapping[str, Any], *, with_notes: bool) -> str:
    note = " ".join((rating["notes"] or "").split()).replace(". ", "; ") if with_notes else ""
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
    print(page)
    if options.out:
        options.out.write_text(page, "utf-8")
    print(json.dumps({name: _kappas(run) for name, run in runs.items()}))


def _kappas(run: Sequence[Comparison]) -> dict[str, float]:
    return {d: round(kappa([(c.ours, c.theirs) for c in run if c.dimension == d]), 3) for d in LABELS}


def _page(index: Mapping[str, Any], runs: Mapping[str, list[Comparison]]) -> Iterator[str]:
    yield ""


if __name__ == "__main__":
    main()
