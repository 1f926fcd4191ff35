"""The model's own chat template, rendered in jinja2's immutable sandbox with the helpers that Hugging Face defines.

Reference: transformers `utils/chat_template_utils.py`. A template is data from a stranger: it cannot reach the
interpreter (sandbox), run for long (loops are counted and timed), or fill memory (sizes are checked before texts are
built, and the output as it grows).
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from freehold.errors import TemplateError
from freehold.text.published import SpecialTokens
from freehold.text.template_files import published_templates
from freehold.text.tokenizer import Tokenizer

_MAX_SOURCE_CHARACTERS = 1 << 20


class ChatTemplate:
    """One template's source, compiled at first use; and another's for conversations with tools, where there is one."""

    def __init__(self, source: str, variables: Mapping[str, str], tools_source: str | None = None):
        self.source = source
        self._variables = dict(variables)
        self._with_tools = ChatTemplate(tools_source, variables) if tools_source else None
        self._compiled: Any = None

    @classmethod
    def from_gguf(cls, metadata: Mapping[str, Any], tokenizer: Tokenizer) -> "ChatTemplate | None":
        """None when the file has no template: none is guessed."""
        source = metadata.get("tokenizer.chat_template")
        if not isinstance(source, str):
            return None
        names = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
        ids = {name: metadata.get(f"tokenizer.ggml.{key}_token_id") for name, key in names.items()}
        return cls(source, {name: tokenizer.token_text(token) for name, token in ids.items() if token is not None})

    @classmethod
    def from_folder(cls, folder: Path) -> "ChatTemplate | None":
        """Of a folder as a lab publishes it; None when it has none. Raises ModelFileError."""
        names = SpecialTokens(folder)
        templates = published_templates(folder, names)
        default = templates.get("default", templates.get("tool_use"))
        if default is None:
            return None
        return cls(default, names.named, templates.get("tool_use"))

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.source.encode()).hexdigest()

    def compiled(self) -> Any:
        """The jinja2 template, compiled at the first call (some 50 ms with the import). Raises as jinja2 does."""
        if self._compiled is None:
            self._compiled = _compile(self.source)
        return self._compiled

    def variable_names(self) -> set[str]:
        """What the template reads and does not make itself. Raises as jinja2 does."""
        from jinja2 import meta

        from freehold.text.sandbox import Sandbox

        return meta.find_undeclared_variables(Sandbox().parse(self.source))

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        **variables: Any,
    ) -> str:
        """The prompt for `messages`, byte for byte as transformers renders it.

        Raises TemplateError when the template refuses the messages, fails, or exceeds its caps.
        """
        from jinja2.exceptions import TemplateError as JinjaError

        from freehold.text.sandbox import Budget

        if tools and self._with_tools:
            more = {"tools": tools, "add_generation_prompt": add_generation_prompt, **variables}
            return self._with_tools.render(messages, **more)
        budget = Budget()
        given = dict(messages=list(messages), tools=tools, documents=None, add_generation_prompt=add_generation_prompt)
        try:
            stream = self.compiled().generate(**self._variables, **given, **variables, _budget=budget)
            return "".join(budget.measured(stream))
        except TemplateError:
            raise
        except (JinjaError, RecursionError) as error:
            raise TemplateError(f"chat template: {error or type(error).__name__}") from None
        except (TypeError, ValueError, KeyError, AttributeError, ArithmeticError, IndexError) as error:
            raise TemplateError(f"chat template: {type(error).__name__}: {error}") from None


def _compile(source: str) -> Any:
    if len(source) > _MAX_SOURCE_CHARACTERS:
        raise TemplateError(f"chat template: {len(source)} characters long, {_MAX_SOURCE_CHARACTERS} are allowed")
    from freehold.text.sandbox import Sandbox

    return Sandbox().from_string(source)


# Private-use characters that stand for a special token's text inside a message while the template is rendered.
_OPEN, _CLOSE = "\U000f0f0e", "\U000f0f0f"


def encode_chat(
    tokenizer: Tokenizer,
    template: ChatTemplate,
    messages: Sequence[Mapping[str, Any]],
    *,
    tools: Sequence[Mapping[str, Any]] | None = None,
    **variables: Any,
) -> list[int]:
    """Token ids of the rendered conversation, BOS included where the model wants it.

    Special tokens are those that the template writes: the same text inside a message is plain text, so that no
    message can end its own turn or speak for another role.
    """
    hidden: list[str] = []
    safe = [_hide(message, tokenizer, hidden) for message in messages]
    text = template.render(safe, tools=_hide(tools, tokenizer, hidden), **variables)
    if hidden:
        ids: list[int] = []
        for piece in tokenizer.split_control(text):
            ids += [piece] if isinstance(piece, int) else tokenizer.encode(_show(piece, hidden), first=not ids)
    else:
        ids = tokenizer.encode(text, special=True)
    prefix = list(tokenizer.chat_prefix_ids)
    return ids if ids[: len(prefix)] == prefix else prefix + ids


def _hide(value: Any, tokenizer: Tokenizer, hidden: list[str]) -> Any:
    """The value with each special token's text replaced by a placeholder."""
    if isinstance(value, str):
        pieces = list(tokenizer.split_control(value))
        if all(isinstance(piece, str) for piece in pieces):
            return value
        return "".join(p if isinstance(p, str) else _placeholder(p, tokenizer, hidden) for p in pieces)
    if isinstance(value, Mapping):
        return {key: _hide(item, tokenizer, hidden) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_hide(item, tokenizer, hidden) for item in value]
    return value


def _placeholder(token: int, tokenizer: Tokenizer, hidden: list[str]) -> str:
    text = tokenizer.token_text(token)
    if not tokenizer.is_special(token):
        return text  # a user-defined token, such as <think>, is text that templates look for
    hidden.append(text)
    return f"{_OPEN}{len(hidden) - 1}{_CLOSE}"


def _show(text: str, hidden: Sequence[str]) -> str:
    if not hidden:
        return text
    return re.sub(
        f"{_OPEN}(\\d+){_CLOSE}", lambda found: hidden[int(found[1])] if int(found[1]) < len(hidden) else found[0], text
    )
