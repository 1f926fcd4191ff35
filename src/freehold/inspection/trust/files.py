"""Each file of a model by its content: what it is, what it can run, whether its structure is sound."""

import math
import mmap
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from freehold.errors import FreeholdError, UnsupportedError
from freehold.inspection.artefacts import Artefacts, File
from freehold.inspection.trust.archives import Archive, Member, end_of_zip, look_into
from freehold.inspection.trust.content import (
    ARCHIVES,
    HEAD_BYTES,
    broken_promise,
    is_executable,
    kind_of,
    looks_like_python,
)
from freehold.inspection.trust.finding import Finding, Severity, Topic, is_invisible, visible
from freehold.inspection.trust.gguf_check import unnamed_bytes
from freehold.inspection.trust.pickles import Pickle, looks_like_pickle, read_pickles
from freehold.inspection.trust.safetensors_check import check_safetensors
from freehold.inspection.trust.tensors import Weights
from freehold.weights.gguf import open_gguf
from freehold.weights.tensors import Tensor

MAX_SOURCE_BYTES = 1 << 20  # of a text that might be Python
MAX_WORDS = 6  # names in one sentence
_CONFIGS = ("config.json", "tokenizer_config.json", "generation_config.json", "preprocessor_config.json",
            "processor_config.json", "image_processor_config.json", "adapter_config.json")  # fmt: skip


