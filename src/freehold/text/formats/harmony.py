"""gpt-oss's harmony: a reply is messages with headers, each on a channel and perhaps to a recipient.

`<|channel|>analysis<|message|>` is reasoning, `final` the answer, `commentary` the answer's preamble or, with a
recipient `functions.NAME` in its header, a call. Reference: the harmony response format, openai/harmony.
"""

import re
from collections.abc import Callable, Sequence

from freehold.text.formats.calls import Calls, Tool
from freehold.text.formats.grammar import Grammar
from freehold.text.formats.reader import MalformedError, Reader, Steps

START, CHANNEL, MESSAGE, END = "<|start|>", "<|channel|>", "<|message|>", "<|end|>"
_ENDS = (END, "<|call|>", "<|return|>", START)
REASONING = (f"{CHANNEL}analysis{MESSAGE}", END)
FINAL = f"{CHANNEL}final{MESSAGE}"
_RECIPIENT = re.compile(r"to=([^\s<]+)")
_CHANNEL = re.compile(r"<\|channel\|>\s*(\w+)")


def begun(prompt_tail: str) -> str:
    """The header, or part of one, that the prompt has already written for the reply."""
    return prompt_tail.rpartition(f"{START}assistant")[2]


def read(
    source: Reader,
    calls: Calls,
    begin: Callable[[str], Callable[[str], None]],
    finish: Callable[[], None],
) -> Steps[None]:
    """Read messages; `begin(channel)` gives what takes a message's text, `finish` ends that message."""
    while True:
        source.record()
        header: list[str] = []
        if (yield from source.until((MESSAGE,), header.append)) is None:
            left = source.recorded()
            if left.strip() and not (START + "assistant").startswith(left.strip()):
                begin("final")(left)
                finish()
            return
        text = "".join(header)
        recipient, channel = _RECIPIENT.search(text), _CHANNEL.search(text)
        if recipient is not None and recipient[1].startswith("functions."):
            try:
                yield from _read_call(source, calls, recipient[1].removeprefix("functions."))
                source.recorded()
                continue
            except MalformedError:
                raw = source.recorded()
                calls.abandon()
                emit = begin("final")
                emit(raw)
        elif recipient is not None:
            emit = begin("final")
            emit(source.recorded())
        else:
            source.recorded()
            emit = begin(channel[1] if channel else "final")
        yield from source.until(_ENDS, emit)
        finish()


def _read_call(source: Reader, calls: Calls, name: str) -> Steps[None]:
    calls.start(name)
    yield from source.json_object(calls.arguments)
    calls.end()
    yield from source.next(*_ENDS)


def write(grammar: Grammar, tools: Sequence[Tool], choice: str, answer: str | None = None) -> str:
    """The start rule's body: perhaps reasoning and a preamble, then the answer (the rule `answer`) or calls.

    The model ends its turn after a call (`<|call|>` is an end of reply), so there is never more than one call.
    """
    text = grammar.text()

    def message(header: str) -> str:
        return grammar.sequence(grammar.literal(header + MESSAGE), text)

    between = grammar.literal(f"{END}{START}assistant")
    analysis = grammar.sequence(message(f"{CHANNEL}analysis"), between)
    preamble = grammar.sequence(message(f"{CHANNEL}commentary"), between)
    heads = [(f" to=functions.{tool.name}{CHANNEL}commentary json{MESSAGE}", tool) for tool in tools] + [
        (f"{CHANNEL}commentary to=functions.{tool.name} <|constrain|>json{MESSAGE}", tool) for tool in tools
    ]
    call = grammar.choice(
        [grammar.sequence(grammar.literal(head), grammar.arguments(tool.schema)) for head, tool in heads]
    )
    final = grammar.sequence(grammar.literal(FINAL), answer or text)
    last = {"auto": f"({call} | {final})", "none": final}.get(choice, call)
    return grammar.sequence(f"({analysis} | {preamble})*", last)
