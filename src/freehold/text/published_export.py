"""A GGUF file's vocabulary and template as the files of a published folder. The reverse of `text.gguf_export`."""

import json
from collections.abc import Mapping
from typing import Any

from freehold.text.gguf_vocabulary import read_gguf_vocabulary
from freehold.text.vocabulary import CONTROL, UNKNOWN, USER_DEFINED, Vocabulary

_NAMES = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}


def published_text_files(metadata: Mapping[str, Any], context_length: int) -> dict[str, str]:
    """Contents by file name. Raises as `read_gguf_vocabulary`."""
    vocabulary, encoder = read_gguf_vocabulary(metadata)
    ids = {name: metadata.get(f"tokenizer.ggml.{key}_token_id") for name, key in _NAMES.items()}
    named = {name: vocabulary.tokens[token] for name, token in ids.items() if token is not None}
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": context_length, **named}
    generation = {"bos_token_id": vocabulary.bos_id, "eos_token_id": sorted(vocabulary.eos_ids)}
    files = {
        "tokenizer.json": _tokenizer(vocabulary, json.loads(encoder.model.to_str())),
        "tokenizer_config.json": config | {"clean_up_tokenization_spaces": False},
        "generation_config.json": {name: value for name, value in generation.items() if value not in (None, [])},
    }
    made = {name: json.dumps(value, ensure_ascii=False, indent=2) + "\n" for name, value in files.items()}
    template = metadata.get("tokenizer.chat_template")
    return made | ({"chat_template.jinja": template} if template else {})


def _tokenizer(vocabulary: Vocabulary, whole: dict[str, Any]) -> dict[str, Any]:
    whole["model"]["vocab"] = {text: token for token, text in enumerate(vocabulary.tokens)}
    kinds = dict(enumerate(vocabulary.types))
    whole["added_tokens"] = [
        dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        | {"id": token, "content": text, "special": kinds[token] != USER_DEFINED}
        for token, text in enumerate(vocabulary.tokens)
        if kinds[token] in (CONTROL, USER_DEFINED) or (kinds[token] == UNKNOWN and vocabulary.kind == "spm")
    ]
    if vocabulary.kind == "bpe":
        whole["decoder"] = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    else:
        whole |= _sentencepiece_steps(vocabulary.space_prefix)
    if vocabulary.prefix_ids:
        whole["post_processor"] = _before(vocabulary)
    return whole


def _sentencepiece_steps(space_prefix: bool) -> dict[str, Any]:
    """▁ for spaces, and one before each text between special tokens where the vocabulary has it so."""
    before = [{"type": "Prepend", "prepend": "▁"}] if space_prefix else []
    spaces = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    after = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if space_prefix else []
    words = {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}
    return {
        "normalizer": {"type": "Sequence", "normalizers": [*before, spaces]},
        "decoder": {"type": "Sequence", "decoders": [words, {"type": "ByteFallback"}, {"type": "Fuse"}, *after]},
    }


def _before(vocabulary: Vocabulary) -> dict[str, Any]:
    """What puts BOS before a text."""
    texts = [vocabulary.tokens[token] for token in vocabulary.prefix_ids]
    marks = [{"SpecialToken": {"id": text, "type_id": 0}} for text in texts]
    pair = [*marks, {"Sequence": {"id": "A", "type_id": 0}}]
    known = zip(texts, vocabulary.prefix_ids, strict=True)
    return {
        "type": "TemplateProcessing",
        "single": pair,
        "pair": [*pair, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {text: {"id": text, "ids": [token], "tokens": [text]} for text, token in known},
    }