class Examination:
    """`kinds` by file; `weights` of sound files, where they lie; `gguf`: metadata of each model in GGUF, by file."""

    def __init__(self, artefacts: Artefacts):
        self._artefacts = artefacts
        self.kinds: dict[str, str] = {}
        self.findings: list[Finding] = []
        self.weights: list[Weights] = []
        self.gguf: dict[str, Mapping[str, Any]] = {}
        self._opened: set[Path] = set()  # parts of split models that were read with their first

    def run(self) -> None:
        for file in self._artefacts.files:
            try:
                self._file(file)
            except OSError as error:
                self._add(Topic.FILES, Severity.CAUTION, file, f"cannot be read: {error.strerror or error}")
        self._auto_map()
        self._index()

    def _add(self, topic: Topic, severity: Severity, file: File | str, text: str, place: str = "", quote: str = ""):
        name = visible(file if isinstance(file, str) else file.name)
        self.findings.append(Finding(topic, severity, name, text, visible(place), visible(quote)))

    # One file.

    def _file(self, file: File) -> None:
        if any(map(is_invisible, file.name)):
            self._add(Topic.FILES, Severity.CAUTION, file, "has characters in its name that cannot be seen")
        if file.outside:
            self.kinds[file.name] = "link out of the folder"
            self._add(
                Topic.FILES, Severity.DANGER, file, "is a link that leaves the folder, or no plain file: not read"
            )
            return
        with file.path.open("rb") as stream:
            head = stream.read(HEAD_BYTES)
        kind = kind_of(head, file.num_bytes)
        pickle = None
        if kind in ("pickle", "text", "data"):
            pickle = self._read_pickle(file, head)
            if kind == "pickle" and pickle is None:
                kind = "data"
            elif pickle is not None:
                kind = "pickle"
        self.kinds[file.name] = kind
        if broken_promise(file.name, kind):
            ending = PurePosixPath(file.name).suffix
            worst = kind in ("pickle", "zip") or is_executable(kind)
            severity = Severity.DANGER if worst else Severity.CAUTION
            self._add(Topic.FILES, severity, file, f"is named {ending}, its content is {_kind(kind)}")
        self._content(file, kind, pickle)

    def _content(self, file: File, kind: str, pickle: Pickle | None) -> None:
        if kind == "git-lfs pointer":
            self._add(Topic.FILES, Severity.CAUTION, file, "is a pointer of git-lfs: the file itself was not fetched")
        elif is_executable(kind):
            severity = Severity.CAUTION if kind == "script" else Severity.DANGER
            self._add(Topic.CODE, severity, file, f"is {_kind(kind)}")
        elif kind == "hdf5":
            self._add(Topic.CODE, Severity.CAUTION, file, "is HDF5: Keras runs code that such files hold")
        elif kind == "numpy array":
            self._numpy(file)
        if pickle is not None:
            self._pickle(file, pickle)
        if kind in ARCHIVES:
            self._archive(file, kind)
        elif kind not in ("text", "empty") and end_of_zip(file.path) is not None:
            self._add(Topic.FILES, Severity.DANGER, file, f"is {_kind(kind)} and a zip archive at once")
        if kind == "safetensors":
            self._safetensors(file)
        elif kind == "gguf":
            self._gguf(file)
        elif kind in ("text", "script"):
            self._python(file)

    def _numpy(self, file: File) -> None:
        with file.path.open("rb") as stream:
            if b"|O" in stream.read(256):
                self._add(Topic.CODE, Severity.CAUTION, file, "is a numpy array of objects: it holds a pickle")

    # Code.

    def _read_pickle(self, file: File, head: bytes) -> Pickle | None:
        with file.path.open("rb") as stream:
            found = read_pickles(stream)
        return found if looks_like_pickle(head, found) else None

    def _pickle(self, file: File, pickle: Pickle, within: str = "") -> None:
        what = "is a pickle" if not within else "holds a pickle"
        if pickle.dangerous:
            text = f"{what} that calls {_list(pickle.dangerous)} when it is loaded"
            self._add(Topic.CODE, Severity.DANGER, file, text, within)
        elif pickle.unknown:
            text = f"{what} that calls {_list(pickle.unknown)} when it is loaded"
            self._add(Topic.CODE, Severity.CAUTION, file, text, within)
        else:
            whole = "" if pickle.is_whole else ", which cannot be read to its end"
            self._add(Topic.CODE, Severity.CAUTION, file, f"{what}{whole}: loading one can run code", within)

    def _archive(self, file: File, kind: str) -> None:
        found: Archive = look_into(file.path, kind)
        for problem in found.problems:
            self._add(Topic.FILES, Severity.DANGER, file, f"is {_kind(kind)}: {problem}")
        if found.damage:
            self._add(Topic.FILES, Severity.CAUTION, file, f"is {_kind(kind)} that is damaged: {visible(found.damage)}")
        if not any(member.pickle for member in found.members):
            self._add(Topic.FILES, Severity.NOTE, file, f"is {_kind(kind)} with {found.num_members} files in it")
        for member in found.members:
            self._member(file, member)

    def _member(self, file: File, member: Member) -> None:
        if member.pickle:
            self._pickle(file, member.pickle, member.name)
        elif is_executable(member.kind):
            self._add(Topic.CODE, Severity.DANGER, file, f"holds {_kind(member.kind)}", member.name)
        elif member.name.endswith(".py"):
            self._add(Topic.CODE, Severity.CAUTION, file, "holds Python code", member.name)
        elif member.kind in ARCHIVES:
            self._add(Topic.FILES, Severity.CAUTION, file, f"holds {_kind(member.kind)} in its turn", member.name)

    def _python(self, file: File) -> None:
        is_named = file.name.endswith(".py")
        if file.num_bytes > MAX_SOURCE_BYTES or (not is_named and file.name.endswith((".json", ".md", ".jsonl"))):
            return
        text = self._artefacts.text(file.name, MAX_SOURCE_BYTES)
        reaching = looks_like_python(text.content) if text else None
        if reaching is None and not is_named:
            return
        named = "" if is_named else ", whatever its name"
        if reaching:
            text = f"is Python code{named} that reaches for {_list(reaching)}"
            self._add(Topic.CODE, Severity.CAUTION, file, text)
        else:
            self._add(Topic.CODE, Severity.NOTE if is_named else Severity.CAUTION, file, f"is Python code{named}")

    def _auto_map(self) -> None:
        for name in _CONFIGS:
            config = self._artefacts.json(name)
            mapped = config.get("auto_map") if isinstance(config, dict) else None
            if not isinstance(mapped, dict):
                continue
            for kind, target in mapped.items():
                targets = [t for t in (target if isinstance(target, list) else [target]) if isinstance(t, str)]
                for target in targets:
                    where = target.split("--")[0] if "--" in target else ""
                    text = (
                        f"asks that code from {visible(where, 60)!r} be run"
                        if where
                        else "asks that its own code be run"
                    )
                    self._add(Topic.CODE, Severity.CAUTION, name, text, f"auto_map.{kind}", target)

    # Structure.

    def _safetensors(self, file: File) -> None:
        report = check_safetensors(file.path)
        for place, text in report.problems:
            self._add(Topic.STRUCTURE, Severity.DANGER, file, text, place)
        if not report.entries or report.problems:
            return
        with file.path.open("rb") as stream:
            view = memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))
        for entry in report.entries:
            data = view[entry.offset : entry.offset + entry.num_bytes]
            block = max(1, entry.num_bytes // max(1, math.prod(entry.shape)))
            self.weights.append(Weights(file.name, entry.name, entry.shape, entry.dtype, data, block))

    def _gguf(self, file: File) -> None:
        if file.path in self._opened:
            return
        try:
            checkpoint = open_gguf(file.path)
        except UnsupportedError as error:
            self._add(Topic.STRUCTURE, Severity.CAUTION, file, f"was not checked: {_reason(error, file)}")
            return
        except FreeholdError as error:
            self._add(Topic.STRUCTURE, Severity.DANGER, file, _reason(error, file))
            return
        self._opened.update(checkpoint.paths)
        self.gguf[file.name] = checkpoint.metadata
        names = {f.path: f for f in self._artefacts.files}
        tensors = {name: t for name, t in checkpoint.tensors.items() if isinstance(t, Tensor)}
        for path in checkpoint.paths:
            for place, text in unnamed_bytes(path, checkpoint.metadata, tensors):
                self._add(Topic.STRUCTURE, Severity.CAUTION, names.get(path, file), text, place)
        for tensor in tensors.values():
            where = names.get(tensor.place[0], file) if tensor.place else file
            block = _block_elements(tensor.format) * tensor.data.nbytes // max(1, math.prod(tensor.shape))
            self.weights.append(Weights(where.name, tensor.name, tensor.shape, tensor.format, tensor.data, block))

    def _index(self) -> None:
        """The list of shards says which file holds which tensor."""
        for file in self._artefacts.files:
            if not file.name.endswith(".safetensors.index.json"):
                continue
            index = self._artefacts.json(file.name)
            mapped = index.get("weight_map") if isinstance(index, dict) else None
            if not isinstance(mapped, dict):
                self._add(Topic.STRUCTURE, Severity.CAUTION, file, "is no list of shards")
                continue
            named = {name: shard for name, shard in mapped.items() if isinstance(shard, str)}
            for text, place in _index_problems(named, self.weights, set(self.kinds)):
                self._add(Topic.STRUCTURE, Severity.DANGER, file, text, place)


def _index_problems(mapped: dict[str, str], weights: list[Weights], files: set[str]) -> Iterator[tuple[str, str]]:
    shards = set(mapped.values())
    for shard in sorted(shards):
        if "/" in shard or "\\" in shard or shard.startswith("."):
            yield f"names a file out of the folder: {visible(shard, 60)!r}", "weight_map"
        elif shard not in files:
            yield f"names {visible(shard, 60)!r}, which is missing", "weight_map"
    held = {(w.name, w.file) for w in weights if w.file in shards}
    sound = {file for _, file in held}
    wrong = [name for name, shard in mapped.items() if shard in sound and (name, shard) not in held]
    if wrong:
        yield f"puts {len(wrong)} tensors into files that do not hold them", wrong[0]
    if extra := sorted(name for name, _ in held if name not in mapped):
        yield f"leaves out {len(extra)} tensors that the files hold", extra[0]


def _block_elements(form: str) -> int:
    if form in ("F32", "F16", "BF16"):
        return 1
    return 256 if form.endswith("_K") or form == "IQ4_XS" else 32


def _reason(error: FreeholdError, file: File) -> str:
    return visible(error.message.removeprefix(f"{file.path}: "), 300)


def _kind(kind: str) -> str:
    article = "an" if kind[0] in "aeiouAEIO" else "a"
    return kind if kind in ("text", "data", "media") else f"{article} {kind}"


def _list(names: list[str]) -> str:
    shown = ", ".join(visible(name, 60) for name in names[:MAX_WORDS])
    return shown + (f" and {len(names) - MAX_WORDS} more" if len(names) > MAX_WORDS else "")
