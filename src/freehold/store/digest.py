"""sha256 of files, remembered by path, size and times in the user's cache folder.

The time of a file's last change of status is one of them: unlike that of its content, no program can set it back.
"""

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

from freehold.store.places import home

MAX_ENTRIES = 20_000
_SHA256 = re.compile(r"[0-9a-f]{64}")

Progress = Callable[[str, int, int], None]  # (file, bytes done, bytes in all), from several threads


def sha256_of(path: Path) -> str:
    """Computed anew, whatever is remembered."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def default_cache() -> Path:
    return home() / "sha256.json"


def sha256_of_files(
    files: Mapping[str, Path],
    *,
    cache: Path | None = None,
    progress: Progress | None = None,
    only_remembered: bool = False,
) -> dict[str, str]:
    """Digests by name; a file that cannot be read has none. `cache` defaults to the user's.

    `only_remembered` leaves out those that would have to be computed.
    """
    cache = cache or default_cache()
    known = _load(cache)
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        told = [
            (name, pool.submit(_digest, name, path, known, progress, only_remembered)) for name, path in files.items()
        ]
        results = {name: digest.result() for name, digest in told}
    fresh = {key: digest for key, digest, is_new in results.values() if key and digest and is_new}
    if fresh:
        _store(cache, _load(cache) | fresh)
    return {name: digest for name, (_, digest, _) in results.items() if digest}


def _digest(
    name: str, path: Path, known: dict[str, str], progress: Progress | None, only_remembered: bool
) -> tuple[str | None, str | None, bool]:
    """(key in the cache, sha256, whether it was computed now)."""
    try:
        with path.open("rb") as stream:
            key = _key(path, stream.fileno())
            if key in known or only_remembered:
                return key, known.get(key), False
            digest = _hash(stream, name, progress)
            return key if _key(path, stream.fileno()) == key else None, digest, True
    except OSError:
        return None, None, False


def _hash(stream: BinaryIO, name: str, progress: Progress | None) -> str:
    digest, done, num_bytes = hashlib.sha256(), 0, os.fstat(stream.fileno()).st_size
    while chunk := stream.read(8 << 20):
        digest.update(chunk)
        done += len(chunk)
        if progress:
            progress(name, done, num_bytes)
    return digest.hexdigest()


def _key(path: Path, descriptor: int) -> str:
    status = os.fstat(descriptor)
    return f"{path.resolve()}|{status.st_ino}|{status.st_size}|{status.st_mtime_ns}|{status.st_ctime_ns}"


def _load(cache: Path) -> dict[str, str]:
    """What is remembered; a cache that is damaged is as good as none."""
    try:
        value = json.loads(cache.read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(value, dict):
        return {}
    return {key: digest for key, digest in value.items() if isinstance(digest, str) and _SHA256.fullmatch(digest)}


def _store(cache: Path, entries: dict[str, str]) -> None:
    """Put the whole cache in place at once; where it cannot be written the digests are computed again next time."""
    newest = dict(list(entries.items())[-MAX_ENTRIES:])
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=cache.parent, prefix=cache.name, delete=False) as file:
            json.dump(newest, file)
        Path(file.name).replace(cache)
    except OSError:
        return
