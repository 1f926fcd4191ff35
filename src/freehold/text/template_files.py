"""Chat templates where labs put them. Reference: transformers `tokenization_utils_base.py`, `from_pretrained`."""

from pathlib import Path

from freehold.errors import ModelFileError
from freehold.files import read_bytes
from freehold.text.published import SpecialTokens, optional_json

MAX_TEMPLATE_BYTES = 1 << 20
_FOLDER = "additional_chat_templates"


def published_templates(folder: Path, names: SpecialTokens) -> dict[str, str]:
    """Templates by name: of chat_template.jinja and its folder, or chat_template.json, or tokenizer_config.json."""
    return _jinja_files(folder) or _named(folder / "chat_template.json") or _of(names.config, "tokenizer_config.json")


def _jinja_files(folder: Path) -> dict[str, str]:
    files = {"default": folder / "chat_template.jinja"}
    files |= {path.name.removesuffix(".jinja"): path for path in sorted((folder / _FOLDER).glob("*.jinja"))}
    return {name: _text(path) for name, path in files.items() if path.exists()}


def _text(path: Path) -> str:
    try:
        return read_bytes(path, MAX_TEMPLATE_BYTES).decode()
    except UnicodeDecodeError as error:
        raise ModelFileError(f"{path}: not valid UTF-8 at byte {error.start}") from None


def _named(path: Path) -> dict[str, str]:
    return _of(optional_json(path), path.name)


def _of(values: dict[str, object], file: str) -> dict[str, str]:
    """`chat_template` is a text, or a list of {"name", "template"}."""
    value = values.get("chat_template")
    if value is None:
        return {}
    if isinstance(value, str):
        return {"default": value}
    if isinstance(value, list) and all(isinstance(item, dict) for item in value):
        named = {item.get("name"): item.get("template") for item in value}
        if all(isinstance(name, str) and isinstance(text, str) for name, text in named.items()):
            return named
    raise ModelFileError(f"{file}: chat_template: expected a text, or a list of names and templates")
