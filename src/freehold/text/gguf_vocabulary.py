"""The vocabulary that a GGUF file carries in its metadata.

Reference: ggml/docs/gguf.md, llama.cpp's llama-vocab.cpp.
"""

from collections.abc import Mapping
from dataclasses import replace
from itertools import repeat
from typing import Any

from freehold.errors import ModelFileError, UnsupportedError
from freehold.text.pretokenizers import PRE_TOKENIZERS, PreTokenizer
from freehold.text.vocabulary import (
    NORMAL,
    SplitEncoder,
    Vocabulary,
    byte_level_model,
    merges_by_rank,
    sentencepiece_bpe,
)


def read_gguf_vocabulary(metadata: Mapping[str, Any]) -> tuple[Vocabulary, SplitEncoder]:
    """Raises UnsupportedError for a kind of tokenizer that is not here, ModelFileError for a damaged one."""
    fields = _Fields(metadata)
    tokens = fields.require("tokens")
    types = fields.get("token_type") or [NORMAL] * len(tokens)
    if len(types) != len(tokens):
        raise ModelFileError(f"tokenizer.ggml.token_type: expected {len(tokens)} entries, got {len(types)}")
    kind = {"gpt2": "bpe", "llama": "spm"}.get(fields.require("model"), "")
    if not kind:
        raise UnsupportedError(f"tokenizer model {fields.get('model')!r}: not supported")
    vocabulary = Vocabulary(tokens, types, kind, space_prefix=kind == "spm" and fields.get("add_space_prefix", True))
    ends = (fields.token_id(f"{name}_token_id") for name in ("eos", "eot", "eom"))
    eos_ids = frozenset([*(token for token in ends if token is not None), *vocabulary.end_ids()])
    if kind == "bpe":
        pre_tokenizer = _pre_tokenizer(fields.require("pre"))
        add_bos = pre_tokenizer.add_bos
        model = _byte_level_bpe(vocabulary, fields.get("merges"), pre_tokenizer)
    else:
        add_bos = True
        model = sentencepiece_bpe(vocabulary, fields.require("scores"))
    bos_id = fields.token_id("bos_token_id")
    prefix = (bos_id,) if bos_id is not None and fields.get("add_bos_token", add_bos) else ()
    eos_id = fields.token_id("eos_token_id")
    suffix = (eos_id,) if eos_id is not None and fields.get("add_eos_token", False) else ()
    vocabulary = replace(
        vocabulary, bos_id=bos_id, eos_ids=eos_ids, prefix_ids=prefix, chat_prefix_ids=prefix, suffix_ids=suffix
    )
    return vocabulary, SplitEncoder(vocabulary, model)


class _Fields:
    """Metadata under `tokenizer.ggml.`."""

    def __init__(self, metadata: Mapping[str, Any]):
        self._metadata = metadata

    def get(self, key: str, default: Any = None) -> Any:
        return self._metadata.get(f"tokenizer.ggml.{key}", default)

    def require(self, key: str) -> Any:
        value = self.get(key)
        if value is None:
            raise ModelFileError(f"tokenizer.ggml.{key}: missing from the file's metadata")
        return value

    def token_id(self, key: str) -> int | None:
        token, count = self.get(key), len(self.require("tokens"))
        if token is not None and not (isinstance(token, int) and 0 <= token < count):
            raise ModelFileError(f"tokenizer.ggml.{key}: expected an id below {count}, got {token!r}")
        return token


def _pre_tokenizer(name: Any) -> PreTokenizer:
    if not isinstance(name, str) or name not in PRE_TOKENIZERS:
        raise UnsupportedError(
            f"tokenizer.ggml.pre {name!r}: unknown pre-tokenizer", "guessing one would change the tokens silently"
        )
    return PRE_TOKENIZERS[name]


def _byte_level_bpe(vocabulary: Vocabulary, merges: list[str] | None, pre_tokenizer: PreTokenizer) -> Any:
    plain = vocabulary.plain
    pairs = list(map(tuple, map(str.split, merges, repeat(" "), repeat(1)))) if merges else merges_by_rank(plain, plain)
    try:
        return byte_level_model(plain, pairs, pre_tokenizer)  # pyright: ignore[reportArgumentType]
    except Exception as error:  # tokenizers raises plain Exception
        raise ModelFileError(f"tokenizer.ggml.merges: {error}") from None
