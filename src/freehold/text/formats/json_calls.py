"""Families whose calls hold their arguments as one JSON object."""

import json
from collections.abc import Sequence

from freehold.text.formats.base import ToolFormat
from freehold.text.formats.calls import Calls, Tool
from freehold.text.formats.grammar import Grammar
from freehold.text.formats.reader import MalformedError, Reader, Steps
from freehold.text.formats.values import load_json


def read_call(source: Reader, calls: Calls, *, opened: bool = False) -> Steps[None]:
    """An object with `name` and `arguments` (or `parameters`); `opened`: its brace has been read."""
    if not opened:
        yield from source.expect("{")
    early: list[str] = []  # arguments that come before the name
    separator, named, argued = ",", False, False
    while separator == ",":
        key = yield from source.json_string()
        yield from source.expect(":")
        if key == '"name"':
            calls.start(_string((yield from source.json_string())))
            named = True
        elif key in ('"arguments"', '"parameters"') and not argued:
            yield from source.json_object(calls.arguments if named else early.append)
            argued = True
        elif key in ('"id"', '"type"'):
            yield from source.json_value(lambda piece: None)
        else:
            raise MalformedError
        separator = yield from source.expect(",", "}")
    if early or not argued:
        calls.arguments("".join(early) or "{}")
    calls.end()


def write_call(grammar: Grammar, tool: Tool, key: str, end: str = "}") -> str:
    head = f'{{"name": {json.dumps(tool.name, ensure_ascii=False)}, "{key}": '
    return grammar.sequence(grammar.literal(head), grammar.arguments(tool.schema), grammar.literal(end))


def _string(quoted: str) -> str:
    try:
        return load_json(quoted)
    except ValueError:
        raise MalformedError from None


class Hermes(ToolFormat):
    """`<tool_call>` {"name": …, "arguments": …} `</tool_call>`: Hermes, Qwen2.5, QwQ, Qwen3, ERNIE 4.5."""

    name = "hermes"
    opening, closing = "<tool_call>", "</tool_call>"

    def read(self, source: Reader, calls: Calls, marker: str) -> Steps[None]:
        while True:
            yield from read_call(source, calls)
            if (yield from source.next(self.closing)):
                return

    def grammar(self, grammar: Grammar, tools: Sequence[Tool], parallel: bool) -> str:
        bodies = [write_call(grammar, tool, "arguments", "}\n" + self.closing) for tool in tools]
        call = grammar.sequence(grammar.literal("\n"), grammar.choice(bodies))
        again = grammar.sequence(grammar.literal("\n" + self.opening), call)
        return f"{call} ({again})*" if parallel else call


class MiniMaxM1(Hermes):
    """`<tool_calls>`, one JSON call a line, `</tool_calls>`."""

    name = "minimax-m1"
    opening, closing = "<tool_calls>", "</tool_calls>"

    def grammar(self, grammar: Grammar, tools: Sequence[Tool], parallel: bool) -> str:
        line = grammar.choice([write_call(grammar, tool, "arguments", "}\n") for tool in tools])
        lines = f"{line}+" if parallel else line
        return grammar.sequence(grammar.literal("\n"), lines, grammar.literal(self.closing))


class DeepSeek(ToolFormat):
    """DeepSeek V3 and R1, where the arguments stand in a fence of Markdown, and V3.1, where they do not."""

    opening, closing = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
    call = ("<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>")

    def __init__(self, fenced: bool):
        self.name = "deepseek-v3" if fenced else "deepseek-v3.1"
        self._fenced = fenced

    def read(self, source: Reader, calls: Calls, marker: str) -> Steps[None]:
        begin, separator, end = self.call
        yield from source.expect(begin)
        while True:
            name, _ = yield from source.upto(separator)
            if self._fenced:  # what came before the separator was the type of the call
                name, _ = yield from source.upto("\n")
                yield from source.expect("```json")
            calls.start(name.strip())
            yield from source.json_object(calls.arguments)
            calls.end()
            if self._fenced:
                yield from source.next("```")
            yield from source.next(end)
            source.forget()  # the reply may end here
            if (yield from source.expect(begin, self.closing)) == self.closing:
                return

    def grammar(self, grammar: Grammar, tools: Sequence[Tool], parallel: bool) -> str:
        begin, separator, end = self.call
        before, after = (f"{begin}function{separator}", "\n```json\n") if self._fenced else (begin, separator)
        last = grammar.literal(f"\n```{end}" if self._fenced else end)
        heads = {tool: grammar.literal(before + tool.name + after) for tool in tools}
        call = grammar.choice(
            [grammar.sequence(head, grammar.arguments(tool.schema), last) for tool, head in heads.items()]
        )
        again = grammar.sequence(grammar.literal("\n"), call) if self._fenced else call
        return grammar.sequence(call, f"({again})*" if parallel else "", grammar.literal(self.closing))


