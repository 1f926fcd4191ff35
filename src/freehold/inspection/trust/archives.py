"""Archives, looked into without unpacking: what is inside by content, names that leave the folder, bombs.

Sources: APPNOTE.TXT 6.3.10 (zip); Fifield 2019, "A better zip bomb" (members that overlap).
"""

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

from freehold.inspection.trust.content import HEAD_BYTES, kind_of
from freehold.inspection.trust.pickles import Pickle, looks_like_pickle, read_pickles

MAX_MEMBERS = 10_000
MAX_DIRECTORY_BYTES = 64 << 20  # of a zip file
BOMB_RATIO, BOMB_BYTES = 100, 64 << 20  # both together: a file of zeros is no bomb while it is small
_TAIL_BYTES = 65_557  # a comment of 65,535 bytes and the record before it


@dataclass(frozen=True)
class Member:
    name: str
    kind: str
    pickle: Pickle | None = None


@dataclass(frozen=True)
class Archive:
    """`problems`: one sentence each, of danger; `damage`: why it cannot be read whole; `members`: those looked into."""

    members: tuple[Member, ...] = ()
    num_members: int = 0
    problems: tuple[str, ...] = ()
    damage: str = ""


def end_of_zip(path: Path) -> tuple[int, int] | None:
    """(entries, bytes of the directory) that a file's last record declares, whatever the file begins with."""
    with path.open("rb") as stream:
        size = stream.seek(0, io.SEEK_END)
        stream.seek(max(0, size - _TAIL_BYTES))
        tail = stream.read()
        at = tail.rfind(b"PK\x05\x06")
        if at < 0 or len(tail) - at < 22:
            return None
        entries, length = int.from_bytes(tail[at + 10 : at + 12], "little"), tail[at + 12 : at + 16]
        locator = tail.rfind(b"PK\x06\x06", 0, at)
        if locator >= 0 and at - locator >= 56:  # zip64
            entries = int.from_bytes(tail[locator + 32 : locator + 40], "little")
            length = tail[locator + 40 : locator + 48]
    declared = int.from_bytes(length, "little")
    return (entries, declared) if declared <= size else None


def look_into(path: Path, kind: str) -> Archive:
    """An archive of one of the kinds that Python can open; the others are an empty one."""
    try:
        if kind == "zip":
            return _zip(path)
        if kind in _OPENERS:
            return _compressed(path, kind)
        if kind == "tar":
            with path.open("rb") as stream:
                return _tar(stream)
    except (OSError, EOFError, ValueError, NotImplementedError, RuntimeError, zlib.error, lzma.LZMAError) as error:
        return Archive(damage=str(error) or type(error).__name__)
    except (zipfile.BadZipFile, tarfile.TarError) as error:
        return Archive(damage=str(error))
    return Archive()


def _zip(path: Path) -> Archive:
    end = end_of_zip(path)
    if end is None:
        return Archive(damage="it has no end of central directory")
    entries, directory_bytes = end
    if directory_bytes > MAX_DIRECTORY_BYTES:
        return Archive(num_members=entries, problems=(f"its directory alone takes {directory_bytes} bytes: a bomb",))
    with zipfile.ZipFile(path) as archive:
        infos = archive.infolist()
        problems = [*_zip_bomb(infos, path.stat().st_size), *_bad_names(info.filename for info in infos)]
        members = []
        for info in infos[:MAX_MEMBERS]:
            if not info.is_dir() and info.file_size and not info.flag_bits & 1:  # 1: encrypted
                members.append(_zip_member(archive, info))
        if any(info.flag_bits & 1 for info in infos):
            problems.append("it holds encrypted files, which nobody can check")
    return Archive(tuple(members), len(infos), tuple(problems))


def _zip_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Member:
    try:
        with archive.open(info) as stream:
            return _member(info.filename, info.file_size, stream)
    except (zipfile.BadZipFile, NotImplementedError, zlib.error, OSError, EOFError) as error:
        return Member(info.filename, f"unreadable ({error})")


def _zip_bomb(infos: list[zipfile.ZipInfo], num_bytes: int) -> Iterator[str]:
    packed, unpacked = sum(i.compress_size for i in infos), sum(i.file_size for i in infos)
    if packed > num_bytes:
        yield f"its members overlap: {packed} bytes of them in a file of {num_bytes}: a bomb"
    elif unpacked > BOMB_BYTES and unpacked > BOMB_RATIO * num_bytes:
        yield f"{num_bytes} bytes unpack to {unpacked}: a bomb"


def _member(name: str, num_bytes: int, stream: Any) -> Member:
    buffered = io.BufferedReader(stream, 16 * HEAD_BYTES)
    head = buffered.peek(HEAD_BYTES)[:HEAD_BYTES]
    kind = kind_of(head, num_bytes)
    if kind not in ("pickle", "text", "data"):
        return Member(name, kind)
    pickle = read_pickles(buffered)
    if looks_like_pickle(head, pickle):
        return Member(name, "pickle", pickle)
    return Member(name, "data" if kind == "pickle" else kind)


def _bad_names(names: Iterable[str]) -> Iterator[str]:
    for name in names:
        parts = name.replace("\\", "/").split("/")
        if ".." in parts or name.startswith(("/", "\\")) or name[1:2] == ":":
            yield f"a member's name leaves the folder: {name[:80]!r}"
            return


# Tar files and compressed streams.


def _tar(stream: Any) -> Archive:
    members, problems, count = [], [], 0
    try:
        with tarfile.open(fileobj=stream, mode="r|") as archive:
            for info in archive:
                count += 1
                problems += _bad_names([info.name, *([info.linkname] if info.issym() or info.islnk() else [])])
                if info.isdev():
                    problems.append(f"it holds a device: {info.name[:80]!r}")
                content = archive.extractfile(info) if info.isreg() and info.size else None
                if content:
                    members.append(_member(info.name, info.size, content))
                if count == MAX_MEMBERS:
                    break
    except tarfile.ReadError as error:
        if not count:
            raise
        return Archive(tuple(members), count, tuple(dict.fromkeys(problems)), str(error))
    return Archive(tuple(members), count, tuple(dict.fromkeys(problems)))


def _compressed(path: Path, kind: str) -> Archive:
    with path.open("rb") as packed, _OPENERS[kind](packed) as inner:
        counted = _Counted(inner)
        stream = io.BufferedReader(counted, 16 * HEAD_BYTES)
        head = stream.peek(HEAD_BYTES)[:HEAD_BYTES]
        if kind_of(head, max(len(head), 1)) == "tar":
            found = _tar(stream)
        else:
            found = Archive((_member("its content", len(head), stream),), 1)
        while counted.read(1 << 20):
            pass
        if counted.produced >= BOMB_BYTES and counted.produced > BOMB_RATIO * packed.tell():
            problem = f"{packed.tell()} bytes unpack to {counted.produced} and more: a bomb"
            return replace(found, problems=(*found.problems, problem), damage="")
    return found


class _Counted(io.RawIOBase):
    """The beginning of what a compressed stream unpacks to: enough to tell a bomb."""

    def __init__(self, inner: Any):
        self._inner = inner
        self.produced = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._inner.read(min(len(buffer), BOMB_BYTES - self.produced))
        self.produced += len(data)
        buffer[: len(data)] = data
        return len(data)


_OPENERS: dict[str, Callable[[BinaryIO], Any]] = {
    "gzip": lambda file: gzip.GzipFile(fileobj=file),
    "bzip2": bz2.BZ2File,
    "xz": lzma.LZMAFile,
}
