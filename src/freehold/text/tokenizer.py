"""Text to token ids and back."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from freehold.errors import RequestError
from freehold.text.gguf_vocabulary import read_gguf_vocabulary
from freehold.text.published import read_published_vocabulary
from freehold.text.vocabulary import Encoder, Vocabulary, splitter


class Tokenizer:
    """One model's vocabulary, and how it encodes text."""

    def __init__(self, vocabulary: Vocabulary, encoder: Encoder):
        self._vocabulary, self._encoder = vocabulary, encoder
        self._tokens, self._special = vocabulary.tokens, vocabulary.special
        self._textless = vocabulary.textless
        self._split_all = splitter(self._special)
        self.kind, self.bos_id, self.eos_ids = vocabulary.kind, vocabulary.bos_id, vocabulary.eos_ids
        self.prefix_ids, self.chat_prefix_ids = vocabulary.prefix_ids, vocabulary.chat_prefix_ids
        self.suffix_ids = vocabulary.suffix_ids
        self._pieces: dict[int, bytes] = {}  # of the tokens seen so far: they come again

    @classmethod
    def from_gguf(cls, metadata: Mapping[str, Any]) -> "Tokenizer":
        """Raises UnsupportedError for a kind of tokenizer that is not here, ModelFileError for a damaged one."""
        return cls(*read_gguf_vocabulary(metadata))

    @classmethod
    def from_folder(cls, folder: Path) -> "Tokenizer":
        """That of a folder as a lab publishes it. Raises as `from_gguf`, and ModelNotFoundError when it has none."""
        return cls(*read_published_vocabulary(folder))

    @property
    def vocab_size(self) -> int:
        return len(self._tokens)

    @property
    def add_bos(self) -> bool:
        """Whether a prompt begins with BOS."""
        return self.bos_id is not None and self.bos_id in self.prefix_ids

    @property
    def special_tokens(self) -> Mapping[str, int]:
        """Texts of the special tokens, with their ids."""
        return self._special

    def id_of(self, text: str) -> int | None:
        """The id of a special token by its text."""
        return self._special.get(text)

    def is_special(self, token: int) -> bool:
        """Whether it stands for no text, as ids past the vocabulary do: models have more rows than tokens."""
        return token in self._textless or token >= len(self._tokens)

    def token_text(self, token: int | None) -> str:
        """The token's text as the vocabulary writes it; empty for no token."""
        return "" if token is None or token >= len(self._tokens) else self._tokens[token]

    def encode(self, text: str, *, special: bool = False, first: bool = True) -> list[int]:
        """Token ids of `text`, without BOS.

        With `special`, the texts of special tokens become their ids; without it they are plain text like any other.
        `first`: no other text stands before it. Raises RequestError for text that is not valid Unicode.
        """
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise RequestError(f"text: not valid Unicode at character {error.start}") from None
        return self._encoder(text, special, first)

    def split_control(self, text: str) -> Iterable[int | str]:
        """`text` cut at the texts of special tokens: their ids, and the plain text between them."""
        return self._split_all(text)

    def piece(self, token: int) -> bytes:
        """The bytes that a token stands for; those of a special token are its text."""
        piece = self._pieces.get(token)
        if piece is None:
            piece = self._pieces[token] = self._vocabulary.piece(token) if token < len(self._tokens) else b""
        return piece

    def decode(self, ids: Sequence[int], *, skip_special: bool = True) -> str:
        """Text of token ids; bytes that are not valid UTF-8 become U+FFFD."""
        data = b"".join(self.piece(i) for i in ids if not (skip_special and self.is_special(i)))
        if self.strips_first_space and data.startswith(b" "):
            data = data[1:]
        return data.decode(errors="replace")

    @property
    def strips_first_space(self) -> bool:
        return self._vocabulary.space_prefix
