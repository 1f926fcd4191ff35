"""Families that write each argument between tags of its own: the tool's schema says which are strings."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from freehold.text.formats.base import ToolFormat
from freehold.text.formats.calls import Calls, Tool
from freehold.text.formats.grammar import Grammar, members
from freehold.text.formats.reader import MalformedError, Reader, Steps
from freehold.text.formats.values import ALL_TYPES, as_json, resolve, types_of

STRING = frozenset({"string"})


@dataclass(frozen=True)
class Tagged(ToolFormat):
    """The tags of one family.

    `opening` and `closing` stand around all calls, or around each one where `each`, or there is no `closing`; `call` is
    before a call's name, after it, and at its end; `key` is before an argument's key; `values` maps what may stand
    between key and value to the types that it announces (None: the schema's), the family's own way first; `ends` are
    the texts that end a value, the longest first; `line` ends each line; `booleans` are the ways to write them;
    `blank` says that a call without arguments has an empty line in their place.
    """

    name: str
    opening: str
    closing: str | None
    call: tuple[str, str, str]
    key: str
    values: Mapping[str, frozenset[str] | None]
    ends: tuple[str, ...]
    line: str = "\n"
    each: bool = False
    booleans: tuple[str, ...] = ("true", "false")
    blank: bool = False

    def markers(self) -> tuple[str, ...]:
        return (self.opening, self.call[0])

    def read(self, source: Reader, calls: Calls, marker: str) -> Steps[None]:
        if self.closing is None or marker == self.call[0]:
            yield from self._read_call(source, calls)
            return
        yield from source.expect(self.call[0])
        while True:
            yield from self._read_call(source, calls)
            if (yield from source.expect(self.call[0], self.closing)) == self.closing:
                return

    def _read_call(self, source: Reader, calls: Calls) -> Steps[None]:
        _, after_name, end = self.call
        name, found = yield from source.upto(after_name, self.key, end)
        tool = calls.start(name.strip())
        if found == after_name:
            found = yield from source.expect(self.key, end)
        keys: set[str] = set()
        while found == self.key:
            key, between = yield from source.upto(*self.values)
            key = key.strip()
            if key in keys:
                raise MalformedError
            keys.add(key)
            calls.arguments(("{" if len(keys) == 1 else ", ") + json.dumps(key, ensure_ascii=False) + ": ")
            yield from self._read_value(source, calls, self._types(tool, key, between))
            found = yield from source.expect(self.key, end)
        calls.arguments("}" if keys else "{}")
        calls.end()

    def _types(self, tool: Tool, key: str, between: str) -> frozenset[str]:
        announced = self.values[between]
        return types_of(tool.properties.get(key, True), tool.schema) if announced is None else announced

    def _read_value(self, source: Reader, calls: Calls, types: frozenset[str]) -> Steps[None]:
        parts: list[str] = []
        if types == STRING:
            calls.arguments('"')
            end = yield from source.until(self.ends, lambda piece: calls.arguments(_escaped(piece)))
            calls.arguments('"')
        else:
            end = yield from source.until(self.ends, parts.append)
            calls.arguments(as_json("".join(parts), types))
        if end is None:
            raise MalformedError

    def grammar(self, grammar: Grammar, tools: Sequence[Tool], parallel: bool) -> str:
        if self.closing is None:
            call = grammar.choice([self._write_call(grammar, tool, "") for tool in tools])
            again = grammar.sequence(grammar.literal(self.line + self.opening), call)
            return f"{call} ({again})*" if parallel else call
        open_line, close = grammar.literal(self.line), grammar.literal(self.closing)
        call = grammar.choice([self._write_call(grammar, tool, self.call[0]) for tool in tools])
        calls = grammar.sequence(open_line, f"{call}+" if parallel and not self.each else call, close)
        again = grammar.sequence(grammar.literal(self.line + self.opening), calls)
        return f"{calls} ({again})*" if parallel and self.each else calls

    def _write_call(self, grammar: Grammar, tool: Tool, before: str) -> str:
        properties, required, others = members(tool.schema)
        arguments = [
            self._write_argument(grammar, grammar.literal(self.key + key), schema, tool.schema)
            + ("" if key in required else "?")
            for key, schema in properties.items()
        ]
        if others is not None:
            key = grammar.sequence(grammar.literal(self.key), grammar.text('/[^<>"\\n]{1,64}/'))
            arguments.append(self._write_argument(grammar, key, others, tool.schema) + "*")
        if self.blank and not required:
            arguments.append(f"({grammar.literal(self.line)})?")
        after_name = self.call[1] if self.call[1] != "\n" else ""
        head = grammar.literal(before + tool.name + after_name + self.line)
        return grammar.sequence(head, *arguments, grammar.literal(self.call[2] + (self.line if before else "")))

    def _write_argument(self, grammar: Grammar, key: str, schema: Any, root: Mapping[str, Any]) -> str:
        """A rule for one argument."""
        allowed, end = types_of(schema, root), self.ends[0] + self.line
        ways = []
        for between, announced in self._canonical():
            types = allowed if announced is None else allowed & announced
            if not types:
                continue
            head = grammar.sequence(key, grammar.literal(between))
            if types == {"boolean"} and not {"const", "enum"} & set(resolve(schema, root)):
                words = grammar.choice([grammar.literal(word + end) for word in self.booleans])
                ways.append(grammar.sequence(head, words))
            elif "string" in types:
                ways.append(grammar.sequence(head, grammar.string(schema, root, end, others=announced is None)))
            else:
                value = schema if types == allowed else {"allOf": [schema, {"type": sorted(types)}]}
                ways.append(grammar.sequence(head, grammar.json(value, root), grammar.literal(end)))
        return grammar.choice(ways)

    def _canonical(self) -> list[tuple[str, frozenset[str] | None]]:
        """The ways between key and value that the family itself writes: one for each announcement of types."""
        seen: dict[frozenset[str] | None, str] = {}
        for between, types in self.values.items():
            seen.setdefault(types, between)
        return [(between, types) for types, between in seen.items() if types is not None or len(seen) == 1]


def _escaped(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]


def _dsml(name: str, section: str, space: str = "") -> Tagged:
    mark = "｜DSML｜" + space
    return Tagged(
        name,
        f"<｜DSML｜{section}>",
        f"</｜DSML｜{section}>",
        (f'<{mark}invoke name="', '">', f"</{mark}invoke>"),
        f'<{mark}parameter name="',
        {'" string="true">': STRING, '" string="false">': ALL_TYPES - STRING, '">': None},
        (f"</{mark}parameter>",),
        blank=True,
    )


QWEN_CODER = Tagged(
    "qwen3-coder",
    "<tool_call>",
    "</tool_call>",
    ("<function=", ">", "</function>"),
    "<parameter=",
    {">\n": None, ">": None},
    ("\n</parameter>", "</parameter>"),
    each=True,
    booleans=("True", "False", "true", "false"),
)
MINIMAX_M2 = Tagged(
    "minimax-m2",
    "<minimax:tool_call>",
    "</minimax:tool_call>",
    ('<invoke name="', '">', "</invoke>"),
    '<parameter name="',
    {'">': None},
    ("</parameter>",),
)
_GLM_CALL, _GLM_ENDS = ("<tool_call>", "\n", "</tool_call>"), ("</arg_value>",)
_GLM_VALUES = {"</arg_key>\n<arg_value>": None, "</arg_key><arg_value>": None}
GLM_45 = Tagged("glm-4.5", "<tool_call>", None, _GLM_CALL, "<arg_key>", _GLM_VALUES, _GLM_ENDS)
GLM_47 = Tagged(
    "glm-4.7", "<tool_call>", None, _GLM_CALL, "<arg_key>", dict(reversed(_GLM_VALUES.items())), _GLM_ENDS, line=""
)
DEEPSEEK_V32 = _dsml("deepseek-v3.2", "function_calls")
DEEPSEEK_V4 = _dsml("deepseek-v4", "tool_calls")
DEEPSEEK_V41 = _dsml("deepseek-v4.1", " calls", " ")
