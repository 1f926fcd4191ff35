"""A model's reply taken apart: reasoning, answer and tool calls, each family in its own way of writing them.

    format = ReplyFormat.detect(template.source, special_tokens)
    parser = format.parser(tools=tools, prompt_tail=prompt[-200:])
    deltas = parser.push(text)   # …
    deltas = parser.finish()

What is pushed must show special tokens: most families mark calls and reasoning with them.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from freehold.errors import RequestError
from freehold.text.deltas import Delta, Reasoning, Text, ToolCallArguments, ToolCallEnd, ToolCallStart
from freehold.text.formats import harmony
from freehold.text.formats.base import ToolFormat
from freehold.text.formats.calls import Calls, Tool, tools_of
from freehold.text.formats.detect import Detected, detect
from freehold.text.formats.grammar import Grammar, UnconstrainableError
from freehold.text.formats.reader import MalformedError, Reader, Steps

__all__ = [
    "Delta",
    "Reasoning",
    "ReplyFormat",
    "ReplyParser",
    "Text",
    "ToolCallArguments",
    "ToolCallEnd",
    "ToolCallStart",
]


@dataclass(frozen=True)
class ReplyFormat:
    """How one model writes reasoning and tool calls.

    `name` is the family's format ("plain": neither is known, replies are text alone); `reasoning` the texts that open
    and close its reasoning; `tools` the name of its way of writing calls.
    """

    name: str
    reasoning: tuple[str, str] | None
    tools: str | None
    _detected: Detected = field(repr=False)
    _special: Mapping[str, int | None] = field(repr=False)

    @property
    def answer_opening(self) -> str | None:
        """The text after which the answer comes; None: that which closes the reasoning."""
        return harmony.FINAL if self._detected.is_harmony else None

    @property
    def forced(self) -> str:
        """What closes the reasoning and begins the answer, as the family's replies have it."""
        if self._detected.is_harmony:
            return f"{harmony.END}{harmony.START}assistant{harmony.FINAL}"
        return f"\n{self.reasoning[1]}\n\n" if self.reasoning else ""

    @classmethod
    def detect(cls, template_source: str | None, special_tokens: Iterable[str] | Mapping[str, int]) -> "ReplyFormat":
        """By deciding texts in the chat template and the texts of the special tokens.

        `special_tokens` are those that the grammar's tokenizer takes for special, with their ids where a mapping is
        given: a token such as `[TOOL_CALLS]` can be named in a grammar by its id only.
        """
        ids = special_tokens if isinstance(special_tokens, Mapping) else dict.fromkeys(special_tokens)
        found = detect(template_source, ids)
        tools = "harmony" if found.is_harmony else found.tools.name if found.tools else None
        return cls(found.name, found.reasoning, tools, found, ids)

    def parser(
        self, *, tools: Sequence[Mapping[str, Any]] | None = None, prompt_tail: str = "", constrained: bool = False
    ) -> "ReplyParser":
        """A parser for one reply.

        `tools` are the request's, in OpenAI's shape; without them calls are text. `prompt_tail` is the end of the
        prompt, since templates open the reasoning themselves. A call is given out when it is known to be whole and
        sound; `constrained` says that the reply keeps to `tool_grammar`, so that arguments may stream as they come.
        """
        return ReplyParser(self._detected, tools, prompt_tail, constrained)

    def tool_grammar(
        self,
        tools: Sequence[Mapping[str, Any]],
        *,
        choice: str,
        parallel: bool,
        prompt_tail: str | None = None,
        answer_schema: Any = None,
    ) -> str | None:
        """A Lark grammar for llguidance of the whole reply: reasoning, then answer or calls with sound arguments.

        `choice` is "auto", "required", "none" or a tool's name. Given `prompt_tail`, the end of the prompt, the
        grammar holds the reply to close the reasoning that the prompt has opened and allows none where it has closed
        it; without, reasoning may also be closed that was never opened, and text may come before a required call.
        Given `answer_schema`, an answer that is no call is JSON of this schema.

        Returns None where calls cannot be constrained: the family writes none; "none" where any beginning of an answer
        may be a call (Llama, GLM-4-0414); a schema with conditions on the arguments as a whole (anyOf, $ref, … at its
        top) or on a string twice (pattern and length) where the family writes arguments one by one, outside JSON; a
        special token that is named by neither `<…>` nor an id. Raises RequestError when there is no tool `choice`.
        """
        known = tools_of(tools)
        if choice not in ("auto", "required", "none"):
            if choice not in known:
                raise RequestError(f"tool_choice: expected one of the tools {sorted(known)}, got {choice!r}")
            known, parallel = {choice: known[choice]}, False
        grammar = Grammar(self._special)
        offered = list(known.values())
        try:
            text = None if answer_schema is None else grammar.json(answer_schema, _root(answer_schema))
            if self._detected.is_harmony:
                return grammar.render(harmony.write(grammar, offered, choice, text))
            if self._detected.tools is None or not offered:
                return None
            strict = prompt_tail is not None
            body = _answer_grammar(grammar, self._detected, offered, choice, parallel, strict, text)
            return grammar.render(grammar.sequence(self._reasoning_grammar(grammar, prompt_tail), body))
        except UnconstrainableError:
            return None

    def _reasoning_grammar(self, grammar: Grammar, prompt_tail: str | None) -> str:
        if self.reasoning is None:
            return ""
        opening, closing = self.reasoning
        thoughts = grammar.upto(closing)
        if prompt_tail is not None and _opened(self._detected, prompt_tail):
            return thoughts
        if prompt_tail is not None and prompt_tail.rstrip().endswith(closing):
            return ""
        opened = grammar.sequence(grammar.newlines(), grammar.literal(opening))
        return f"({opened} {thoughts})?" if prompt_tail is not None else f"(({opened})? {thoughts})?"


