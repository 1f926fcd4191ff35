"""A chat template's syntax tree, read for what its text depends on.

An expression carries marks: that it comes from the date, from what a message says, from a name, or from a place in the
conversation. Marks follow assignments, loops and macros; a comparison of a marked value is what a trigger is made of.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any

from jinja2 import nodes


class Mark(Enum):
    DATE = "the date"
    WORDS = "words of a message"
    NAME = "a name"
    PLACE = "the place in the conversation"


@dataclass(frozen=True, slots=True)
class Trigger:
    """A comparison on which text depends; `word`: what it is compared with."""

    mark: Mark
    word: str
    line: int


@dataclass(frozen=True, slots=True)
class Literal:
    """A text that the template may insert, with the triggers in its conditions, and whether these are about tools."""

    text: str
    line: int
    triggers: tuple[Trigger, ...]
    about_tools: bool


_CONTENT_KEYS = {"content", "text", "reasoning_content", "reasoning", "thinking", "arguments"}
_NAME_KEYS = {"name", "author", "username", "user_name"}
_STRUCTURE_KEYS = {
    "role",
    "type",
    "id",
    "function",
    "tool_calls",
    "tool_call_id",
    "parameters",
    "properties",
    "required",
}
_POSITIONS = {"index", "index0", "revindex", "revindex0", "length", "depth"}
_DATE_CALLS = {"strftime_now", "now", "today", "utcnow", "datetime", "time"}
_DATE_NAME = re.compile(r"(^|_)(date|time|today|now|year|month|day)($|_)", re.IGNORECASE)
# What content is compared with to learn its kind.
_KINDS = {"text", "image", "image_url", "video", "video_url", "audio", "input_audio", "audio_url", "file", "thinking",
          "tool_use", "tool_result", "json", "string", "refusal", "output", "error", "name", "content", "none",
          "null"}  # fmt: skip
_TOOLS = re.compile(r"tool|function|document|mcp|code_interpreter|python|browser", re.IGNORECASE)
_NOT_A_SPEAKER = re.compile(r"tool|func|call|param|prop|arg|field|key|doc", re.IGNORECASE)
_SEARCHES = {"startswith", "endswith", "find", "rfind", "index", "count", "split", "rsplit", "partition", "replace",
             "removeprefix", "removesuffix"}  # fmt: skip
_CUTS = {"split", "rsplit", "partition", "replace", "removeprefix", "removesuffix"}  # of markup, mostly
_MANY = 3  # positions below this tell first from second or odd from even


class Tree:
    """`root`: what jinja2 makes of the template's source."""

    def __init__(self, root: nodes.Template):
        self.root = root
        self._marks: dict[str, set[Mark]] = {}
        self._conditions: dict[int, tuple[list[Trigger], bool]] = {}
        self._macros = {macro.name: macro for macro in root.find_all(nodes.Macro)}
        before = -1
        while before != (before := sum(map(len, self._marks.values()))):
            self._follow()

    # Marks.

    def _follow(self) -> None:
        for node in self.root.find_all((nodes.Assign, nodes.AssignBlock, nodes.For, nodes.Call)):
            if isinstance(node, nodes.Assign):
                self._assign(node.target, self.marks(node.node))
            elif isinstance(node, nodes.AssignBlock):
                self._assign(node.target, self._marks_of(_outputs(node.body)))
            elif isinstance(node, nodes.For):
                self._assign(node.target, self.marks(_uncounted(node.iter)) - {Mark.PLACE})
            elif isinstance(node.node, nodes.Name) and node.node.name in self._macros:
                self._pass(self._macros[node.node.name], node)

    def _pass(self, macro: nodes.Macro, call: nodes.Call) -> None:
        for parameter, argument in zip(macro.args, call.args, strict=False):
            self._assign(parameter, self.marks(argument))
        for keyword in call.kwargs:
            self._marks.setdefault(keyword.key, set()).update(self.marks(keyword.value))

    def _assign(self, target: nodes.Node, marks: set[Mark]) -> None:
        if isinstance(target, nodes.Tuple):
            for item in target.items:
                self._assign(item, marks)
        elif isinstance(target, nodes.NSRef):
            self._marks.setdefault(f"{target.name}.{target.attr}", set()).update(marks)
        elif isinstance(target, nodes.Name):
            self._marks.setdefault(target.name, set()).update(marks)

    def _marks_of(self, expressions: Iterable[nodes.Node]) -> set[Mark]:
        return set().union(*(self.marks(expression) for expression in expressions))

    def marks(self, node: nodes.Node | None) -> set[Mark]:
        """What an expression's value depends on."""
        if node is None or isinstance(node, nodes.Const):
            return set()
        if isinstance(node, nodes.Name):
            date = {Mark.DATE} if _DATE_NAME.search(node.name) or node.name in _DATE_CALLS else set()
            name = {Mark.NAME} if node.name in ("username", "user_name") else set()
            return self._marks.get(node.name, set()) | date | name
        if isinstance(node, nodes.Getattr):
            return self._member(node.node, node.attr)
        if isinstance(node, nodes.Getitem):
            key = node.arg.value if isinstance(node.arg, nodes.Const) else None
            return self._member(node.node, key) if isinstance(key, str) else self.marks(node.node)
        if isinstance(node, nodes.Filter):
            marks = self.marks(node.node)
            if node.name in ("length", "count") and _mentions(node, "messages"):
                return marks | {Mark.PLACE}
            return marks
        if isinstance(node, nodes.CondExpr):
            return self.marks(node.expr1) | self.marks(node.expr2)
        if isinstance(node, nodes.Mod) and isinstance(node.right, nodes.Const):
            marks = self.marks(node.left)
            return marks if not isinstance(node.right.value, int) or node.right.value >= _MANY else marks - {Mark.PLACE}
        return self._marks_of(node.iter_child_nodes())

    def _member(self, owner: nodes.Node, key: str) -> set[Mark]:
        if isinstance(owner, nodes.Name):
            if owner.name == "loop":
                return {Mark.PLACE} if key in _POSITIONS else set()
            if (joined := f"{owner.name}.{key}") in self._marks:
                return self._marks[joined]
        if key in _CONTENT_KEYS:
            return {Mark.WORDS}
        if key in _STRUCTURE_KEYS:
            return set()
        if key in _NAME_KEYS:
            speaker = next((n.name for n in _names(owner)), "")
            return set() if _NOT_A_SPEAKER.search(speaker) else {Mark.NAME}
        return self.marks(owner)

    # Triggers.

    def triggers(self, within: nodes.Node | None = None) -> list[Trigger]:
        """Comparisons of marked values with constants, in the whole template or in one expression."""
        found: dict[Trigger, None] = {}
        for node in _all(within or self.root):
            for mark, word in self._compared(node):
                found.setdefault(Trigger(mark, word, node.lineno))
        return list(found)

    def _compared(self, node: nodes.Node) -> Iterator[tuple[Mark, str]]:
        if isinstance(node, nodes.Compare):
            yield from self._against([node.expr, *(operand.expr for operand in node.ops)])
        elif isinstance(node, nodes.Test) and node.name in (
            "eq",
            "equalto",
            "==",
            "in",
            "ne",
            "sameas",
            "gt",
            "ge",
            "lt",
        ):
            yield from self._against([node.node, *node.args])
        elif isinstance(node, nodes.Call) and isinstance(node.node, nodes.Getattr) and node.node.attr in _SEARCHES:
            words = node.args[:1] if node.node.attr in _CUTS else node.args
            yield from self._against([node.node.node, *words])
        elif isinstance(node, nodes.Filter) and node.name in ("selectattr", "rejectattr") and len(node.args) > 2:
            key = node.args[0]
            if isinstance(key, nodes.Const) and str(key.value).split(".")[-1] in _CONTENT_KEYS:
                yield from ((Mark.WORDS, word) for word in _words(constants(node.args[2:])))
        elif isinstance(node, nodes.Getitem) and isinstance(node.node, nodes.Dict):
            for mark in self.marks(node.arg):
                yield mark, "a table of texts"

    def _against(self, operands: list[nodes.Node]) -> Iterator[tuple[Mark, str]]:
        values = constants(operands)
        for mark in self._marks_of(operands):
            if mark is Mark.WORDS:
                yield from ((mark, word) for word in _words(values))
            elif mark is Mark.PLACE:
                yield from ((mark, str(c)) for c in values if type(c) is int and abs(c) >= _MANY)
            elif mark is Mark.NAME:
                yield from ((mark, c) for c in values if isinstance(c, str) and c.strip())
            elif values and not all(c in ("", None) or isinstance(c, bool) for c in values):
                yield mark, str(values[0])

    # Texts.

    def literals(self) -> list[Literal]:
        """Texts of the template's own that may come out, with the conditions around them."""
        found: list[Literal] = []
        self._collect(self.root.body, [], found)
        return found

    def _collect(self, body: Iterable[nodes.Node], conditions: list[nodes.Node], found: list[Literal]) -> None:
        for node in body:
            if isinstance(node, nodes.If):
                inner = [*conditions, node.test]
                self._collect(node.body, inner, found)
                for branch in node.elif_:
                    self._collect([branch], inner, found)
                self._collect(node.else_, inner, found)
            elif isinstance(node, nodes.For):
                tests = [node.iter, *([node.test] if node.test else [])]
                self._collect(node.body, [*conditions, *tests], found)
                self._collect(node.else_, conditions, found)
            elif isinstance(node, (nodes.Output, nodes.Assign)):
                self._texts(node, conditions, found)
            elif not isinstance(node, nodes.Expr):
                self._collect(node.iter_child_nodes(), conditions, found)

    def _texts(self, node: nodes.Node, conditions: list[nodes.Node], found: list[Literal]) -> None:
        if isinstance(node, (nodes.Compare, nodes.Test)):
            return
        if isinstance(node, nodes.Call) and _called(node) in ("raise_exception", *_SEARCHES):
            return  # a refusal is not inserted, nor is what is looked for
        if isinstance(node, nodes.CondExpr):
            inner = [*conditions, node.test]
            for part in (node.expr1, node.expr2):
                if part is not None:
                    self._texts(part, inner, found)
            return
        text = node.data if isinstance(node, nodes.TemplateData) else getattr(node, "value", None)
        if isinstance(text, str):
            facts = [self._facts(condition) for condition in conditions]
            triggers = tuple(trigger for of_condition, _ in facts for trigger in of_condition)
            found.append(Literal(text, node.lineno, triggers, any(about_tools for _, about_tools in facts)))
        for child in node.iter_child_nodes():
            self._texts(child, conditions, found)

    def _facts(self, condition: nodes.Node) -> tuple[list[Trigger], bool]:
        """(triggers in a condition, whether it asks about tools or documents)."""
        if id(condition) not in self._conditions:
            said = (
                getattr(n, "name", None) or getattr(n, "attr", None) or getattr(n, "value", "") for n in _all(condition)
            )
            about_tools = any(isinstance(word, str) and _TOOLS.search(word) for word in said)
            self._conditions[id(condition)] = (self.triggers(condition), about_tools)
        return self._conditions[id(condition)]


