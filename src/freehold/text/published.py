"""A vocabulary as a lab publishes it: tokenizer.json; SentencePiece's tokenizer.model; tiktoken's ranks.

What transformers does with these files is done here, without running a repository's code: BOS by the file's
post-processor, the ends of a reply by generation_config.json. Reference: transformers
`tokenization_utils_tokenizers.py`, `generation/configuration_utils.py`.
"""

import json
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from freehold.errors import ModelFileError, ModelNotFoundError, UnsupportedError
from freehold.files import read_bytes, read_json
from freehold.text.sentencepiece import read_sentencepiece
from freehold.text.tiktoken import TIKTOKEN_FILES, is_tiktoken, read_tiktoken
from freehold.text.vocabulary import BYTE, CONTROL, NORMAL, UNUSED, USER_DEFINED, Encoder, Vocabulary

MAX_TOKENIZER_BYTES = 256 << 20
MAX_TOKENS = 1 << 22


def read_published_vocabulary(folder: Path) -> tuple[Vocabulary, Encoder]:
    """The vocabulary of a folder. Raises ModelNotFoundError when it has none, ModelFileError, UnsupportedError."""
    names = SpecialTokens(folder)
    if (folder / "tokenizer.json").exists():
        vocabulary, encoder = _read_tokenizer_json(folder / "tokenizer.json", names)
    elif path := _first_of(folder, TIKTOKEN_FILES):
        vocabulary, encoder = read_tiktoken(path, names.added)
    elif path := _first_of(folder, ("tokenizer.model",)):
        read = read_tiktoken if is_tiktoken(path) else read_sentencepiece
        vocabulary, encoder = read(path, names.added)
    else:
        raise ModelNotFoundError(
            f"{folder}: no tokenizer", f"expected tokenizer.json, tokenizer.model or {', '.join(TIKTOKEN_FILES)}"
        )
    bos_id = _id_of(vocabulary, names.text("bos_token"))
    prefix = vocabulary.prefix_ids
    if names.add_bos and bos_id is not None and not (folder / "tokenizer.json").exists():
        prefix = (bos_id,)
    ends = _ending_ids(folder, vocabulary, names)
    return replace(vocabulary, bos_id=bos_id, eos_ids=ends, prefix_ids=prefix), encoder


def _first_of(folder: Path, names: Iterable[str]) -> Path | None:
    return next((folder / name for name in names if (folder / name).exists()), None)


def _id_of(vocabulary: Vocabulary, text: str | None) -> int | None:
    if not text:
        return None
    return vocabulary.special.get(text, vocabulary.plain.get(text))


class SpecialTokens:
    """What tokenizer_config.json and the older files beside it say of special tokens."""

    def __init__(self, folder: Path):
        self.config = optional_json(folder / "tokenizer_config.json")
        self._map = optional_json(folder / "special_tokens_map.json")

    def text(self, name: str) -> str | None:
        """The text of bos_token, eos_token and so on; None where there is none."""
        for source in (self.config, self._map):
            if text := token_content(source.get(name)):
                return text
        return None

    @property
    def named(self) -> dict[str, str]:
        """Every one that has a name, as chat templates see them."""
        names = {name for source in (self._map, self.config) for name in source if name.endswith("_token")}
        texts = {name: self.text(name) for name in sorted(names)}
        return {name: text for name, text in texts.items() if text}

    @property
    def add_bos(self) -> bool:
        """What tokenizer_config.json says; a tokenizer.json has its own say instead."""
        return self.config.get("add_bos_token") is True

    @property
    def added(self) -> dict[int, tuple[str, bool]]:
        """Tokens beside the vocabulary: id -> (text, whether it is special)."""
        decoder = self.config.get("added_tokens_decoder")
        if not isinstance(decoder, Mapping):
            return {}
        added = {}
        for number, token in decoder.items():
            text = token_content(token)
            if not str(number).isdecimal() or int(number) >= MAX_TOKENS or not text:
                raise ModelFileError(f"tokenizer_config.json: added_tokens_decoder: {number!r:.40}: {token!r:.80}")
            added[int(number)] = (text, bool(isinstance(token, Mapping) and token.get("special")))
        return dict(sorted(added.items()))


