"""A published vocabulary and template as the metadata of a GGUF file. The reverse of `text.gguf_vocabulary`."""

import json
from pathlib import Path
from typing import Any

from freehold.errors import UnsupportedError
from freehold.files import read_bytes
from freehold.text.pretokenizers import PRE_TOKENIZERS
from freehold.text.published import (
    MAX_TOKENIZER_BYTES,
    SpecialTokens,
    guarded,
    read_published_vocabulary,
)
from freehold.text.template_files import published_templates
from freehold.text.tiktoken import TIKTOKEN_FILES, is_tiktoken, read_ranks
from freehold.text.vocabulary import UNKNOWN, UNUSED, Vocabulary, merges_by_rank

_NAMES = {"eos_token": "eos", "unk_token": "unknown", "pad_token": "padding", "sep_token": "seperator"}


def gguf_text_metadata(folder: Path, num_rows: int) -> dict[str, Any]:
    """The tokenizer and the chat template of a folder; `num_rows` of the embedding, which may be more than tokens.

    Raises UnsupportedError for a tokenizer that a GGUF file cannot describe, and as `read_published_vocabulary`.
    """
    vocabulary, _ = read_published_vocabulary(folder)
    names = SpecialTokens(folder)
    missing = range(len(vocabulary.tokens), num_rows)
    tokens = [text or f"[PAD{i}]" for i, text in enumerate(vocabulary.tokens)] + [f"[PAD{i}]" for i in missing]
    types = [*vocabulary.types, *(UNUSED for _ in missing)]
    values: dict[str, Any] = {
        "add_bos_token": vocabulary.bos_id is not None and vocabulary.bos_id in vocabulary.prefix_ids
    }
    values |= _model(folder, vocabulary, types)
    values |= {"tokens": tokens, "token_type": types, "bos_token_id": vocabulary.bos_id}
    ids = {text: token for token, text in enumerate(vocabulary.tokens)}
    for name, key in _NAMES.items():
        values[f"{key}_token_id"] = ids.get(names.text(name) or "")
    if values["eos_token_id"] is None:
        values["eos_token_id"] = min(vocabulary.eos_ids, default=None)
    metadata = {f"tokenizer.ggml.{key}": value for key, value in values.items() if value is not None}
    template = published_templates(folder, names).get("default")
    return metadata | ({"tokenizer.chat_template": template} if template else {})


def _model(folder: Path, vocabulary: Vocabulary, types: list[int]) -> dict[str, Any]:
    path = folder / "tokenizer.json"
    if path.exists():
        whole = json.loads(read_bytes(path, MAX_TOKENIZER_BYTES))
        return guarded(path, lambda: _of_tokenizer_json(path, whole, vocabulary, types))
    files = (folder / name for name in (*TIKTOKEN_FILES, "tokenizer.model"))
    ranks_file = next((file for file in files if file.exists()), path)
    if is_tiktoken(ranks_file):
        ranks = read_ranks(ranks_file)
        merges = [f"{left} {right}" for left, right in merges_by_rank(ranks, ranks)]
        return {"model": "gpt2", "pre": TIKTOKEN_FILES.get(ranks_file.name, "chatglm-bpe"), "merges": merges}
    raise UnsupportedError(f"{ranks_file}: SentencePiece models are not written to GGUF", "a tokenizer.json is")


def _of_tokenizer_json(path: Path, whole: dict[str, Any], vocabulary: Vocabulary, types: list[int]) -> dict[str, Any]:
    model = whole["model"]
    if model["type"] != "BPE":
        raise UnsupportedError(f"{path}: a model of type {model['type']} is not written to GGUF")
    pairs = [pair.split(" ", 1) if isinstance(pair, str) else pair for pair in model["merges"]]
    if vocabulary.kind == "bpe":
        merges = [f"{left} {right}" for left, right in pairs]
        return {"model": "gpt2", "pre": _pre_tokenizer(path, whole, model), "merges": merges}
    unknown = vocabulary.special.get(model.get("unk_token") or "")
    if unknown is not None:
        types[unknown] = UNKNOWN
    # llama.cpp merges by scores: the earlier a merge stands, the higher; what no merge yields has the lowest.
    rank = {left + right: i for i, (left, right) in reversed(list(enumerate(pairs)))}
    scores = [-float(rank.get(text, len(pairs))) for text in vocabulary.tokens]
    scores += [-float(len(pairs))] * (len(types) - len(scores))
    return {"model": "llama", "pre": "default", "scores": scores, "add_space_prefix": vocabulary.space_prefix}


def _pre_tokenizer(path: Path, whole: dict[str, Any], model: dict[str, Any]) -> str:
    """The name of the family that cuts words as the file does."""
    steps = whole.get("pre_tokenizer") or {}
    patterns = []
    for step in steps.get("pretokenizers", [steps]):
        if step.get("type") == "Split" and step.get("behavior") in ("Isolated", "Removed"):
            patterns.append(step["pattern"].get("Regex", step["pattern"].get("String")))
        elif step.get("type") == "Digits":
            patterns.append(r"\p{N}" if step.get("individual_digits") else r"\p{N}+")
        elif step.get("type") == "ByteLevel" and step.get("use_regex", True):
            patterns.append(PRE_TOKENIZERS["gpt-2"].patterns[-1])
    for name, family in PRE_TOKENIZERS.items():
        same = list(map(_same, family.patterns)) == list(map(_same, patterns))
        if same and family.whole_words == bool(model.get("ignore_merges")):
            return name
    raise UnsupportedError(f"{path}: words are cut by {patterns!r:.200}: GGUF has no name for it")


def _same(pattern: str) -> str:
    """Without what changes nothing: groups, and the order in which a case is ignored."""
    return pattern.replace("(?:", "(").replace("(?i:", "(").replace(r"\r\n", r"\n\r")
