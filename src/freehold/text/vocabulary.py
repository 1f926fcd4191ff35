"""A vocabulary: what its tokens are, and how plain text becomes them; shared by the files that vocabularies come in."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)  # as SentencePiece numbers them

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


CHARACTER_OF = _byte_characters()
_BYTE_OF = {character: byte for byte, character in CHARACTER_OF.items()}


@dataclass(frozen=True)
class Vocabulary:
    """Token texts and types by id. `kind` is "bpe" (byte-level) or "spm" (SentencePiece-style, ▁ for a space).

    `prefix_ids` stand before a prompt, `chat_prefix_ids` before a conversation whose template has not written them.
    `suffix_ids` end a text that is to be embedded. `space_prefix`: text is encoded as if a space stood before it, which
    decoding takes away.
    """

    tokens: list[str]
    types: list[int]
    kind: str
    bos_id: int | None = None
    eos_ids: frozenset[int] = frozenset()
    prefix_ids: tuple[int, ...] = ()
    chat_prefix_ids: tuple[int, ...] = ()
    suffix_ids: tuple[int, ...] = ()
    space_prefix: bool = False

    @cached_property
    def _unusual(self) -> list[int]:
        return [token for token, kind in enumerate(self.types) if kind != NORMAL]

    def ids_of_types(self, *types: int) -> dict[str, int]:
        """Tokens of types other than NORMAL that have a text, by it."""
        return {self.tokens[i]: i for i in self._unusual if self.types[i] in types and self.tokens[i]}

    @cached_property
    def textless(self) -> frozenset[int]:
        """Tokens that stand for no text of a reply."""
        return frozenset(i for i in self._unusual if self.types[i] in (CONTROL, UNKNOWN, UNUSED))

    @cached_property
    def special(self) -> dict[str, int]:
        """Texts that never arise from merging: those of control tokens and of such as users have defined."""
        return self.ids_of_types(CONTROL, USER_DEFINED, *([UNKNOWN] if self.kind == "spm" else []))

    @cached_property
    def plain(self) -> dict[str, int]:
        """The other tokens by text: no plain text can become a control token."""
        plain = dict(zip(self.tokens, range(len(self.tokens)), strict=True))
        for text in self.special:
            del plain[text]
        return plain

    def end_ids(self) -> list[int]:
        # In gpt-oss's replies <|end|> only ends one of several messages.
        texts = [text for text in _END_TEXTS if not (text == "<|end|>" and "<|return|>" in self.special)]
        return [self.special[text] for text in texts if text in self.special]

    def piece(self, token: int) -> bytes:
        """The bytes that a token stands for; those of a special token are its text."""
        text = self.tokens[token]
        if self.types[token] in (CONTROL, USER_DEFINED, UNUSED, UNKNOWN):
            return text.encode()
        if self.kind == "bpe":
            return bytes(_BYTE_OF[c] for c in text) if all(c in _BYTE_OF for c in text) else text.encode()
        if self.types[token] == BYTE:
            return bytes([int(text[3:5], 16)])
        return text.replace("▁", " ").encode()


class Encoder(Protocol):
    """Text to token ids. `special`: texts of special tokens become their ids. `first`: no text stands before it."""

    def __call__(self, text: str, special: bool, first: bool) -> list[int]: ...


class SplitEncoder:
    """Cuts text at the texts of special tokens and gives what lies between to a `tokenizers` model.

    `normalizes`: the model itself writes ▁ for spaces, and no ▁ is put behind a token that users have defined.
    """

    def __init__(self, vocabulary: Vocabulary, model: Any, *, normalizes: bool = False):
        self._vocabulary, self.model, self._normalizes = vocabulary, model, normalizes
        user_defined = vocabulary.ids_of_types(USER_DEFINED)
        self._unprefixed = set(user_defined.values()) if normalizes else set[int]()
        self._split_all = splitter(vocabulary.special)
        self._split_user_defined = splitter(user_defined)

    def __call__(self, text: str, special: bool, first: bool) -> list[int]:
        ids: list[int] = []
        for piece in (self._split_all if special else self._split_user_defined)(text):
            if isinstance(piece, int):
                ids.append(piece)
            else:
                ids += self._encode_plain(piece, not (ids and ids[-1] in self._unprefixed))
        return ids

    def _encode_plain(self, text: str, prefixed: bool) -> list[int]:
        if self._vocabulary.kind == "spm":
            text = text if self._normalizes else text.replace(" ", "▁")
            text = "▁" + text if prefixed and self._vocabulary.space_prefix else text
        return self.model.encode(text, add_special_tokens=False).ids


def splitter(tokens: Mapping[str, int]) -> Any:
    """A function that cuts text at the given token texts, longest first: ids and the plain text between them."""
    if not tokens:
        return lambda text: [text] if text else []
    pattern = re.compile("(" + "|".join(map(re.escape, sorted(tokens, key=len, reverse=True))) + ")")

    def split(text: str) -> list[int | str]:
        pieces = pattern.split(text)
        return [tokens[piece] if i % 2 else piece for i, piece in enumerate(pieces) if piece]

    return split


def byte_level_model(vocabulary: dict[str, int], pairs: list[tuple[str, str]], pre_tokenizer: Any) -> Any:
    """Byte-level BPE as a `tokenizers` model; `pre_tokenizer` is a `text.pretokenizers.PreTokenizer`."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers

    model = Tokenizer(models.BPE(vocab=vocabulary, merges=pairs, ignore_merges=pre_tokenizer.whole_words))
    splits = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in pre_tokenizer.patterns]
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    model.pre_tokenizer = pre_tokenizers.Sequence([*splits, byte_level])
    return model


def sentencepiece_bpe(vocabulary: Vocabulary, scores: list[float]) -> Any:
    """SentencePiece's BPE with byte fallback as a `tokenizers` model."""
    from tokenizers import Tokenizer, models

    plain = dict(vocabulary.plain)
    order = {text: -scores[token] for text, token in plain.items() if vocabulary.types[token] != BYTE}
    merges = merges_by_rank(order, order)
    unknown = next((t for t, kind in zip(vocabulary.tokens, vocabulary.types, strict=True) if kind == UNKNOWN), None)
    if unknown is not None:
        plain[unknown] = vocabulary.special[unknown]
    return Tokenizer(models.BPE(vocab=plain, merges=merges, unk_token=unknown, fuse_unk=True, byte_fallback=True))


def merges_by_rank(vocabulary: Mapping[str, Any], rank: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Merges of a vocabulary that lists none: each token from each two tokens that make it, in order of its rank."""
    merges = []
    for text, position in rank.items():
        for cut in range(1, len(text)):
            left, right = text[:cut], text[cut:]
            if left in vocabulary and right in vocabulary:
                merges.append((position, rank[left], rank[right], left, right))
    merges.sort(key=lambda merge: merge[:3])
    return [(left, right) for *_, left, right in merges]
