"""What has been fetched: one JSON file that says for each reference where its files lie and what they were.

A file counts as there when it has the size that it had when it was verified.
"""

import fcntl
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from freehold.store.places import home


@dataclass(frozen=True, slots=True)
class Record:
    """`path`: the file or folder that is loaded; `files`: its files' sizes, by their path from `folder`."""

    ref: str
    path: Path
    folder: Path
    revision: str
    licence: str | None
    files: dict[str, int] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)  # sha256 of those that were verified
    pulled_at: float = 0.0  # seconds since 1970

    @property
    def num_bytes(self) -> int:
        return sum(self.files.values())

    def is_whole(self) -> bool:
        try:
            return all((self.folder / name).stat().st_size == size for name, size in self.files.items())
        except OSError:
            return False


def _file() -> Path:
    return home() / "references.json"


def all_records() -> list[Record]:
    """Those whose files are still there, in the order in which they were fetched."""
    return [record for record in _read().values() if record.is_whole()]


def find(ref: str) -> Record | None:
    record = _read().get(ref)
    return record if record and record.is_whole() else None


def add(record: Record) -> None:
    with _changing() as records:
        records[record.ref] = record


def delete(record: Record) -> int:
    """Forget a record and delete its files, but those that another holds; returns the bytes that are free again."""
    with _changing() as records:
        records.pop(record.ref, None)
        held = {other.folder / name for other in records.values() for name in other.files}
    freed = sum(_delete_file(path) for name in record.files if (path := record.folder / name) not in held)
    inner = {parent for name in record.files for parent in (record.folder / name).parents}
    for folder in sorted(inner, key=lambda path: len(path.parts), reverse=True):  # the deepest first
        if folder.is_relative_to(record.folder) and not any(folder.iterdir()):
            folder.rmdir()
    return freed


def _delete_file(path: Path) -> int:
    """Of the hub's cache, where files are links, also what the link leads to unless another revision has it too."""
    target, num_bytes, is_link = path.resolve(), path.stat().st_size, path.is_symlink()
    path.unlink()
    if not is_link:
        return num_bytes
    snapshots = next(parent for parent in path.parents if parent.name == "snapshots")
    if any(link.is_symlink() and link.resolve() == target for link in snapshots.rglob("*")):
        return 0
    target.unlink()
    return num_bytes


def _read() -> dict[str, Record]:
    try:
        values = json.loads(_file().read_text())
        return {ref: _record(value) for ref, value in values.items()}
    except (OSError, ValueError, TypeError, AttributeError, KeyError):
        return {}  # none yet, or damaged: what lies in the folders is found again when it is asked for


def _record(value: dict[str, Any]) -> Record:
    return Record(**{**value, "path": Path(value["path"]), "folder": Path(value["folder"])})


@contextmanager
def _changing() -> Iterator[dict[str, Record]]:
    home().mkdir(parents=True, exist_ok=True)
    with (home() / "references.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        records = _read()
        yield records
        values = {ref: asdict(record) for ref, record in records.items()}
        with tempfile.NamedTemporaryFile("w", dir=home(), delete=False) as out:
            json.dump(values, out, default=str, indent=1)
        Path(out.name).replace(_file())
