"""The calls of one reply: known tools only, sound JSON only, each out whole or, where it may be, piece by piece."""

import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from freehold.text.deltas import Delta, ToolCallArguments, ToolCallEnd, ToolCallStart
from freehold.text.formats.reader import MalformedError
from freehold.text.formats.values import load_json


class Tool:
    """One tool of a request: its name and the schema of its arguments."""

    def __init__(self, declaration: Mapping[str, Any]):
        function = declaration.get("function", declaration)
        self.name: str = function["name"]
        self.schema: Mapping[str, Any] = function.get("parameters") or {"type": "object", "properties": {}}

    @property
    def properties(self) -> Mapping[str, Any]:
        return self.schema.get("properties") or {}


def tools_of(declarations: Sequence[Mapping[str, Any]]) -> dict[str, Tool]:
    """By name; each declaration in the shape of OpenAI, with or without its `function` envelope."""
    return {tool.name: tool for tool in map(Tool, declarations)}


class Calls:
    """Takes a call's name and arguments as they are read and gives its deltas to `emit`.

    A call goes out when it is complete and its arguments are a JSON object; with `constrained` they go out as they
    come, since a grammar vouches for them. `before` runs before the first delta of each call.
    """

    def __init__(
        self,
        tools: Mapping[str, Tool],
        constrained: bool,
        emit: Callable[[Delta], None],
        before: Callable[[], None],
    ):
        self.tools = tools
        self.started = 0
        self._constrained = constrained
        self._emit = emit
        self._before = before
        self._arguments: list[str] = []
        self._open: Tool | None = None

    def start(self, name: str) -> Tool:
        """Raises MalformedError when there is no such tool."""
        if name not in self.tools or self._open is not None:
            raise MalformedError
        self._open = self.tools[name]
        self._arguments = []
        if self._constrained:
            self._begin(name)
        return self._open

    def _begin(self, name: str) -> None:
        self._before()
        self._emit(ToolCallStart(self.started, f"call_{secrets.token_hex(12)}", name))
        self.started += 1

    def arguments(self, fragment: str) -> None:
        if self._constrained:
            self._emit(ToolCallArguments(self.started - 1, fragment))
        else:
            self._arguments.append(fragment)

    def end(self) -> None:
        """Raises MalformedError when the arguments are not a JSON object."""
        if self._open is None:
            raise MalformedError
        if not self._constrained:
            arguments = "".join(self._arguments)
            if not _is_object(arguments):
                raise MalformedError
            self._begin(self._open.name)
            self._emit(ToolCallArguments(self.started - 1, arguments))
        self._emit(ToolCallEnd(self.started - 1))
        self._open = None

    def abandon(self) -> None:
        """The call that is open will not be completed: a started one is ended, another was never there."""
        if self._open is not None and self._constrained:
            self._emit(ToolCallEnd(self.started - 1, whole=False))
        self._open = None


def _is_object(text: str) -> bool:
    try:
        return isinstance(load_json(text), dict)
    except ValueError:
        return False
