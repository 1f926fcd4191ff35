"""Stop strings in a stream of text."""

from collections.abc import Sequence


class StopStrings:
    """Passes text on up to the first stop string, holding back only what may be the beginning of one."""

    def __init__(self, stops: Sequence[str]):
        self._stops = [stop for stop in stops if stop]
        self._held = ""
        self.found: str | None = None  # the one that was reached

    def push(self, piece: str) -> tuple[str, bool]:
        """(text to pass on, whether a stop string was reached)."""
        if not self._stops:
            return piece, False
        text = self._held + piece
        found = [(at, stop) for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            at, self.found = min(found)
            self._held = ""
            return text[:at], True
        keep = max(self._beginning(text, stop) for stop in self._stops)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep], False

    @staticmethod
    def _beginning(text: str, stop: str) -> int:
        """Length of the longest end of `text` with which `stop` begins."""
        return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)

    def finish(self) -> str:
        """The text that was held back, when no more is to come."""
        held, self._held = self._held, ""
        return held
