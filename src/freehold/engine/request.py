"""A request: its tokens, how they are drawn, and where its events go."""

import logging
import math
import operator
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from freehold.engine.speculation import Speculation
from freehold.errors import FreeholdError, RequestError

MAX_LOGPROBS = 20
_log = logging.getLogger("freehold.engine")


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How the next token is drawn; names and meanings as in the OpenAI API, or the papers where it has none.

    Order: logit bias, penalties, temperature, top-k, top-p, min-p. Raises RequestError for a value out of range.
    """

    max_tokens: int | None = None  # None: as far as the context goes
    temperature: float = 0.7  # 0: always the likeliest token
    top_p: float = 0.95
    top_k: int = 0  # 0: all tokens
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = None  # None: a random one
    logprobs: int = 0  # likeliest tokens to report with each token
    prompt_logprobs: int | None = None  # the same of the prompt's tokens; None: nothing about them
    logit_bias: Mapping[int, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_range("temperature", self.temperature, 0, 100)
        _check_range("top_p", self.top_p, 0, 1, open_below=True)
        _check_range("min_p", self.min_p, 0, 1)
        _check_range("repetition_penalty", self.repetition_penalty, 0.01, 100)
        _check_range("presence_penalty", self.presence_penalty, -100, 100)
        _check_range("frequency_penalty", self.frequency_penalty, -100, 100)
        _check_integer("top_k", self.top_k, 0, (1 << 31) - 1)
        _check_integer("logprobs", self.logprobs, 0, MAX_LOGPROBS)
        if self.prompt_logprobs is not None:
            _check_integer("prompt_logprobs", self.prompt_logprobs, 0, MAX_LOGPROBS)
        if self.max_tokens is not None:
            least = 1 if self.prompt_logprobs is None else 0
            _check_integer("max_tokens", self.max_tokens, least, (1 << 31) - 1)
        if self.seed is not None:
            _check_integer("seed", self.seed, 0, (1 << 64) - 1)
        if not isinstance(self.logit_bias, Mapping):
            raise RequestError(f"logit_bias: expected a mapping of token to bias, got {self.logit_bias!r}")
        for token, bias in self.logit_bias.items():
            _check_integer("logit_bias: token", token, 0, (1 << 31) - 1)
            _check_range("logit_bias", bias, -1000, 1000)


def _check_range(name: str, value: Any, low: float, high: float, *, open_below: bool = False) -> None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not number or not low <= value <= high or (open_below and value == low):
        raise RequestError(
            f"{name}: expected a number {'above' if open_below else 'from'} {low} to {high}, got {value!r}"
        )


def _check_integer(name: str, value: Any, low: int, high: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise RequestError(f"{name}: expected an integer from {low} to {high}, got {value!r}")


@dataclass(slots=True)  # not frozen, which takes three times as long to make: there is one for each token
class TokenEvent:
    token: int
    logprob: float
    top: list[tuple[int, float]]


@dataclass(frozen=True, slots=True)
class LogitsEvent:
    first: int  # position of the first row; after a preemption rows come again
    logits: Any  # float32 (rows, vocabulary)


@dataclass(frozen=True, slots=True)
class HiddenEvent:
    first: int  # position of the first row; after a preemption rows come again
    rows: Any  # float32 (rows, width), after the final norm


@dataclass(frozen=True, slots=True)
class PromptEvent:
    """Of prompt tokens from position `first` on: (log-probability, likeliest tokens); may come again as logits do."""

    first: int
    logprobs: list[tuple[float, list[tuple[int, float]]]]


@dataclass(frozen=True, slots=True)
class FinishEvent:
    reason: str  # "stop", "length", "cancelled" or "error"
    error: FreeholdError | None = None


Event = TokenEvent | LogitsEvent | HiddenEvent | PromptEvent | FinishEvent


class Constraint(Protocol):
    """What the next tokens of one reply may be. Never called by two threads at once.

    `mask` is computed while the step runs whose logits it is for. An exception ends the request with its text.
    """

    finished: bool  # nothing may follow

    def mask(self) -> bytes | None:
        """Little-endian 32-bit words, a set bit for each token that may come next; None: any."""
        ...

    def accept(self, token: int) -> None: ...

    def forced(self) -> list[int]:
        """Tokens that must come now; they are not drawn, and have been accepted."""
        ...


class Request:
    """A user's job and its state.

    `sink` is called with each event, from the engine's thread: it must not block, and if it raises the request is
    cancelled. Raises RequestError when the prompt is not a sequence of integers or the salt is not bytes.
    """

    def __init__(
        self,
        prompt: Sequence[int],
        params: SamplingParams,
        sink: Callable[[Event], None],
        *,
        stop_ids: frozenset[int] = frozenset(),
        wants_logits: bool = False,
        wants_hidden: bool = False,
        salt: bytes = b"",
        constraint: Constraint | None = None,
    ):
        try:
            self.tokens = [operator.index(token) for token in prompt]
        except TypeError as error:
            raise RequestError(f"prompt: expected token ids: {error}") from None
        if not isinstance(salt, bytes):
            raise RequestError(f"salt: expected bytes, got {salt!r}")
        self.num_prompt = len(self.tokens)
        self.params = params
        self.sink = sink
        self.stop_ids = stop_ids
        self.wants_logits, self.wants_hidden = wants_logits, wants_hidden  # of all rows of the prompt, and no reply
        self.salt = salt  # requests of different salts share no prefix
        self.constraint = constraint
        self.seed = int.from_bytes(os.urandom(8), "little") if params.seed is None else params.seed
        self.sampler: Any = None  # made by the engine at submission
        self.max_length = 0  # tokens, prompt included; set by the engine
        # What the scheduler keeps.
        self.blocks: list[int] = []
        self.spare: list[int] = []  # a block with its state as it was before the drafts of the step at hand
        self.hashes: list[bytes] = []  # of the full blocks that are computed
        self.prompt_hashes: list[bytes] = []  # of the full blocks of its known tokens, when last admitted
        self.num_computed = 0  # leading tokens whose keys and values are cached
        self.drafts: list[int] = []  # tokens of the step at hand that may follow the known ones
        self.foreseen: list[int] = []  # what the model's layer for speculation guesses behind the known tokens
        self.speculation = Speculation()
        self.num_cached = 0  # of these, found in the prefix cache when first admitted
        self.finished = False
        self.abandoned = False  # its sink has failed
        self.failure: FreeholdError | None = None  # of its constraint
        # Monotonic times, seconds.
        self.submitted_at = time.monotonic()
        self.started_at = self.first_token_at = self.finished_at = 0.0

    @property
    def num_remaining(self) -> int:
        """Rows to compute before the next token can be drawn."""
        return len(self.tokens) - self.num_computed

    @property
    def is_read(self) -> bool:
        """Whether what the model makes of the prompt is all that is wanted."""
        return self.wants_logits or self.wants_hidden

    @property
    def reads_rows(self) -> bool:
        """Whether the logits of all its next rows are read, not only of the last."""
        reads_prompt = self.params.prompt_logprobs is not None and self.num_computed < self.num_prompt
        return self.is_read or reads_prompt

    @property
    def shares_prefix(self) -> bool:
        """Whether its prompt may be taken from the prefix cache: rows that are read must be computed."""
        return not self.is_read and self.params.prompt_logprobs is None

    def emit(self, event: Event) -> None:
        if self.abandoned:
            return
        try:
            self.sink(event)
        except Exception:  # such as an event loop that has been closed; no reason to harm other requests
            _log.exception("a request's sink failed")
            self.abandoned = True

    def finish(self, reason: str, error: FreeholdError | None = None) -> None:
        if not self.finished:
            self.finished = True
            self.finished_at = time.monotonic()
            self.emit(FinishEvent(reason, error))
