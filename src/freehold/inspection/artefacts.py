"""What there is to examine: the files of a model's folder, or one file; read without trust and with caps.

A link that leaves the folder is listed and never followed; a text is read up to a cap and says when it is longer.
"""

import json
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from freehold.errors import FreeholdError, ModelNotFoundError
from freehold.weights.gguf import open_gguf

MAX_TEXT_BYTES = 4 << 20
MAX_JSON_BYTES = 64 << 20  # a tokenizer.json of a large vocabulary is 20 MB
MAX_FILES = 10_000


@dataclass(frozen=True, slots=True)
class File:
    """`name` is relative to the folder, with /; `path` where it lies; `outside`: a link that leaves the folder."""

    name: str
    path: Path
    num_bytes: int
    outside: bool = False


@dataclass(frozen=True, slots=True)
class Text:
    content: str
    is_cut: bool  # the file is longer than what is read of it


class Artefacts:
    """A model's folder, or a single file of weights. Raises ModelNotFoundError when there is neither."""

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(path)
        if not self.path.exists():
            raise ModelNotFoundError(f"{self.path}: no such file or folder")
        self.folder = self.path if self.path.is_dir() else None
        # A link that somebody names is what they mean; one that lies in a folder may be a stranger's.
        self.files = (
            tuple(_walk(self.folder))
            if self.folder
            else (File(self.path.name, self.path.resolve(), self.path.stat().st_size, outside=not self.path.is_file()),)
        )
        self._json: dict[str, Any] = {}
        self._by_name = {file.name: file for file in self.files}

    @property
    def name(self) -> str:
        path = self.path.resolve()
        if path.parent.name == "snapshots":  # of the hub's cache, whose folders are named by commits
            return path.parent.parent.name.removeprefix("models--").replace("--", "/")
        return path.name

    def file(self, name: str) -> File | None:
        return self._by_name.get(name)

    def text(self, name: str, max_bytes: int = MAX_TEXT_BYTES) -> Text | None:
        """A file's beginning as text; None when there is no such file inside the folder, or it cannot be read."""
        file = self._by_name.get(name)
        if file is None or file.outside:
            return None
        try:
            with file.path.open("rb") as stream:
                content = stream.read(max_bytes + 1)
        except OSError:
            return None
        return Text(content[:max_bytes].decode("utf-8", "replace"), len(content) > max_bytes)

    def json(self, name: str) -> Any | None:
        """A JSON file's value, read once; None when there is none, it is too long or is not JSON."""
        if name not in self._json:
            self._json[name] = self._read_json(name)
        return self._json[name]

    def _read_json(self, name: str) -> Any | None:
        text = self.text(name, MAX_JSON_BYTES)
        if text is None or text.is_cut:
            return None
        try:
            return json.loads(text.content)
        except (ValueError, RecursionError):
            return None

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """config.json; empty when there is none."""
        config = self.json("config.json")
        return config if isinstance(config, dict) else {}

    @cached_property
    def gguf(self) -> Mapping[str, Any]:
        """Metadata of the first GGUF file that can be read; empty when there is none."""
        for file in self.gguf_files:
            try:
                return open_gguf(file.path).metadata
            except FreeholdError:
                continue  # what is wrong with it is for the examination of trust to say
        return {}

    @property
    def gguf_files(self) -> list[File]:
        return [f for f in self.files if f.name.lower().endswith(".gguf") and not f.outside]


def _walk(folder: Path) -> Iterator[File]:
    count = 0
    for parent, folders, names in os.walk(folder):
        # The inner works of git and of download caches are not the model's.
        folders[:] = sorted(name for name in folders if name not in (".git", ".cache"))
        for name in sorted(names):
            count += 1
            if count > MAX_FILES:
                raise ModelNotFoundError(f"{folder}: more than {MAX_FILES} files; expected a model's folder")
            yield _file(Path(parent) / name, folder)


def _file(path: Path, folder: Path) -> File:
    name = path.relative_to(folder).as_posix()
    outside = path.is_symlink() and not _is_inside(path, folder)
    try:
        status = path.lstat() if outside else path.stat()
    except OSError:
        return File(name, path, 0, outside=True)  # a link to nowhere
    return File(name, path, status.st_size, outside or not stat.S_ISREG(status.st_mode))


def _is_inside(path: Path, folder: Path) -> bool:
    """Whether a link stays in the folder, or in the blobs of the hub's cache that the folder is a snapshot of."""
    target, root = path.resolve(), folder.resolve()
    blobs = root.parent.parent / "blobs"
    return target.is_relative_to(root) or (root.parent.name == "snapshots" and target.is_relative_to(blobs))
