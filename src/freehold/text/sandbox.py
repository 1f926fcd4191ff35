"""The sandbox in which chat templates run: what they may call, and what they may use of time and memory.

Imports jinja2, which takes its time: imported where a template is compiled.
"""

import functools
import json
import re
import time
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from freehold.errors import TemplateError

MAX_ITERATIONS = 1_000_000  # of all loops of one rendering
MAX_SECONDS = 5.0
MAX_OUTPUT_CHARACTERS = 16 << 20
MAX_TEXT_CHARACTERS = 4 << 20  # of one text that the template builds, beyond what it was given
_PADDING_METHODS = {"center", "ljust", "rjust", "zfill", "expandtabs"}
_GROWING_FILTERS = {"center", "indent", "format", "wordwrap", "replace", "join", "batch", "slice"}
_GROWING_FILTERS |= {"urlize", "xmlattr", "pprint"}


class Budget:
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

    def __init__(self, items: Any, budget: Budget):
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
    return datetime.now().strftime(pattern)


def _bounded_filter(function: Any, name: str) -> Any:
    """The filter, refused when one of its arguments asks for a huge result."""

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


class _CountLoops(NodeTransformer):
    """Sends what each `for` runs over through the rendering's budget."""

    def visit_For(self, node: Any) -> Any:
        self.generic_visit(node)
        node.iter = nodes.Call(
            nodes.Name("_counted", "load"), [node.iter, nodes.Name("_budget", "load")], [], None, None
        )
        return node


class _Generation(Extension):
    """`{% generation %}` marks the assistant's text for training; when rendering it is its body."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Any) -> Any:
        next(parser.stream)
        return parser.parse_statements(["name:endgeneration"], drop_needle=True)


class Sandbox(ImmutableSandboxedEnvironment):
    """The jinja2 environment of a template; a rendering is handed its `Budget` as the variable `_budget`."""

    intercepted_binops = frozenset(["*", "**", "+", "%"])

    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols])
        self.filters["tojson"] = _tojson
        for name in _GROWING_FILTERS:
            self.filters[name] = _bounded_filter(self.filters[name], name)
        self.globals |= {"raise_exception": _raise_exception, "strftime_now": _strftime_now, "_counted": _Counted}

    def _parse(self, source: str, name: str | None, filename: str | None) -> Any:
        return _CountLoops().visit(super()._parse(source, name, filename))

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
