"""The pieces into which a reply is taken apart while it streams."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Text:
    """A piece of the answer itself."""

    text: str


@dataclass(frozen=True)
class Reasoning:
    """A piece of what the model thinks before it answers."""

    text: str


@dataclass(frozen=True)
class ToolCallStart:
    """A call of the tool `name` begins; `index` counts the calls of one reply from 0."""

    index: int
    id: str
    name: str


@dataclass(frozen=True)
class ToolCallArguments:
    """The next piece of a call's arguments; all pieces together are one JSON object."""

    index: int
    fragment: str


@dataclass(frozen=True)
class ToolCallEnd:
    """The call is over; `whole`: it is complete, not cut short by a limit or a stop string."""

    index: int
    whole: bool = True


Delta = Text | Reasoning | ToolCallStart | ToolCallArguments | ToolCallEnd
