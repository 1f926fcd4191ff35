"""The model's own chat template, rendered in jinja2's immutable sandbox with the helpers that Hugging Face defines.

Reference: transformers `utils/chat_template_utils.py`. A template is data from a stranger: it cannot reach the
interpreter (sandbox), run for long (loops are counted and timed), or fill memory (sizes are checked before texts are
built, and the output as it grows).
"""

import hashlib
import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from freehold.errors import TemplateError
from freehold.text.published import SpecialTokens
from freehold.text.template_files import published_templates
from freehold.text.tokenizer import Tokenizer

MAX_ITERATIONS = 1_000_000  # of all loops of one rendering
MAX_SECONDS = 5.0
MAX_OUTPUT_CHARACTERS = 16 << 20
MAX_TEXT_CHARACTERS = 4 << 20  # of one text that the template builds, beyond what it was given
_MAX_SOURCE_CHARACTERS = 1 << 20
_PADDING_METHODS = {"center", "ljust", "rjust", "zfill", "expandtabs"}


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

        return meta.find_undeclared_variables(environment().parse(self.source))

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

        if tools and self._with_tools:
            more = {"tools": tools, "add_generation_prompt": add_generation_prompt, **variables}
            return self._with_tools.render(messages, **more)
        budget = _Budget()
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


class _Budget:
    """What one rendering may use."""

    def __init__(self) -> None:
        self._iterations = 0
        self._end = time.monotonic() + MAX_SECONDS

    def spend(self) -> None:
        self._iterations += 1
        if self._iterations > MAX_ITERATIONS:
            raise TemplateError(f"chat template: more than {MAX_ITERATIONS} loop iterations")
        if time.monotonic() > self._end:
            raise TemplateError(f"chat template: took longer than {MAX_SECONDS:g} s")

    def measured(self, stream: Iterator[str]) -> Iterator[str]:
        size = 0
        for piece in stream:
            size += len(piece)
            if size > MAX_OUTPUT_CHARACTERS:
                raise TemplateError(f"chat template: more than {MAX_OUTPUT_CHARACTERS} characters of output")
            yield piece


class _Counted:
    """An iterable whose items are paid for."""

    def __init__(self, items: Any, budget: _Budget):
        self._items, self._budget = items, budget

    def __iter__(self) -> Iterator[Any]:
        for item in self._items:
            self._budget.spend()
            yield item

    def __len__(self) -> int:
        return len(self._items)


def _check_size(size: int) -> None:
    if size > MAX_TEXT_CHARACTERS:
        raise TemplateError(f"chat template: builds a text of {size} characters, {MAX_TEXT_CHARACTERS} are allowed")


def _check_call(function: Any, arguments: tuple[Any, ...]) -> None:
    """Refuse methods of texts and lists whose result would be huge."""
    function = getattr(function, "__wrapped__", function)  # jinja2 wraps str.format
    owner, name = getattr(function, "__self__", None), getattr(function, "__name__", "")
    if not isinstance(owner, str):
        return
    if name in _PADDING_METHODS:
        _check_size(
            max((a for a in arguments if isinstance(a, int)), default=0) * ((name == "expandtabs" and len(owner)) or 1)
        )
    elif name == "replace" and len(arguments) > 1 and isinstance(arguments[1], str):
        _check_size(len(owner) + (len(owner) + 1) * len(arguments[1]))
    elif name == "join" and arguments and hasattr(arguments[0], "__len__"):
        _check_size(len(owner) * len(arguments[0]) + sum(len(x) for x in arguments[0] if isinstance(x, str)))
    elif name in ("format", "format_map"):
        _check_format(owner)


def _check_format(text: str) -> None:
    _check_size(max((int(number) for number in re.findall(r"\d{1,18}", text)), default=0))


def _tojson(value: Any, ensure_ascii=False, indent=None, separators=None, sort_keys=False) -> str:
    # Not jinja2's own filter, which escapes HTML.
    if isinstance(indent, int):
        _check_size(indent)
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> None:
    raise TemplateError(f"the chat template refuses these messages: {message}")


def _strftime_now(pattern: str) -> str:
    from datetime import datetime

    return datetime.now().strftime(pattern)


def _compile(source: str) -> Any:
    if len(source) > _MAX_SOURCE_CHARACTERS:
        raise TemplateError(f"chat template: {len(source)} characters long, {_MAX_SOURCE_CHARACTERS} are allowed")
    return environment().from_string(source)


def environment() -> Any:
    """The jinja2 environment that templates are compiled in; its syntax trees have their loops counted."""
    from jinja2 import nodes
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment
    from jinja2.visitor import NodeTransformer

    class CountLoops(NodeTransformer):
        """Sends what each `for` runs over through the rendering's budget."""

        def visit_For(self, node: Any) -> Any:
            self.generic_visit(node)
            node.iter = nodes.Call(
                nodes.Name("_counted", "load"), [node.iter, nodes.Name("_budget", "load")], [], None, None
            )
            return node

    class Generation(Extension):
        """`{% generation %}` marks the assistant's text for training; when rendering it is its body."""

        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Any) -> Any:
            next(parser.stream)
            return parser.parse_statements(["name:endgeneration"], drop_needle=True)

    class Sandbox(ImmutableSandboxedEnvironment):
        intercepted_binops = frozenset(["*", "**", "+", "%"])

        def _parse(self, source: str, name: str | None, filename: str | None) -> Any:
            return CountLoops().visit(super()._parse(source, name, filename))

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            if operator == "**" and not (abs(left) <= 1 << 16 and abs(right) <= 64):
                raise TemplateError("chat template: a power too large")
            if operator == "*" and (hasattr(left, "__len__") or hasattr(right, "__len__")):
                sized, times = (left, right) if hasattr(left, "__len__") else (right, left)
                _check_size(len(sized) * max(int(times), 0))
            if operator == "%" and isinstance(left, str):
                _check_format(left)
            if operator == "+" and isinstance(left, (str, list)) and hasattr(right, "__len__"):
                _check_size(len(left) + len(right) - MAX_OUTPUT_CHARACTERS)
            return super().call_binop(context, operator, left, right)

        def call(self, context: Any, function: Any, *arguments: Any, **keywords: Any) -> Any:
            _check_call(function, arguments)
            return super().call(context, function, *arguments, **keywords)

    sandbox = Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
    sandbox.filters["tojson"] = _tojson
    for name in (
        "center",
        "indent",
        "format",
        "wordwrap",
        "replace",
        "join",
        "batch",
        "slice",
        "urlize",
        "xmlattr",
        "pprint",
    ):
        sandbox.filters[name] = _bounded_filter(sandbox.filters[name], name)
    sandbox.globals |= {"raise_exception": _raise_exception, "strftime_now": _strftime_now, "_counted": _Counted}
    return sandbox


def _bounded_filter(function: Any, name: str) -> Any:
    """The filter, refused when one of its arguments asks for a huge result."""
    import functools

    @functools.wraps(function)
    def bounded(*arguments: Any, **keywords: Any) -> Any:
        values = [*arguments, *keywords.values()]
        for number in values:
            if isinstance(number, int):
                _check_size(number)
        texts = [value for value in values if isinstance(value, str)]
        if name == "format" and texts:
            _check_format(texts[0])
        if name in ("replace", "join", "indent") and len(texts) > 1:
            _check_size(max(map(len, texts)) * (min(map(len, texts)) + 1) - MAX_OUTPUT_CHARACTERS)
        return function(*arguments, **keywords)

    return bounded


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
