"""What every family's way of writing tool calls can do."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

from freehold.text.formats.calls import Calls, Tool
from freehold.text.formats.grammar import Grammar
from freehold.text.formats.reader import Reader, Steps


class ToolFormat(ABC):
    """One family's tool calls: how they are read, and the grammar that holds a model to them."""

    name: str
    opening: str  # what the family writes first, however many calls follow

    def markers(self) -> tuple[str, ...]:
        """The texts that begin a call wherever they come."""
        return (self.opening,)

    def beginnings(self, tools: Mapping[str, Tool]) -> tuple[str, ...]:
        """The texts that begin a call only where the answer begins."""
        return ()

    def answer(self) -> str | None:
        """The regex of an answer that is no call, where the answer's beginning tells; None where `opening` does."""
        return None

    @abstractmethod
    def read(self, source: Reader, calls: Calls, marker: str) -> Steps[None]:
        """Read what follows `marker`; raises MalformedError where it is no call."""

    @abstractmethod
    def grammar(self, grammar: Grammar, tools: Sequence[Tool], parallel: bool) -> str:
        """What follows `opening`: one call, or with `parallel` at least one. Raises UnconstrainableError."""
