"""Text to token ids and back, from the vocabulary that a GGUF file carries."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from freehold.errors import ModelFileError, RequestError, UnsupportedError
from freehold.text.pretokenizers import PRE_TOKENIZERS

UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 2, 3, 4, 5, 6  # tokenizer.ggml.token_type

# Texts that end a turn or a reply in the families' vocabularies, whatever a file names as its one EOS.
_END_TEXTS = (
    "</s>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<end_of_turn>",
    "<EOT>",
    "<eos>",
    "[EOS]",
    "[EOT]",
    "<|eot|>",
    "<|eom|>",
    "<｜end▁of▁sentence｜>",
)


def _byte_characters() -> dict[int, str]:
    """GPT-2's printable character for each byte (Radford et al. 2019, encoder.py)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}


_BYTE_OF = {character: byte for byte, character in _byte_characters().items()}


class Tokenizer:
    """One model's vocabulary. `kind` is "bpe" (byte-level) or "spm" (SentencePiece-style, with byte fallback)."""

    def __init__(self, metadata: Mapping[str, Any]):
        self._metadata = metadata
        self._tokens: list[str] = self._get("tokens")
        self._types: list[int] = metadata.get("tokenizer.ggml.token_type") or [1] * len(self._tokens)
        if len(self._types) != len(self._tokens):
            raise ModelFileError(
                f"tokenizer.ggml.token_type: expected {len(self._tokens)} entries, got {len(self._types)}"
            )
        self.kind = {"gpt2": "bpe", "llama": "spm"}.get(self._get("model"), "")
        if not self.kind:
            raise UnsupportedError(f"tokenizer model {metadata['tokenizer.ggml.model']!r}: not supported")
        self._space_prefix = self.kind == "spm" and metadata.get("tokenizer.ggml.add_space_prefix", True)
        self._special = self._ids_of_types(CONTROL, USER_DEFINED, *([UNKNOWN] if self.kind == "spm" else []))
        self._user_defined = {t: i for t, i in self._special.items() if self._types[i] == USER_DEFINED}
        self._split_all = _splitter(self._special)
        self._split_user_defined = _splitter(self._user_defined)
        self.bos_id: int | None = self._token_id("bos_token_id")
        self.eos_ids = self._find_eos_ids()
        add_bos = self.kind == "spm"
        if self.kind == "bpe":
            pre_tokenizer = self._pre_tokenizer()
            add_bos = pre_tokenizer.add_bos
            self._bpe = self._byte_level_bpe(pre_tokenizer)
        else:
            self._bpe = self._sentencepiece_bpe()
        self.add_eos = bool(metadata.get("tokenizer.ggml.add_eos_token"))  # models for embeddings are trained so
        self.eos_id: int | None = self._token_id("eos_token_id")
        self.add_bos: bool = metadata.get("tokenizer.ggml.add_bos_token", add_bos) and self.bos_id is not None

    @classmethod
    def from_gguf(cls, metadata: Mapping[str, Any]) -> "Tokenizer":
        """Raises UnsupportedError for a kind of tokenizer that is not here, ModelFileError for a damaged one."""
        return cls(metadata)

    # What the file says.

    def _get(self, key: str) -> Any:
        value = self._metadata.get(f"tokenizer.ggml.{key}")
        if value is None:
            raise ModelFileError(f"tokenizer.ggml.{key}: missing from the file's metadata")
        return value

    def _token_id(self, key: str) -> int | None:
        token = self._metadata.get(f"tokenizer.ggml.{key}")
        if token is not None and not (isinstance(token, int) and 0 <= token < len(self._tokens)):
            raise ModelFileError(f"tokenizer.ggml.{key}: expected an id below {len(self._tokens)}, got {token!r}")
        return token

    def _ids_of_types(self, *types: int) -> dict[str, int]:
        return {t: i for i, (t, kind) in enumerate(zip(self._tokens, self._types, strict=True)) if kind in types and t}

    def _find_eos_ids(self) -> frozenset[int]:
        named = (self._token_id(f"{name}_token_id") for name in ("eos", "eot", "eom"))
        # In gpt-oss's replies <|end|> only ends one of several messages.
        texts = [text for text in _END_TEXTS if not (text == "<|end|>" and "<|return|>" in self._special)]
        ends = (self._special[text] for text in texts if text in self._special)
        return frozenset([*(token for token in named if token is not None), *ends])

    def _pre_tokenizer(self) -> Any:
        name = self._get("pre")
        if not isinstance(name, str) or name not in PRE_TOKENIZERS:
            raise UnsupportedError(
                f"tokenizer.ggml.pre {name!r}: unknown pre-tokenizer", "guessing one would change the tokens silently"
            )
        return PRE_TOKENIZERS[name]

    # The two kinds, as `tokenizers` models. Control tokens are left out: no plain text can become one.

    def _plain_vocabulary(self) -> dict[str, int]:
        vocabulary = dict(zip(self._tokens, range(len(self._tokens)), strict=True))
        for text in self._special:
            del vocabulary[text]
        return vocabulary

    def _byte_level_bpe(self, pre_tokenizer: Any) -> Any:
        from tokenizers import Regex, models, pre_tokenizers
        from tokenizers import Tokenizer as Bpe

        vocabulary = self._plain_vocabulary()
        merges = self._metadata.get("tokenizer.ggml.merges")
        pairs = [tuple(m.split(" ", 1)) for m in merges] if merges else _merges_by_rank(vocabulary, vocabulary)
        try:
            bpe = Bpe(models.BPE(vocab=vocabulary, merges=pairs, ignore_merges=pre_tokenizer.whole_words))
        except Exception as error:  # tokenizers raises plain Exception
            raise ModelFileError(f"tokenizer.ggml.merges: {error}") from None
        splits = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in pre_tokenizer.patterns]
        byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        bpe.pre_tokenizer = pre_tokenizers.Sequence([*splits, byte_level])
        return bpe

    def _sentencepiece_bpe(self) -> Any:
        from tokenizers import Tokenizer as Bpe
        from tokenizers import models

        scores = self._get("scores")
        vocabulary = self._plain_vocabulary()
        order = {text: -scores[token] for text, token in vocabulary.items() if self._types[token] != BYTE}
        merges = _merges_by_rank(order, order)
        unknown = next((t for t, kind in zip(self._tokens, self._types, strict=True) if kind == UNKNOWN), None)
        if unknown is not None:
            vocabulary[unknown] = self._special[unknown]
        return Bpe(models.BPE(vocab=vocabulary, merges=merges, unk_token=unknown, fuse_unk=True, byte_fallback=True))

    # The public face.

    @property
    def vocab_size(self) -> int:
        return len(self._tokens)

    @property
    def special_tokens(self) -> Mapping[str, int]:
        """Texts of the special tokens, with their ids."""
        return self._special

    def id_of(self, text: str) -> int | None:
        """The id of a special token by its text."""
        return self._special.get(text)

    def is_special(self, token: int) -> bool:
        return self._types[token] in (CONTROL, UNKNOWN, UNUSED)

    def token_text(self, token: int | None) -> str:
        """The token's text as the vocabulary writes it; empty for no token."""
        return "" if token is None else self._tokens[token]

    def encode(self, text: str, *, special: bool = False) -> list[int]:
        """Token ids of `text`, without BOS.

        With `special`, the texts of special tokens become their ids; without it they are plain text like any other.
        Raises RequestError for text that is not valid Unicode.
        """
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise RequestError(f"text: not valid Unicode at character {error.start}") from None
        ids: list[int] = []
        after_special = True
        for piece in (self._split_all if special else self._split_user_defined)(text):
            if isinstance(piece, int):
                ids.append(piece)
            else:
                ids += self._encode_plain(piece, after_special)
            after_special = isinstance(piece, int)
        return ids

    def split_control(self, text: str) -> Iterable[int | str]:
        """`text` cut at the texts of special tokens: their ids, and the plain text between them."""
        return self._split_all(text)

    def _encode_plain(self, text: str, after_special: bool) -> list[int]:
        if self.kind == "spm":
            prefix = "▁" if self._space_prefix and after_special else ""
            text = prefix + text.replace(" ", "▁")
        return self._bpe.encode(text, add_special_tokens=False).ids

    def piece(self, token: int) -> bytes:
        """The bytes that a token stands for; those of a special token are its text."""
        text = self._tokens[token]
        if self._types[token] in (CONTROL, USER_DEFINED, UNUSED, UNKNOWN):
            return text.encode()
        if self.kind == "bpe":
            return bytes(_BYTE_OF[c] for c in text) if all(c in _BYTE_OF for c in text) else text.encode()
        if self._types[token] == BYTE:
            return bytes([int(text[3:5], 16)])
        return text.replace("▁", " ").encode()

    def decode(self, ids: Sequence[int], *, skip_special: bool = True) -> str:
        """Text of token ids; bytes that are not valid UTF-8 become U+FFFD."""
        data = b"".join(self.piece(i) for i in ids if not (skip_special and self.is_special(i)))
        if self._space_prefix and data.startswith(b" "):
            data = data[1:]
        return data.decode(errors="replace")

    @property
    def strips_first_space(self) -> bool:
        return bool(self._space_prefix)


def _splitter(tokens: Mapping[str, int]) -> Any:
    """A function that cuts text at the given token texts, longest first: ids and the plain text between them."""
    if not tokens:
        return lambda text: [text] if text else []
    pattern = re.compile("(" + "|".join(map(re.escape, sorted(tokens, key=len, reverse=True))) + ")")

    def split(text: str) -> list[int | str]:
        pieces = pattern.split(text)
        return [tokens[piece] if i % 2 else piece for i, piece in enumerate(pieces) if piece]

    return split


def _merges_by_rank(vocabulary: Mapping[str, Any], rank: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Merges of a vocabulary that lists none: each token from each two tokens that make it, in order of its rank."""
    merges = []
    for text, position in rank.items():
        for cut in range(1, len(text)):
            left, right = text[:cut], text[cut:]
            if left in vocabulary and right in vocabulary:
                merges.append((position, rank[left], rank[right], left, right))
    merges.sort(key=lambda merge: merge[:3])
    return [(left, right) for *_, left, right in merges]
