"""Token ids to text while they come, never half a character."""

import codecs

from freehold.text.tokenizer import Tokenizer


class Detokenizer:
    """Feeds tokens' bytes through an incremental UTF-8 decoder; what it gives in all equals `Tokenizer.decode`."""

    def __init__(self, tokenizer: Tokenizer, *, skip_special: bool = True):
        self._tokenizer, self._skip_special = tokenizer, skip_special
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._at_start = tokenizer.strips_first_space

    def push(self, token: int) -> str:
        """The characters that this token completes; special tokens give none where they are skipped."""
        if self._skip_special and self._tokenizer.is_special(token):
            return ""
        data = self._tokenizer.piece(token)
        if self._at_start and data:
            data, self._at_start = data.removeprefix(b" "), False
        return self._decoder.decode(data)

    def finish(self) -> str:
        """What is left of an unfinished character, as U+FFFD."""
        return self._decoder.decode(b"", final=True)