def _words(values: Iterable[Any]) -> Iterator[str]:
    """Those texts that a person might write: not markup, not the name of a kind of content."""
    for value in values:
        if not isinstance(value, str) or value.strip().lower() in _KINDS:
            continue
        if re.search(r"\w", value) and not re.search(r"[<>\[\]{}|｜]", value):
            yield value


def constants(operands: Iterable[nodes.Node]) -> list[Any]:
    """Values of constants and of the items of lists, also where an expression makes them of constants alone."""
    values: list[Any] = []
    for operand in operands:
        try:
            value = operand.as_const() if isinstance(operand, nodes.Expr) else None
        except Exception:  # not a constant: jinja2 raises Impossible, or whatever the expression does
            continue
        values += value if isinstance(value, list | tuple) else [value]
    return values


def folded(node: nodes.Node) -> str:
    """The text that additions of constant texts make; what is not constant counts as nothing."""
    if isinstance(node, (nodes.Add, nodes.Concat)):
        return "".join(map(folded, node.iter_child_nodes()))
    return node.value if isinstance(node, nodes.Const) and isinstance(node.value, str) else ""


def _all(node: nodes.Node) -> Iterator[nodes.Node]:
    yield node
    for child in node.iter_child_nodes():
        yield from _all(child)


def _names(node: nodes.Node) -> Iterator[nodes.Name]:
    return (n for n in _all(node) if isinstance(n, nodes.Name))


def _mentions(node: nodes.Node, name: str) -> bool:
    return any(n.name == name for n in _names(node))


def _called(call: nodes.Call) -> str:
    return getattr(call.node, "name", None) or getattr(call.node, "attr", "")


def _outputs(body: Iterable[nodes.Node]) -> Iterator[nodes.Node]:
    for node in body:
        for output in [node, *node.find_all(nodes.Output)]:
            if isinstance(output, nodes.Output):
                yield from output.nodes


def _uncounted(iterated: nodes.Node) -> nodes.Node:
    """What a loop runs over, without the counter that the engine puts around it."""
    if isinstance(iterated, nodes.Call) and _called(iterated) == "_counted":
        return iterated.args[0]
    return iterated