def _opened(format: Detected, prompt_tail: str) -> bool:
    """Whether the reply goes on inside the reasoning."""
    if format.reasoning is None:
        return False
    opening, closing = format.reasoning
    tail = prompt_tail.rstrip()
    return tail.endswith(opening) or (format.reasons_first and not tail.endswith(closing))


def _answer_grammar(
    grammar: Grammar,
    format: Detected,
    tools: list[Tool],
    choice: str,
    parallel: bool,
    strict: bool,
    text: str | None,
) -> str:
    """The part of the reply after the reasoning; `strict`: it is known where that ends; `text`: what answers are."""
    writes = format.tools
    assert writes is not None
    answer = writes.answer()
    if text is not None and (answer is not None or choice == "none"):
        raise UnconstrainableError  # JSON that answers looks like a call
    if choice == "none":
        if answer is not None:
            raise UnconstrainableError
        return _text_grammar(grammar, format, grammar.without(writes.opening))
    calls = writes.grammar(grammar, tools, parallel)
    opening = grammar.literal(writes.opening)
    if choice != "auto" and not strict and format.reasoning is not None and answer is None:
        return f"{grammar.upto(writes.opening)} {calls}"  # the text before may be reasoning
    if choice != "auto":
        return grammar.sequence(grammar.newlines(), opening, calls)
    if answer is not None:
        return f"({grammar.text(answer)} | {grammar.sequence(opening, calls)})"
    if text is not None:
        called = grammar.sequence(grammar.newlines(), opening, calls)
        return f"({grammar.sequence(grammar.newlines(), _text_grammar(grammar, format, text))} | {called})"
    return f"({_text_grammar(grammar, format, grammar.text())} | {grammar.upto(writes.opening)} {calls})"


def _text_grammar(grammar: Grammar, format: Detected, text: str) -> str:
    """An answer in words, perhaps between the tags that the family puts around it."""
    if not format.wrapper:
        return text
    first, last = map(grammar.literal, format.wrapper)
    gap = grammar.newlines()
    return f"({text} | {gap} {first} {gap} {text} {gap} {last} {gap})"


def _root(schema: Any) -> Mapping[str, Any]:
    return schema if isinstance(schema, Mapping) else {}


