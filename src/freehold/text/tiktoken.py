"""Vocabularies of tiktoken's kind: lines of a token's bytes (base64) and its rank. Reference: openai/tiktoken.

Kimi publishes tiktoken.model, GLM-4-chat such a file under the name tokenizer.model, Qwen-1 qwen.tiktoken. The pattern
that cuts words stands in code beside them, which is not run: it is known by the file's family.
"""

import base64
import binascii
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from freehold.errors import ModelFileError
from freehold.files import read_bytes
from freehold.text.pretokenizers import PRE_TOKENIZERS
from freehold.text.vocabulary import (
    CHARACTER_OF,
    CONTROL,
    NORMAL,
    USER_DEFINED,
    SplitEncoder,
    Vocabulary,
    byte_level_model,
    merges_by_rank,
)

MAX_BYTES = 64 << 20
# File name -> name of its pre-tokenizer.
TIKTOKEN_FILES = {"tiktoken.model": "kimi-k2", "qwen.tiktoken": "qwen2"}
RESERVED = 256  # ids that Kimi keeps for special tokens behind the ranks
QWEN_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", *(f"<|extra_{i}|>" for i in range(205)))


def is_tiktoken(path: Path) -> bool:
    """Whether a tokenizer.model is text of ranks; SentencePiece's is a protocol buffer."""
    with path.open("rb") as file:
        first = file.read(4096).split(b"\n", 1)[0]
    try:
        return bool(_line(first))
    except ValueError:
        return False


def read_tiktoken(path: Path, added: Mapping[int, tuple[str, bool]]) -> tuple[Vocabulary, SplitEncoder]:
    """`added`: id -> (text, whether it is special) of the tokens beside the ranks. Raises ModelFileError."""
    ranks = read_ranks(path)
    family = TIKTOKEN_FILES.get(path.name, "chatglm-bpe")
    special = _special_tokens(family, len(ranks), added)
    tokens = sorted(ranks, key=lambda text: ranks[text])
    types = [NORMAL] * len(tokens)
    for number in sorted(special):
        text, is_special = special[number]
        if number != len(tokens):
            raise ModelFileError(f"{path}: token {text!r:.80}: expected id {len(tokens)}, got {number}")
        tokens.append(text)
        types.append(CONTROL if is_special else USER_DEFINED)
    if len(set(tokens)) < len(tokens):
        raise ModelFileError(f"{path}: a token is given twice")
    vocabulary = Vocabulary(tokens, types, "bpe")
    # A word that is a token stays whole, whatever its parts would merge to.
    pre_tokenizer = type(PRE_TOKENIZERS[family])(PRE_TOKENIZERS[family].patterns, whole_words=True)
    model: Any = byte_level_model(vocabulary.plain, merges_by_rank(ranks, ranks), pre_tokenizer)
    return vocabulary, SplitEncoder(vocabulary, model)


def _special_tokens(family: str, first: int, added: Mapping[int, tuple[str, bool]]) -> dict[int, tuple[str, bool]]:
    special = {number: token for number, token in added.items() if number >= first}
    if family == "kimi-k2":
        for number in range(first, first + RESERVED):
            special.setdefault(number, (f"<|reserved_token_{number}|>", True))
    elif family == "qwen2" and not special:
        special = {first + i: (text, True) for i, text in enumerate(QWEN_SPECIAL)}
    return special


def read_ranks(path: Path) -> dict[str, int]:
    """Tokens, in the printable characters of byte-level BPE, with their ranks 0, 1, 2…"""
    ranks: dict[str, int] = {}
    for number, line in enumerate(read_bytes(path, MAX_BYTES).splitlines(), 1):
        if not line.strip():
            continue
        try:
            data, rank = _line(line)
        except ValueError:
            raise ModelFileError(f"{path}: line {number}: expected a token in base64 and its rank") from None
        if rank != len(ranks):
            raise ModelFileError(f"{path}: line {number}: expected rank {len(ranks)}, got {rank}")
        ranks["".join(CHARACTER_OF[byte] for byte in data)] = rank
    if len(ranks) < 256:
        raise ModelFileError(f"{path}: expected 256 tokens of one byte and more, got {len(ranks)}")
    return ranks


def _line(line: bytes) -> tuple[bytes, int]:
    """Raises ValueError."""
    token, rank = line.split()
    if not rank.isdigit() or len(rank) > 9:
        raise ValueError
    try:
        return base64.b64decode(token, validate=True), int(rank)
    except binascii.Error:
        raise ValueError from None
