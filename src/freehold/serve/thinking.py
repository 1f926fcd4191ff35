"""How far a model lets its reasoning be switched."""

from contextlib import suppress

from freehold.text.reply import ReplyFormat
from freehold.text.template import ChatTemplate


def reasoning_efforts(template: ChatTemplate | None, format: ReplyFormat) -> list[str]:
    """The values of `reasoning_effort` that the model's template tells apart; none where it knows no switch."""
    names: set[str] = set()
    if template and format.reasoning:
        with suppress(Exception):  # a broken template is reported to who uses it
            names = template.variable_names()
    switch = ["none"] if names & {"enable_thinking", "thinking"} else []
    if "reasoning_effort" in names:
        return [*switch, "low", "medium", "high"]
    return [*switch, "medium"] if switch else []