class KimiK2(ToolFormat):
    """`functions.NAME:INDEX` and JSON between special tokens: Kimi K2 and K2 Thinking."""

    name = "kimi-k2"
    opening, closing = "<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"
    call = ("<|tool_call_begin|>", "<|tool_call_argument_begin|>", "<|tool_call_end|>")

    def read(self, source: Reader, calls: Calls, marker: str) -> Steps[None]:
        begin, separator, end = self.call
        yield from source.expect(begin)
        while True:
            label, _ = yield from source.upto(separator)
            calls.start(label.strip().removeprefix("functions.").rpartition(":")[0])
            yield from source.json_object(calls.arguments)
            calls.end()
            yield from source.next(end)
            source.forget()  # the reply may end here
            if (yield from source.expect(begin, self.closing)) == self.closing:
                return

    def grammar(self, grammar: Grammar, tools: Sequence[Tool], parallel: bool) -> str:
        begin, separator, end = self.call
        index, middle, last = grammar.text("/[0-9]{1,4}/"), grammar.literal(separator), grammar.literal(end)
        heads = {tool: grammar.literal(f"{begin}functions.{tool.name}:") for tool in tools}
        call = grammar.choice(
            [
                grammar.sequence(head, index, middle, grammar.arguments(tool.schema), last)
                for tool, head in heads.items()
            ]
        )
        return grammar.sequence(f"{call}+" if parallel else call, grammar.literal(self.closing))


class Mistral(ToolFormat):
    """`[TOOL_CALLS]` and a JSON list; in later models a name, in some `[CALL_ID]` and an id, `[ARGS]` and JSON."""

    opening = "[TOOL_CALLS]"

    def __init__(self, listed: bool, call_id: bool = False):
        self.name = "mistral-list" if listed else "mistral"
        self._listed = listed
        self._call_id = call_id

    def read(self, source: Reader, calls: Calls, marker: str) -> Steps[None]:
        if (yield from source.next("[")) is None:
            yield from self._read_named(source, calls)
            return
        while True:
            yield from read_call(source, calls)
            if (yield from source.expect(",", "]")) == "]":
                return

    def _read_named(self, source: Reader, calls: Calls) -> Steps[None]:
        name, found = yield from source.upto("[ARGS]", "[CALL_ID]")
        if found == "[CALL_ID]":
            yield from source.upto("[ARGS]")
        calls.start(name.strip())
        yield from source.json_object(calls.arguments)
        calls.end()

    def grammar(self, grammar: Grammar, tools: Sequence[Tool], parallel: bool) -> str:
        return self._list(grammar, tools, parallel) if self._listed else self._named(grammar, tools, parallel)

    def _list(self, grammar: Grammar, tools: Sequence[Tool], parallel: bool) -> str:
        bodies = [write_call(grammar, tool, "arguments", ', "id": "') for tool in tools]
        call = grammar.sequence(grammar.choice(bodies), _mistral_id(grammar), grammar.literal('"}'))
        more = f"({grammar.literal(', ')} {call})*" if parallel else ""
        return grammar.sequence(grammar.literal("["), call, more, grammar.literal("]"))

    def _named(self, grammar: Grammar, tools: Sequence[Tool], parallel: bool) -> str:
        label = f"{grammar.literal('[CALL_ID]')} {_mistral_id(grammar)}" if self._call_id else ""
        middle = grammar.literal("[ARGS]")
        call = grammar.choice(
            [
                grammar.sequence(grammar.literal(tool.name), label, middle, grammar.arguments(tool.schema))
                for tool in tools
            ]
        )
        return f"{call} ({grammar.literal(self.opening)} {call})*" if parallel else call


def _mistral_id(grammar: Grammar) -> str:
    return grammar.text("/[a-zA-Z0-9]{9}/")
