"""Which of a repository's files a model needs: weights that are data, and texts beside them; no code and no pickles."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from freehold.errors import ModelNotFoundError, UnsupportedError

PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt", ".pickle")
TEXTS = re.compile(
    r"(config|generation_config|tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab|chat_template"
    r"|preprocessor_config|model\.safetensors\.index)\.json|merges\.txt|tokenizer\.model|.*\.tiktoken|tiktoken\.model"
    r"|chat_template\.jinja|(readme|licen[cs]e|notice|use_policy|copying)[^/]*",
    re.IGNORECASE,
)
_SPLIT = re.compile(r"-\d{5}-of-\d{5}(?=\.gguf$)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """`name` is its path in the repository; `sha256` where the repository says it."""

    name: str
    num_bytes: int
    sha256: str | None = None


def choose(files: Sequence[RemoteFile], wanted: str | None, ref: str) -> list[RemoteFile]:
    """The files of `ref`: all of its safetensors, or the GGUF file (or quantization) that is `wanted`, and their texts.

    Raises ModelNotFoundError where there is none or several to choose from, UnsupportedError for pickles.
    """
    for file in files:
        check_name(file.name, ref)
    if wanted and wanted.lower().endswith(PICKLES):
        raise _refused(wanted, ref)
    weights = _gguf(files, wanted, ref) if wanted else _safetensors(files) or _gguf(files, None, ref)
    texts = [f for f in files if TEXTS.fullmatch(f.name) and f not in weights]
    return [*weights, *texts]


def check_name(name: str, ref: str) -> None:
    """Raises UnsupportedError for a name that would leave the folder that it is put into."""
    path = PurePosixPath(name)
    if not name or path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name:
        raise UnsupportedError(f"{ref}: the repository lists a file {name!r}, which leaves its folder")


def _safetensors(files: Iterable[RemoteFile]) -> list[RemoteFile]:
    """Those at the top; a repository may hold the same weights once more, in one piece or another layout."""
    top = [f for f in files if f.name.endswith(".safetensors") and "/" not in f.name]
    return [f for f in top if f.name.startswith("model")] or top


def _gguf(files: Sequence[RemoteFile], wanted: str | None, ref: str) -> list[RemoteFile]:
    models: dict[str, list[RemoteFile]] = {}  # the files of each model, by its name
    for file in files:
        if file.name.lower().endswith(".gguf") and not PurePosixPath(file.name).name.lower().startswith("mmproj"):
            models.setdefault(_SPLIT.sub("", file.name), []).append(file)
    if wanted is None:
        found = list(models)
    else:
        label = re.compile(rf"(^|[-._/]){re.escape(wanted.removesuffix('.gguf'))}(?=\.gguf$|/)", re.IGNORECASE)
        found = [name for name in models if name == _SPLIT.sub("", wanted)] or [n for n in models if label.search(n)]
    if len(found) == 1:
        return models[found[0]]
    if not models:
        if pickle := next((file.name for file in files if file.name.lower().endswith(PICKLES)), None):
            raise _refused(pickle, ref)
        raise ModelNotFoundError(f"{ref}: the repository has neither safetensors nor GGUF files")
    what = "several models" if wanted is None or found else f"no file or quantization {wanted!r}"
    choices = ", ".join(sorted(found or models)[:12])
    raise ModelNotFoundError(f"{ref}: {what} in the repository", f"choose one by {_base(ref)}:NAME of {choices}")


def _base(ref: str) -> str:
    source, repository, *_ = ref.split(":")
    return f"{source}:{repository}"


def _refused(name: str, ref: str) -> UnsupportedError:
    return UnsupportedError(
        f"{ref}: {name} is a pickle, which can run code when it is read; only safetensors and GGUF are",
        "many repositories have a converted copy: a name with GGUF, or revision refs/pr/1 (hf:org/name@refs/pr/1)",
    )
