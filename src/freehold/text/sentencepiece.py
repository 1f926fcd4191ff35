"""SentencePiece's tokenizer.model, read as what it is: a protocol buffer of pieces and two specifications.

Reference: google/sentencepiece `sentencepiece_model.proto`, and the wire format of protocol buffers.
"""

import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from freehold.errors import ModelFileError, UnsupportedError
from freehold.files import read_bytes
from freehold.text.vocabulary import (
    BYTE,
    CONTROL,
    NORMAL,
    UNKNOWN,
    USER_DEFINED,
    SplitEncoder,
    Vocabulary,
    sentencepiece_bpe,
)

MAX_BYTES = 64 << 20
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_PIECES, _TRAINER, _NORMALIZER = 1, 2, 3  # fields of the model
_UNIGRAM, _BPE = 1, 2  # model types
_NEVER = -1e9  # a score that any other way to write a text beats


def read_sentencepiece(path: Path, added: Mapping[int, tuple[str, bool]]) -> tuple[Vocabulary, SplitEncoder]:
    """`added`: id -> (text, whether it is special) of tokens beside the pieces.

    Raises ModelFileError for a damaged file, UnsupportedError for a kind that is not here.
    """
    try:
        return _read(path, read_bytes(path, MAX_BYTES), added)
    except (_Malformed, struct.error, UnicodeDecodeError) as error:
        raise ModelFileError(f"{path}: not a SentencePiece model: {error}") from None


class _Malformed(Exception):
    pass


def _read(path: Path, raw: bytes, added: Mapping[int, tuple[str, bool]]) -> tuple[Vocabulary, SplitEncoder]:
    tokens, scores, types = [], [], []
    trainer: dict[int, Any] = {}
    normalizer: dict[int, Any] = {}
    for number, value in _fields(raw):
        if number == _PIECES:
            piece = dict(_fields(_as_bytes(value)))
            tokens.append(_as_bytes(piece.get(1, b"")).decode())
            scores.append(struct.unpack("<f", _as_bytes(piece.get(2, b"\0\0\0\0")))[0])
            types.append(piece.get(3, NORMAL))
        elif number == _TRAINER:
            trainer = dict(_fields(_as_bytes(value)))
        elif number == _NORMALIZER:
            normalizer = dict(_fields(_as_bytes(value)))
    if not tokens or len(set(tokens)) < len(tokens):
        raise _Malformed("no pieces, or one that is given twice")
    for token, (text, special) in added.items():
        if token < len(tokens):  # transformers lets the configuration rename a piece
            tokens[token], types[token] = text, CONTROL if special else USER_DEFINED
        elif token == len(tokens):
            tokens.append(text)
            scores.append(0.0)
            types.append(CONTROL if special else USER_DEFINED)
        else:
            raise _Malformed(f"token {text!r:.80}: expected id {len(tokens)} or less, got {token}")
    vocabulary = Vocabulary(tokens, types, "spm", space_prefix=bool(normalizer.get(3, 1)))
    kind = trainer.get(3, _UNIGRAM)
    if kind == _BPE:
        model = sentencepiece_bpe(vocabulary, scores)
    elif kind == _UNIGRAM:
        model = _unigram(vocabulary, scores, bool(trainer.get(35, 0)))
    else:
        raise UnsupportedError(f"{path}: SentencePiece model of type {kind}: expected unigram or BPE")
    _normalize(model, normalizer, vocabulary.space_prefix)
    return vocabulary, SplitEncoder(vocabulary, model, normalizes=True)


def _unigram(vocabulary: Vocabulary, scores: list[float], byte_fallback: bool) -> Any:
    from tokenizers import Tokenizer, models

    unknown = next((i for i, kind in enumerate(vocabulary.types) if kind == UNKNOWN), None)
    pieces = []
    for text, kind, score in zip(vocabulary.tokens, vocabulary.types, scores, strict=True):
        # No text holds U+0000 followed by a token's text: control tokens keep their ids and are never found.
        text = f"\0{text}" if kind in (CONTROL, USER_DEFINED) else text
        pieces.append((text, _NEVER if kind == BYTE else score))  # <0x41> stands for a byte, not for its name
    return Tokenizer(models.Unigram(pieces, unk_id=unknown, byte_fallback=byte_fallback))


def _normalize(model: Any, specification: Mapping[int, Any], prefixed: bool) -> None:
    """Characters by the file's own map, spaces squeezed where it says so, ▁ for a space. `prefixed`: ▁ stands first."""
    from tokenizers import Regex, normalizers

    steps: list[Any] = []
    if charsmap := specification.get(2):
        steps.append(normalizers.Precompiled(_as_bytes(charsmap)))
    if specification.get(4, 1):
        first = [(r"\A▁ +", "▁"), (r"\A▁\z", "")] if prefixed else [(r"\A +", "")]
        squeezed = [(" {2,}", " "), (r" +\z", ""), *first]
        steps += [normalizers.Replace(Regex(pattern), content) for pattern, content in squeezed]
    model.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", "▁")])


def _as_bytes(value: Any) -> bytes:
    if not isinstance(value, bytes):
        raise _Malformed("a field has another type than expected")
    return value


def _fields(raw: bytes) -> Iterator[tuple[int, int | bytes]]:
    """(field number, value) of a message; values are integers, or bytes that their reader takes apart."""
    at = 0
    while at < len(raw):
        key, at = _varint(raw, at)
        kind = key & 7
        if kind == _VARINT:
            value, at = _varint(raw, at)
            yield key >> 3, value
            continue
        if kind == _BYTES:
            length, at = _varint(raw, at)
        elif kind in (_FIXED32, _FIXED64):
            length = 4 if kind == _FIXED32 else 8
        else:
            raise _Malformed(f"wire type {kind} at byte {at}")
        if length > len(raw) - at:
            raise _Malformed(f"{length} bytes are declared at byte {at}, {len(raw) - at} are left")
        yield key >> 3, raw[at : at + length]
        at += length


def _varint(raw: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 64, 7):
        if at >= len(raw):
            raise _Malformed("it ends within a number")
        byte = raw[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise _Malformed(f"a number of more than 64 bits at byte {at}")
