"""All that is wrong with a safetensors file's structure.

Source: the format's description in huggingface/safetensors (README, "Format"): 8 bytes little-endian length, that many
bytes of JSON (at most 100 MB, beginning with "{", names once, offsets from the end of the header without holes), data.
"""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MAX_HEADER_BYTES = 100_000_000
# Bits of a value; the last few are those of packed and small floats.
DTYPE_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "U16": 16, "I16": 16, "F16": 16, "BF16": 16, "U32": 32, "I32": 32, "F32": 32,
    "U64": 64, "I64": 64, "F64": 64, "C64": 64, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8, "F6_E2M3": 6, "F6_E3M2": 6, "F4": 4,
}  # fmt: skip
MAX_PROBLEMS = 20
MAX_DIMENSIONS = 64


@dataclass(frozen=True, slots=True)
class Entry:
    """A tensor that is described soundly: `offset` counts from the file's beginning."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    num_bytes: int


@dataclass
class SafetensorsReport:
    entries: list[Entry] = field(default_factory=list)
    metadata: dict[str, str] = field(default_factory=dict)
    problems: list[tuple[str, str]] = field(default_factory=list)  # (tensor or part, one sentence)

    def problem(self, place: str, text: str) -> None:
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append((place, text))


def check_safetensors(path: Path) -> SafetensorsReport:
    """Read the header and hold it against the size of the file. Raises OSError."""
    report = SafetensorsReport()
    with path.open("rb") as stream:
        num_bytes = path.stat().st_size
        start = stream.read(8)
        if len(start) < 8:
            report.problem("header", f"the file has {num_bytes} bytes: too short for a header")
            return report
        length = int.from_bytes(start, "little")
        if length > MAX_HEADER_BYTES or length > num_bytes - 8:
            least = min(MAX_HEADER_BYTES, num_bytes - 8)
            report.problem("header", f"its length is given as {length} bytes, at most {least} are possible")
            return report
        raw = stream.read(length)
    header = _parse(raw, report)
    if header is not None:
        _check_entries(header, 8 + length, num_bytes, report)
    return report


def _parse(raw: bytes, report: SafetensorsReport) -> dict[str, Any] | None:
    twice: list[str] = []

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        value = dict(items)
        if len(value) < len(items):
            seen: set[str] = set()
            twice.extend(name for name, _ in items if name in seen or seen.add(name))
        return value

    if raw[:1] != b"{":
        report.problem("header", 'it does not begin with "{"')
        return None
    try:
        header = json.loads(raw, object_pairs_hook=pairs)
    except (ValueError, RecursionError) as error:
        report.problem("header", f"it is not JSON: {error}")
        return None
    for name in dict.fromkeys(twice):
        report.problem(name, "is given twice: readers differ in which one they take")
    return header


def _check_entries(header: dict[str, Any], start: int, num_bytes: int, report: SafetensorsReport) -> None:
    metadata = header.pop("__metadata__", {})
    if isinstance(metadata, dict) and all(isinstance(value, str) for value in metadata.values()):
        report.metadata = metadata
    else:
        report.problem("__metadata__", "is not a map of texts")
    for name, value in header.items():
        if entry := _entry(name, value, start, num_bytes, report):
            report.entries.append(entry)
    for place, text in _gaps(report.entries, start, num_bytes):
        report.problem(place, text)


def _entry(name: str, value: Any, start: int, num_bytes: int, report: SafetensorsReport) -> Entry | None:
    if not isinstance(value, dict) or value.keys() != {"dtype", "shape", "data_offsets"}:
        report.problem(name, "is not described by dtype, shape and data_offsets alone")
        return None
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BITS:
        report.problem(name, f"has the unknown dtype {dtype!r}")
        return None
    if not _are_counts(shape) or not _are_counts(offsets) or len(offsets) != 2:
        report.problem(name, f"has shape {shape!r} and offsets {offsets!r}: expected counts")
        return None
    bits = math.prod(shape) * DTYPE_BITS[dtype]
    begin, end = offsets
    if bits >= 1 << 66 or bits % 8:
        report.problem(name, f"has the impossible shape {shape}: {bits} bits")
    elif end < begin or end - begin != bits // 8:
        report.problem(name, f"needs {bits // 8} bytes for {dtype} {shape}, its offsets hold {end - begin}")
    elif end > num_bytes - start:
        report.problem(name, f"ends at byte {end} of the data, the file has {num_bytes - start} (truncated?)")
    else:
        return Entry(name, dtype, tuple(shape), start + begin, end - begin)
    return None


def _are_counts(values: Any) -> bool:
    few = isinstance(values, list) and len(values) <= MAX_DIMENSIONS
    return few and all(type(v) is int and 0 <= v < 1 << 63 for v in values)


def _gaps(entries: list[Entry], start: int, num_bytes: int) -> Iterator[tuple[str, str]]:
    """Overlaps, holes, and what lies behind the last tensor."""
    at, before = start, "the header"
    for entry in sorted(entries, key=lambda entry: (entry.offset, entry.num_bytes)):
        if entry.offset < at:
            yield entry.name, f"overlaps {before} by {at - entry.offset} bytes"
        elif entry.offset > at:
            yield entry.name, f"has {entry.offset - at} bytes before it that no tensor names"
        at, before = max(at, entry.offset + entry.num_bytes), entry.name
    if at < num_bytes:
        yield "end", f"has {num_bytes - at} bytes behind the last tensor that no tensor names"