class ReplyParser:
    """Reads one reply; `reasoning_open` says whether it stands inside the reasoning now."""

    def __init__(
        self, format: Detected, tools: Sequence[Mapping[str, Any]] | None, prompt_tail: str, constrained: bool
    ):
        self._format = format
        self._reader = Reader()
        self._deltas: list[Delta] = []
        self._text = _Trimmed(lambda text: self._emit(Text(text)))
        self._kinds: set[type] = set()  # of harmony's messages so far
        self._calls = Calls(tools_of(tools or ()), constrained, self._emit_call, self._text.restart)
        self.reasoning_open = _opened(format, prompt_tail)
        if format.is_harmony:
            self._reader.feed(harmony.begun(prompt_tail))
            self._steps = harmony.read(self._reader, self._calls, self._begin_message, self._end_message)
        else:
            self._steps = self._read(
                closed=bool(format.reasoning) and prompt_tail.rstrip().endswith(format.reasoning[1])
            )
        self._advance()

    def push(self, text: str) -> list[Delta]:
        """What `text`, the next piece of the reply, completes."""
        self._reader.feed(text)
        return self._advance()

    def finish(self) -> list[Delta]:
        """What was held back; the reply is over."""
        self._reader.close()
        return self._advance()

    def _advance(self) -> list[Delta]:
        next(self._steps, None)
        deltas, self._deltas = self._deltas, []
        return deltas

    def _emit(self, delta: Delta) -> None:
        """Adds `delta`, to the one before where both are pieces of the same text."""
        match self._deltas[-1:], delta:
            case [Text(before)], Text(text):
                self._deltas[-1] = Text(before + text)
            case [Reasoning(before)], Reasoning(text):
                self._deltas[-1] = Reasoning(before + text)
            case [ToolCallArguments(index, before)], ToolCallArguments(_, fragment):
                self._deltas[-1] = ToolCallArguments(index, before + fragment)
            case _:
                self._deltas.append(delta)

    def _emit_call(self, delta: Delta) -> None:
        self._emit(delta)
        self._reader.forget()  # what has gone out as a call is not text

    def _read(self, closed: bool) -> Steps[None]:
        if self._format.reasoning is not None and not closed:
            closed = yield from self._read_reasoning(*self._format.reasoning)
        if closed or (self._format.tools is not None and self._format.tools.answer() is not None):
            self._text.restart()  # these families begin an answer on a new line
        yield from self._read_answer()
        self._text.finish()

    def _read_reasoning(self, opening: str, closing: str) -> Steps[bool]:
        """Reads the reasoning if there is any; returns whether it was closed."""
        format = self._format.tools if self._calls.tools else None
        markers = format.markers() if format else ()
        found = yield from self._reader.next(opening, closing, *markers)
        if (
            format is not None and found is not None and found in markers
        ):  # a call without a thought, even where one was expected
            self.reasoning_open = False
            self._reader.record(found)
            yield from self._read_calls(format, found)
            return False
        if found is None and not self.reasoning_open:
            return False
        if found == closing:
            self.reasoning_open = False
            return True
        self.reasoning_open = True
        thoughts = _Trimmed(lambda text: self._emit(Reasoning(text)))
        thoughts.restart()
        if (yield from self._reader.until((closing,), thoughts.push)) is None:
            thoughts.finish()
            return False
        self.reasoning_open = False
        return True

    def _read_answer(self) -> Steps[None]:
        format = self._format.tools if self._calls.tools else None
        if format is not None:
            self._reader.record()
            marker = yield from self._reader.next(*format.beginnings(self._calls.tools))
            if marker is not None:
                yield from self._read_calls(format, marker)
        markers = (*self._format.wrapper, *(format.markers() if format else ()))
        while (marker := (yield from self._reader.until(markers, self._text.push))) is not None:
            if format is None or marker in self._format.wrapper:
                self._text.restart()
            else:
                self._reader.record(marker)
                yield from self._read_calls(format, marker)

    def _read_calls(self, format: ToolFormat, marker: str) -> Steps[None]:
        try:
            yield from format.read(self._reader, self._calls, marker)
            self._reader.recorded()
        except MalformedError:
            text = self._reader.recorded()
            self._calls.abandon()
            self._text.push(text)

    def _begin_message(self, channel: str) -> Callable[[str], None]:
        """Where the text of a message of harmony goes; messages of one kind are set apart by an empty line."""
        kind = Reasoning if channel == "analysis" else Text
        self.reasoning_open = kind is Reasoning
        gap = "\n\n" if kind in self._kinds else ""

        def emit(text: str) -> None:
            nonlocal gap
            self._emit(kind(gap + text))
            self._kinds.add(kind)
            gap = ""

        return emit

    def _end_message(self) -> None:
        self.reasoning_open = False


class _Trimmed:
    """Passes text on; whitespace beside a marker is the family's layout and no part of the text."""

    def __init__(self, emit: Callable[[str], None]):
        self._emit = emit
        self._held = ""  # whitespace that may turn out to stand before a marker
        self._starts = False  # after a marker

    def push(self, text: str) -> None:
        text = self._held + text
        if self._starts:
            text = text.lstrip("\n")
        kept = text.rstrip()
        self._held = text[len(kept) :]
        if kept:
            self._starts = False
            self._emit(kept)

    def restart(self) -> None:
        """A marker came: what was held is layout, and so are newlines that follow."""
        self._held, self._starts = "", True

    def finish(self) -> None:
        if self._held and not self._starts:
            self._emit(self._held)
        self._held = ""