def token_content(token: Any) -> str | None:
    """The text of a token, given as a text or as an object."""
    content = token.get("content") if isinstance(token, Mapping) else token
    return content if isinstance(content, str) else None


def optional_json(path: Path) -> dict[str, Any]:
    """A JSON object; empty when there is no such file."""
    return read_json(path) if path.exists() else {}


def _ending_ids(folder: Path, vocabulary: Vocabulary, names: SpecialTokens) -> frozenset[int]:
    """Tokens that end a reply: those of generation_config.json and the tokenizer's EOS; without the former, those of
    config.json and what ends a turn in any family's vocabulary."""
    ends = _ids(folder / "generation_config.json", vocabulary)
    eos = _id_of(vocabulary, names.text("eos_token"))
    if not ends:
        ends = [*_ids(folder / "config.json", vocabulary), *vocabulary.end_ids()]
    return frozenset([*ends, *([eos] if eos is not None else [])])


def _ids(path: Path, vocabulary: Vocabulary) -> list[int]:
    value = optional_json(path).get("eos_token_id")
    ids = [] if value is None else value if isinstance(value, list) else [value]
    for token in ids:
        if type(token) is not int or not 0 <= token < 1 << 31:
            raise ModelFileError(f"{path}: eos_token_id: expected token ids, got {value!r:.80}")
    return [token for token in ids if token < len(vocabulary.tokens)]


# tokenizer.json -------------------------------------------------------------------------------------------------------


def _read_tokenizer_json(path: Path, names: SpecialTokens) -> tuple[Vocabulary, Encoder]:
    from tokenizers import Tokenizer

    raw = read_bytes(path, MAX_TOKENIZER_BYTES)
    backend = guarded(path, lambda: Tokenizer.from_buffer(raw))
    backend.no_truncation()
    backend.no_padding()
    _add_missing(path, backend, names)
    vocabulary = replace(_vocabulary_of(path, backend), prefix_ids=_prefix_ids(backend))
    return vocabulary, _BackendEncoder(path, backend, vocabulary)


def guarded(path: Path, call: Callable[[], Any]) -> Any:
    """The call's result; what the library raises, its panics included, becomes an error of the file."""
    try:
        return call()
    except Exception as error:
        raise ModelFileError(f"{path}: {error}") from None
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise ModelFileError(f"{path}: {error}") from None


def _add_missing(path: Path, backend: Any, names: SpecialTokens) -> None:
    """Tokens that only tokenizer_config.json has, as transformers adds them."""
    from tokenizers import AddedToken

    for number, (text, special) in names.added.items():
        if backend.token_to_id(text) is None:
            backend.add_tokens([AddedToken(text, special=special, normalized=not special)])
            if backend.token_to_id(text) != number:
                raise ModelFileError(f"{path}: token {text!r} of tokenizer_config.json: expected id {number}")


def _vocabulary_of(path: Path, backend: Any) -> Vocabulary:
    ids = backend.get_vocab(with_added_tokens=True)
    size = 1 + max(ids.values(), default=-1)
    if not 0 < size <= MAX_TOKENS:
        raise ModelFileError(f"{path}: expected up to {MAX_TOKENS} tokens, got {size}")
    tokens, types = [""] * size, [UNUSED] * size
    for text, token in ids.items():
        tokens[token], types[token] = text, NORMAL
    for token, added in backend.get_added_tokens_decoder().items():
        types[token] = CONTROL if added.special else USER_DEFINED
    decoder = _state(backend.decoder)
    steps = decoder.get("decoders", [decoder])
    kinds = {step.get("type") for step in steps}
    if "ByteLevel" in kinds:
        return Vocabulary(tokens, types, "bpe")
    if not kinds & {"Metaspace", "ByteFallback"}:
        raise UnsupportedError(f"{path}: decoder {sorted(map(str, kinds))}: expected a byte-level or SentencePiece one")
    if "ByteFallback" in kinds:
        for byte in range(256):
            token = ids.get(f"<0x{byte:02X}>")
            if token is not None:
                types[token] = BYTE
    strips = any(step.get("type") == "Strip" and step.get("start") for step in steps) or any(
        step.get("type") == "Metaspace" and step.get("prepend_scheme") != "never" for step in steps
    )
    return Vocabulary(tokens, types, "spm", space_prefix=strips)


