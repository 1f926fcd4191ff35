"""Families whose answer is a call from its first character: nothing marks it but its own shape."""

import ast
import json
import re
from collections.abc import Mapping, Sequence

from freehold.text.formats.base import ToolFormat
from freehold.text.formats.calls import Calls, Tool
from freehold.text.formats.grammar import Grammar, UnconstrainableError, members
from freehold.text.formats.json_calls import read_call, write_call
from freehold.text.formats.reader import MalformedError, Reader, Steps
from freehold.text.formats.values import load_json, types_of

_KNOWN_ESCAPES = re.compile(r"""(?:[^\\]|\\[\\'"abfnrtvxuUN0-3\n])*""")


class Llama(ToolFormat):
    """{"name": …, "parameters": …} or, in Llama 4, a Python list of calls; a special token may come before either."""

    def __init__(self, pythonic: bool):
        self.name = "llama4-pythonic" if pythonic else "llama3-json"
        self.opening = "[" if pythonic else ""
        self._pythonic = pythonic

    def markers(self) -> tuple[str, ...]:
        return ("<|python_tag|>",)

    def beginnings(self, tools: Mapping[str, Tool]) -> tuple[str, ...]:
        return ("{", "[", "<|python_start|>") if self._pythonic else ("{",)

    def answer(self) -> str:
        return r"/[^{\[\s](.|\n)*/" if self._pythonic else r"/[^{\s](.|\n)*/"

    def read(self, source: Reader, calls: Calls, marker: str) -> Steps[None]:
        if marker not in "{[":
            marker = yield from source.expect("{", "[")
        if marker == "[":
            yield from _read_python(source, calls)
            yield from source.next("<|python_end|>")
            return
        following: str | None = "{"
        while following:
            if following == ";":
                yield from source.expect("{")
            yield from read_call(source, calls, opened=True)
            following = yield from source.next(";", "{")

    def grammar(self, grammar: Grammar, tools: Sequence[Tool], parallel: bool) -> str:
        if self._pythonic:
            call = grammar.choice([_write_python(grammar, tool) for tool in tools])
            more = f"({grammar.literal(', ')} {call})*" if parallel else ""
            return grammar.sequence(call, more, grammar.literal("]"))
        call = grammar.choice([write_call(grammar, tool, "parameters") for tool in tools])
        return f"{call} ({grammar.literal('; ')} {call})*" if parallel else call


class Glm0414(ToolFormat):
    """The name on the first line, JSON on the next: GLM-4-0414 and GLM-Z1. Other answers begin with an empty line."""

    name = "glm-4-0414"
    opening = ""

    def markers(self) -> tuple[str, ...]:
        return ()

    def beginnings(self, tools: Mapping[str, Tool]) -> tuple[str, ...]:
        return tuple(f"{name}\n" for name in tools)

    def answer(self) -> str:
        return r"/\n(.|\n)*/"

    def read(self, source: Reader, calls: Calls, marker: str) -> Steps[None]:
        calls.start(marker.strip())
        yield from source.json_object(calls.arguments)
        calls.end()

    def grammar(self, grammar: Grammar, tools: Sequence[Tool], parallel: bool) -> str:
        return grammar.choice(
            [grammar.sequence(grammar.literal(f"{tool.name}\n"), grammar.arguments(tool.schema)) for tool in tools]
        )


def _read_python(source: Reader, calls: Calls) -> Steps[None]:
    """`name(key=value, …), …]`: calls as Python writes them, with literals for values."""
    while True:
        name, _ = yield from source.upto("(")
        calls.start(name.strip())
        separator, keys = "{", set()
        end = yield from source.next(")")
        while end != ")":
            key, _ = yield from source.upto("=")
            value, end = yield from _python_value(source)
            if (key := key.strip()) in keys or not key.isidentifier():
                raise MalformedError
            keys.add(key)
            calls.arguments(f"{separator}{json.dumps(key, ensure_ascii=False)}: {value}")
            separator = ", "
            if end == "," and (yield from source.next(")")):  # a comma may stand after the last
                end = ")"
        calls.arguments("}" if keys else "{}")
        calls.end()
        if (yield from source.expect(",", "]")) == "]":
            return


def _python_value(source: Reader) -> Steps[tuple[str, str]]:
    """(a literal as JSON, the comma or bracket after it)."""
    parts: list[str] = []
    depth = 0
    while True:
        found = yield from source.until(("'", '"', "[", "{", "(", "]", "}", ")", ","), parts.append)
        if found is None:
            raise MalformedError
        if depth == 0 and found in ",)":
            return _python_as_json("".join(parts)), found
        parts.append(found)
        if found in "'\"":
            yield from _python_string(source, found, parts)
        elif found != ",":
            depth += 1 if found in "[{(" else -1


def _python_string(source: Reader, quote: str, parts: list[str]) -> Steps[None]:
    while True:
        found = yield from source.until(("\\\\", f"\\{quote}", quote), parts.append)
        if found is None:
            raise MalformedError
        parts.append(found)
        if found == quote:
            return


def _python_as_json(text: str) -> str:
    """A literal of JSON or of Python, as JSON."""
    try:
        load_json(text)
        return text.strip()
    except ValueError:
        pass
    if not _KNOWN_ESCAPES.fullmatch(text):  # of others Python would warn, on the server's own error stream
        raise MalformedError
    try:
        return json.dumps(ast.literal_eval(text.strip()), ensure_ascii=False, allow_nan=False)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        raise MalformedError from None


def _write_python(grammar: Grammar, tool: Tool) -> str:
    """The call with its required arguments in the order of the schema, then any of the others in that order."""
    properties, required, others = members(tool.schema)
    if others is not None:
        raise UnconstrainableError
    arguments = {key: _python_argument(grammar, key, schema, tool) for key, schema in properties.items()}
    needed = [rule for key, rule in arguments.items() if key in required]
    optional = [rule for key, rule in arguments.items() if key not in required]
    comma = grammar.literal(", ")
    listed = f" {comma} ".join(needed)
    if needed:
        listed = grammar.sequence(listed, *(f"({comma} {rule})?" for rule in optional))
    elif optional:  # any of them may be the first
        tails = [
            grammar.sequence(rule, *(f"({comma} {later})?" for later in optional[at + 1 :]))
            for at, rule in enumerate(optional)
        ]
        listed = f"({' | '.join(tails)})?"
    return grammar.sequence(grammar.literal(f"{tool.name}("), listed, grammar.literal(")"))


def _python_argument(grammar: Grammar, key: str, schema: object, tool: Tool) -> str:
    types = types_of(schema, tool.schema)
    head = grammar.literal(f"{key}=")
    if types == {"boolean"}:
        return grammar.rule(f'{head} ("True" | "False")')
    return grammar.rule(grammar.sequence(head, grammar.json(schema, tool.schema)))
