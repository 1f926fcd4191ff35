"""Token ids to text while they come, never half a character."""

import codecs

from freehold.text.tokenizer import Tokenizer


class Detokenizer:
    """Decodes tokens' bytes as far as they are whole characters; what it gives in all equals `Tokenizer.decode`."""

    def __init__(self, tokenizer: Tokenizer, *, skip_special: bool = True):
        self._tokenizer, self._skip_special = tokenizer, skip_special
        self._held = b""  # the beginning of a character
        self._at_start = tokenizer.strips_first_space

    def push(self, token: int) -> str:
        """The characters that this token completes; special tokens give none where they are skipped."""
        if self._skip_special and self._tokenizer.is_special(token):
            return ""
        data = self._tokenizer.piece(token)
        if self._at_start and data:
            data, self._at_start = data.removeprefix(b" "), False
        return self._decode(data, final=False)

    def finish(self) -> str:
        """What is left of an unfinished character, as U+FFFD."""
        return self._decode(b"", final=True)

    def _decode(self, data: bytes, *, final: bool) -> str:
        data = self._held + data
        text, length = codecs.utf_8_decode(data, "replace", final)
        self._held = data[length:]
        return text
