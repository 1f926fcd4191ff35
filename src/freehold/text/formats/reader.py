"""Text that comes in pieces, read as if it were there at once.

A reading step is a generator that yields whenever it needs more text, so a format is written top to bottom as if the
whole reply lay before it. No step decides before the text admits one decision only: how the text was cut into pieces
cannot change what is read.
"""

import re
from collections.abc import Callable, Generator
from typing import TypeVar

T = TypeVar("T")
Steps = Generator[None, None, T]

_JSON_EVENT = re.compile(r'["\\{}\[\]]')
_SCALAR_END = re.compile(r"[\s,}\]]")
_MAX_NAME = 1024  # characters that a tool's or an argument's name may have


class MalformedError(Exception):
    """What was taken for a call is none: it goes out as the text that it is."""


class Reader:
    """The text that has come and is not read yet, and a record of what was read since `record`."""

    def __init__(self) -> None:
        self._text = ""
        self._final = False
        self._record: list[str] | None = None

    def feed(self, text: str) -> None:
        self._text += text

    def close(self) -> None:
        """No more text will come."""
        self._final = True

    def record(self, beginning: str = "") -> None:
        """Remember what is read from here on, as if `beginning` had been read first."""
        self._record = [beginning]

    def forget(self) -> None:
        """What was read so far has its use: the record starts afresh, if there is one."""
        if self._record is not None:
            self._record = []

    def recorded(self) -> str:
        """What was read since `record`; ends the record."""
        text, self._record = "".join(self._record or []), None
        return text

    def _take(self, length: int) -> str:
        piece, self._text = self._text[:length], self._text[length:]
        if self._record is not None:
            self._record.append(piece)
        return piece

    def until(self, markers: tuple[str, ...], emit: Callable[[str], object]) -> Steps[str | None]:
        """Emit the text before the first of `markers`; returns that marker, or None at the end of the reply.

        What may be the beginning of a marker is held back until it is known not to be one.
        """
        pattern = re.compile("|".join(map(re.escape, sorted(markers, key=len, reverse=True))) or r"(?!)")
        while True:
            found = pattern.search(self._text)
            held = len(self._text) if self._final else self._first_beginning(markers)
            if found and found.start() < held:
                if found.start():
                    emit(self._take(found.start()))
                return self._take(len(found[0]))
            if held:
                emit(self._take(held))
            if self._final:
                return None
            yield

    def _first_beginning(self, markers: tuple[str, ...]) -> int:
        """Where the longest end of the text begins that is the beginning, but not all, of a marker."""
        size = len(self._text)
        longest = max(map(len, markers), default=1)
        ends = range(max(0, size - longest + 1), size)
        return next((at for at in ends if any(self._may_become(m, self._text[at:]) for m in markers)), size)

    @staticmethod
    def _may_become(marker: str, text: str) -> bool:
        return len(text) < len(marker) and marker.startswith(text)

    def next(self, *markers: str) -> Steps[str | None]:
        """The one of `markers` that comes next, after any whitespace; reads nothing and returns None if none does."""
        while True:
            text = self._text.lstrip()
            space = len(self._text) - len(text)
            undecided = any(self._may_become(marker, text) for marker in markers)
            if self._final or not undecided:
                found = next((m for m in sorted(markers, key=len, reverse=True) if text.startswith(m)), None)
                if found is not None:
                    self._take(space + len(found))
                return found
            yield

    def expect(self, *markers: str) -> Steps[str]:
        """Like `next`, but one of the markers must come."""
        found = yield from self.next(*markers)
        if found is None:
            raise MalformedError
        return found

    def upto(self, *markers: str) -> Steps[tuple[str, str]]:
        """(the text before the first of `markers`, the marker), for names: short, and on one line."""
        parts: list[str] = []

        def collect(piece: str) -> None:
            parts.append(piece)
            if sum(map(len, parts)) > _MAX_NAME:
                raise MalformedError

        marker = yield from self.until(markers, collect)
        if marker is None:
            raise MalformedError
        return "".join(parts), marker

    def json_value(self, emit: Callable[[str], object]) -> Steps[None]:
        """Emit the JSON value that comes next, piece by piece as it was written."""
        yield from self._skip_space()
        if self._text[0] in '{["':
            yield from self._json_balanced(emit)
        else:
            yield from self._json_scalar(emit)

    def json_object(self, emit: Callable[[str], object]) -> Steps[None]:
        """Emit the JSON object that comes next, piece by piece as it was written."""
        yield from self._skip_space()
        if self._text[0] != "{":
            raise MalformedError
        yield from self._json_balanced(emit)

    def json_string(self) -> Steps[str]:
        """The JSON string that comes next, still in quotes."""
        yield from self._skip_space()
        if self._text[0] != '"':
            raise MalformedError
        parts: list[str] = []
        yield from self._json_balanced(parts.append)
        return "".join(parts)

    def _skip_space(self) -> Steps[None]:
        """Read whitespace; afterwards there is a character."""
        while not self._text.lstrip():
            if self._final:
                raise MalformedError
            yield
        self._take(len(self._text) - len(self._text.lstrip()))

    def _json_balanced(self, emit: Callable[[str], object]) -> Steps[None]:
        """An object, array or string: up to the bracket or quote that closes it. Its inside is not checked here."""
        depth, in_string, at = 0, False, 0
        while True:
            found = _JSON_EVENT.search(self._text, at)
            if found is None:
                at = max(0, at - len(self._text))  # 1 after a backslash whose character is still to come
                if self._text:
                    emit(self._take(len(self._text)))
                while not self._text:
                    if self._final:
                        raise MalformedError
                    yield
                continue
            at = found.end()
            if found[0] == "\\":
                at += in_string
            elif found[0] == '"':
                in_string = not in_string
            elif not in_string:
                depth += 1 if found[0] in "{[" else -1
            if depth <= 0 and not in_string and found[0] != "\\":
                emit(self._take(at))
                return

    def _json_scalar(self, emit: Callable[[str], object]) -> Steps[None]:
        while (found := _SCALAR_END.search(self._text)) is None and not self._final:
            if len(self._text) > _MAX_NAME:
                raise MalformedError
            yield
        emit(self._take(found.start() if found else len(self._text)))
