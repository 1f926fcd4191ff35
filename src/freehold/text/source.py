"""A model's tokenizer and chat template, from the folder or the GGUF file that it came in."""

import hashlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from freehold.text.published import SpecialTokens
from freehold.text.template import ChatTemplate
from freehold.text.template_files import published_templates
from freehold.text.tokenizer import Tokenizer


def read_text(metadata: Mapping[str, Any], folder: Path | None) -> tuple[Tokenizer, ChatTemplate | None]:
    """Of `folder` where there is one, else of a GGUF file's metadata; the template compiled, or None: none is guessed.

    Raises ModelFileError, ModelNotFoundError, UnsupportedError.
    """
    if folder:
        tokenizer = Tokenizer.from_folder(folder)
        template = ChatTemplate.from_folder(folder)
    else:
        tokenizer = Tokenizer.from_gguf(metadata)
        template = ChatTemplate.from_gguf(metadata, tokenizer)
    if template:
        with suppress(Exception):  # a broken template is reported to who uses it
            template.compiled()
    return tokenizer, template


def describe_text(metadata: Mapping[str, Any], folder: Path | None) -> dict[str, Any]:
    """What there is, without reading a vocabulary."""
    if folder is None:
        source = metadata.get("tokenizer.chat_template")
        tokenizer = {"model": metadata.get("tokenizer.ggml.model"), "pre": metadata.get("tokenizer.ggml.pre")}
    else:
        names = SpecialTokens(folder)
        source = published_templates(folder, names).get("default")
        files = ("tokenizer.json", "tiktoken.model", "qwen.tiktoken", "tokenizer.model")
        file = next((name for name in files if (folder / name).exists()), None)
        tokenizer = {"model": file, "pre": names.config.get("tokenizer_class")}
    sha256 = hashlib.sha256(source.encode()).hexdigest() if isinstance(source, str) else None
    return {"tokenizer": tokenizer, "template_sha256": sha256}
