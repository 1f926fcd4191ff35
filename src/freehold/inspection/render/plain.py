"""Text of unknown intent made inert: control characters and marks that reorder text are shown, never sent."""

import re
from typing import Any

# C0 and C1 controls (among them the escape that commands a terminal), invisible marks and those that turn the direction
# of text, separators of lines, and code points that are no characters.
_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff]")


def plain(text: str) -> str:
    """One line of text with every unsafe character written out, as in \\x1b."""
    return _UNSAFE.sub(_written_out, " ".join(text.split()))


def _written_out(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"


def plain_value(value: Any) -> Any:
    """The same for every string of a value that is made of dictionaries and lists."""
    if isinstance(value, str):
        return plain(value)
    if isinstance(value, dict):
        return {plain(str(key)): plain_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_value(item) for item in value]
    return value
