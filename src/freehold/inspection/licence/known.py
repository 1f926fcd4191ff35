"""Labs' own licences, known by the fingerprint of their words; data/texts.json holds hashes, clauses, and no text.

An altered text is told by a sample of hashes of five words in a row: the 64 smallest. A record is made from a text by
`python -m freehold.inspection.licence.known FILE NAME IDENTIFIER SOURCE TAG...`, which prints it.
"""

import json
import sys
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from freehold.inspection.licence.clauses import DATA, find_clauses, restore
from freehold.inspection.licence.prose import Prose, fingerprint, words
from freehold.inspection.licence.terms import Clause

_IN_A_ROW = 5
_SAMPLE = 64
_MAX_STORED_QUOTE = 120


@dataclass(frozen=True, slots=True)
class Known:
    """A text that is known: `identifier` is a LicenseRef; `likeness` to what was compared, 1.0 for the same words."""

    name: str
    identifier: str
    tags: tuple[str, ...]
    source: str
    likeness: float
    clauses: tuple[Clause, ...]


def nearest(prose: Prose) -> Known | None:
    """The known text with the same words, else the likest one; None when none is alike."""
    digest, found = fingerprint(prose.content), words(prose.content)
    rows = _hashes(found)
    best: tuple[float, Mapping[str, Any] | None] = (0.0, None)
    for record in _records():
        if record["sha256"] == digest:
            return _known(record, 1.0)
        sample = record["sample"]
        share = sum(int(sample[i : i + 8], 16) in rows for i in range(0, len(sample), 8)) * 8 / len(sample)
        likeness = share * min(1.0, record["words"] / max(len(found), 1))
        best = max(best, (min(likeness, 0.99), record), key=lambda pair: pair[0])
    return _known(best[1], best[0]) if best[1] is not None and best[0] >= 0.5 else None


def by_tag(tag: str) -> list[Known]:
    """The texts, a licence and its use policy, that a card's tag stands for."""
    return [_known(record, 0.0) for record in _records() if tag.lower() in record["tags"]]


def policy_clauses(name: str) -> list[Clause]:
    """Clauses of the other texts that go by the same tags as the known text of this name."""
    tags = {tag for entry in _records() if entry["name"] == name for tag in entry["tags"]}
    others = [entry for entry in _records() if entry["name"] != name and tags & set(entry["tags"])]
    return [clause for entry in others for clause in _known(entry, 0.0).clauses]


def record(text: str, name: str, identifier: str, source: str, tags: Sequence[str]) -> dict[str, Any]:
    """What is kept of a text."""
    prose = Prose.of(text)
    found = words(prose.content)
    sample = sorted(_hashes(found))[:_SAMPLE]
    clauses = [
        {"kind": clause.kind, "quote": _short(clause.quote), "values": dict(clause.values)}
        for clause in find_clauses(prose.sentences())
    ]
    return {
        "name": name,
        "identifier": identifier,
        "tags": list(tags),
        "source": source,
        "words": len(found),
        "sha256": fingerprint(prose.content),
        "sample": "".join(f"{value:08x}" for value in sample),
        "clauses": clauses,
    }


def _known(entry: Mapping[str, Any], likeness: float) -> Known:
    clauses = tuple(restore(c["kind"], c["quote"], c["values"]) for c in entry["clauses"])
    return Known(entry["name"], entry["identifier"], tuple(entry["tags"]), entry["source"], likeness, clauses)


def _hashes(found: Sequence[str]) -> set[int]:
    return {zlib.crc32(" ".join(found[i : i + _IN_A_ROW]).encode()) for i in range(len(found) - _IN_A_ROW + 1)}


def _short(quote: str) -> str:
    return quote if len(quote) <= _MAX_STORED_QUOTE else quote[: _MAX_STORED_QUOTE - 1].rsplit(" ", 1)[0] + "…"


@cache
def _records() -> tuple[Mapping[str, Any], ...]:
    return tuple(json.loads((DATA / "texts.json").read_text("utf-8")))


if __name__ == "__main__":
    file, name_, identifier_, source_, *tags_ = sys.argv[1:]
    print(json.dumps(record(Path(file).read_text("utf-8"), name_, identifier_, source_, tags_), ensure_ascii=False))
