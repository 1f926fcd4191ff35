"""Grammars that a reply keeps to, by llguidance: JSON schemas, regular expressions, Lark grammars, choices.

grammars = Grammars(tokenizer)
constraint = grammars.matcher(json_schema(schema))      # one for each reply
model.chat(messages, constraint=constraint)
"""

import json
import re
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import llguidance

from freehold.errors import RequestError
from freehold.text.tokenizer import Tokenizer

MAX_GRAMMAR_BYTES = 256 << 10
MAX_DEPTH = 64
MAX_CHOICES = 1000


def json_schema(schema: Mapping[str, Any] | bool) -> str:
    """The grammar of JSON that satisfies `schema`. Raises RequestError where it is too large or not supported."""
    _check_depth(schema, MAX_DEPTH)
    text = _capped("the JSON schema", json.dumps(schema))
    try:
        return llguidance.LLMatcher.grammar_from_json_schema(text, overrides={"whitespace_pattern": "[ \\n]{0,4}"})
    except ValueError as error:
        raise RequestError(f"the JSON schema: {_first_line(error)}") from None


def json_object() -> str:
    """The grammar of any JSON object."""
    return json_schema({"type": "object"})


def regex(pattern: str) -> str:
    return llguidance.LLMatcher.grammar_from_regex(_capped("the regular expression", pattern))


def lark(text: str) -> str:
    return llguidance.LLMatcher.grammar_from_lark(_capped("the grammar", text))


def choice(choices: Sequence[str]) -> str:
    """One of the texts."""
    if not 0 < len(choices) <= MAX_CHOICES or not all(isinstance(text, str) and text for text in choices):
        raise RequestError(f"choice: expected 1 to {MAX_CHOICES} texts that are not empty")
    return regex("|".join(re.escape(text) for text in choices))


class Grammars:
    """Makes constraints for replies of one tokenizer's model. `vocabulary_size`: of the logits. Thread-safe."""

    def __init__(self, tokenizer: Tokenizer, vocabulary_size: int):
        self._vocabulary = _Vocabulary(tokenizer, vocabulary_size)
        self._lock = threading.Lock()
        self._made: Any = None

    def matcher(self, grammar: str) -> "Matcher":
        """A constraint for one reply. Raises RequestError for a grammar that is wrong or takes too much to compile."""
        matcher = llguidance.LLMatcher(self._tokenizer(), grammar, log_level=0, limits=_limits())
        if matcher.is_error():
            raise RequestError(f"the grammar: {_first_line(matcher.get_error())}")
        return Matcher(matcher)

    def _tokenizer(self) -> Any:
        with self._lock:  # made at the first use: it takes a second for a large vocabulary
            if self._made is None:
                self._made = llguidance.LLTokenizer(llguidance.TokenizerWrapper(self._vocabulary))
            return self._made


class Matcher:
    """A `Constraint` that holds a reply to one grammar."""

    def __init__(self, matcher: Any):
        self._matcher = matcher
        self.finished = False

    def mask(self) -> bytes | None:
        bits = self._matcher.compute_bitmask()
        self._check()
        return bits

    def accept(self, token: int) -> None:
        self._matcher.consume_token(token)
        self._check()
        self.finished = self._matcher.is_stopped()

    def forced(self) -> list[int]:
        return []

    def _check(self) -> None:
        if self._matcher.is_error():
            raise RequestError(f"the reply's grammar: {_first_line(self._matcher.get_error())}")


class AfterReasoning:
    """Lets a model think before it answers: at most `budget` tokens of reasoning, then `answer`'s constraint.

    `opening` is the text that begins the reasoning, None where the prompt has begun it; `closing` the text after which
    the answer comes, `forced` what is forced when the budget is spent and holds `closing`. With `whole`, the
    constraint is one of the reply from its beginning, reasoning included.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        opening: str | None,
        closing: str,
        forced: str,
        budget: int | None = None,
        answer: Any = None,
        whole: bool = False,
    ):
        self._tokenizer, self._budget = tokenizer, budget
        self._opening = opening.encode() if opening else None
        self._closing, self._forced = closing.encode(), forced
        self._answer, self._whole = answer, whole
        self._tail, self._spent, self._closed = b"", 0, False

    @property
    def finished(self) -> bool:
        return self._answer is not None and self._answer.finished

    def mask(self) -> bytes | None:
        return self._answer.mask() if self._answer and (self._closed or self._whole) else None

    def accept(self, token: int) -> None:
        if self._answer and (self._closed or self._whole):
            self._answer.accept(token)
        if not self._closed:
            self._note(token)

    def _note(self, token: int) -> None:
        longest = max(len(self._closing), len(self._opening or b""))
        piece = self._tokenizer.piece(token)
        self._tail = (self._tail + piece)[-longest - len(piece) :]
        self._closed = self._closing in self._tail
        if self._opening is None:
            self._spent += 1
        elif self._opening in self._tail:
            self._opening = None

    def forced(self) -> list[int]:
        if self._closed or self._opening is not None or self._budget is None or self._spent < self._budget:
            return []
        tokens = self._tokenizer.encode(self._forced, special=True)
        for token in tokens:
            if self._answer and self._whole:
                self._answer.accept(token)
            if not self._closed:
                self._note(token)
        return tokens


class _Vocabulary:
    """The tokenizer as llguidance asks for it."""

    def __init__(self, tokenizer: Tokenizer, size: int):
        self._encode = tokenizer.encode
        self.eos_token_id = min(tokenizer.eos_ids, default=0)
        self.bos_token_id = tokenizer.bos_id
        known = range(min(size, tokenizer.vocab_size))
        self.tokens = [tokenizer.piece(token) for token in known] + [b""] * (size - len(known))
        self.special_token_ids = [token for token in known if tokenizer.is_special(token)]

    def __call__(self, text: str) -> list[int]:
        return self._encode(text, special=False)


def _limits() -> Any:
    return llguidance.LLParserLimits(max_grammar_size=200_000, step_lexer_fuel=500_000, initial_lexer_fuel=2_000_000)


def _check_depth(value: Any, left: int) -> None:
    if left < 0:
        raise RequestError(f"the JSON schema: more than {MAX_DEPTH} levels deep")
    for child in value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ():
        _check_depth(child, left - 1)


def _capped(what: str, text: str) -> str:
    if len(text.encode(errors="replace")) > MAX_GRAMMAR_BYTES:
        raise RequestError(f"{what}: longer than {MAX_GRAMMAR_BYTES >> 10} KiB")
    return text


def _first_line(error: object) -> str:
    return str(error).strip().split("\n")[0][:300]