def _prefix_ids(backend: Any) -> tuple[int, ...]:
    """What the post-processor puts before a text. (What it would put behind, a prompt must not have.)"""
    plain = backend.encode("a", add_special_tokens=False).ids
    whole = backend.encode("a", add_special_tokens=True).ids
    start = next((i for i in range(len(whole)) if whole[i : i + len(plain)] == plain), 0)
    return tuple(whole[:start])


class _BackendEncoder:
    """Encodes by the library itself, which knows the rules of added tokens (spaces that they swallow, whole words).

    Plain text can still become a special token where merging yields its very text: that text is then encoded by a copy
    of the model whose special tokens have other texts.
    """

    def __init__(self, path: Path, backend: Any, vocabulary: Vocabulary):
        self._path, self._lock = path, threading.Lock()
        self._backends = {True: backend, False: guarded(path, lambda: _without_first_prefix(backend))}
        unknown = _unknown_text(backend)
        control = vocabulary.ids_of_types(CONTROL)
        self._control = {text: token for text, token in control.items() if text != unknown}
        self._hardened: dict[bool, Any] = {}

    def __call__(self, text: str, special: bool, first: bool) -> list[int]:
        with self._lock:  # the switch belongs to the backend, not to the call
            ids = self._encode(self._backends[first], text, special)
            if special or set(self._control.values()).isdisjoint(ids):
                return ids
            if first not in self._hardened:
                self._hardened[first] = guarded(self._path, lambda: harden(self._backends[first], self._control))
            return self._encode(self._hardened[first], text, False)

    @staticmethod
    def _encode(backend: Any, text: str, special: bool) -> list[int]:
        backend.encode_special_tokens = not special
        return backend.encode(text, add_special_tokens=False).ids


def _state(part: Any) -> dict[str, Any]:
    """What one part of a backend is made of."""
    return json.loads(part.__getstate__()) if part else {}


def _unknown_text(backend: Any) -> str | None:
    """The text of the token that stands for what the vocabulary lacks."""
    model = backend.model
    unknown = getattr(model, "unk_token", None)
    number = getattr(model, "unk_id", None)
    return unknown if number is None else backend.id_to_token(number)


def _without_first_prefix(backend: Any) -> Any:
    """The backend for text that does not stand first: the same, but where a space is put before the first text only."""
    if not any(_puts_space_first(step) for step in _steps(_state(backend.pre_tokenizer))):
        return backend
    from tokenizers import Tokenizer

    whole = json.loads(backend.to_str())
    for step in _steps(whole["pre_tokenizer"]):
        if _puts_space_first(step):
            step["prepend_scheme"] = "never"
    return Tokenizer.from_str(json.dumps(whole))


def _steps(pre_tokenizer: dict[str, Any]) -> list[dict[str, Any]]:
    return pre_tokenizer.get("pretokenizers", [pre_tokenizer])


def _puts_space_first(step: Mapping[str, Any]) -> bool:
    return step.get("type") == "Metaspace" and step.get("prepend_scheme") == "first"


def harden(backend: Any, control: Mapping[str, int]) -> Any:
    """The backend with the texts of the control tokens out of reach: no text holds U+0000 followed by one of them."""
    from tokenizers import Tokenizer

    whole = json.loads(backend.to_str())
    whole["added_tokens"] = [token for token in whole["added_tokens"] if token["content"] not in control]
    whole["post_processor"] = None
    model, kept = whole["model"], {token["content"]: token["id"] for token in whole["added_tokens"]}
    if isinstance(model["vocab"], list):
        names = {i: text for text, i in kept.items()}
        size = max([len(model["vocab"]) - 1, *names]) + 1
        vocabulary = model["vocab"] + [[names.get(i, f"\0{i}"), -1e9] for i in range(len(model["vocab"]), size)]
        model["vocab"] = [[f"\0{text}" if text in control else text, score] for text, score in vocabulary]
    else:
        vocabulary = {f"\0{text}" if text in control else text: token for text, token in model["vocab"].items()}
        model["vocab"] = vocabulary | kept
        pairs = [pair.split(" ", 1) if isinstance(pair, str) else pair for pair in model.get("merges", [])]
        model["merges"] = [pair for pair in pairs if not control.keys() & {*pair, "".join(pair)}]
    return Tokenizer.from_str(json.dumps(whole))
