"""Requests in OpenAI's shape, and the fields that other servers of this shape have added."""

from typing import Annotated, Literal

from pydantic import Field

from freehold.engine.request import MAX_LOGPROBS
from freehold.serve.errors import ServeError
from freehold.serve.shapes.common import (
    INT32,
    MAX_N,
    MAX_TOOLS,
    Budget,
    Effort,
    Fraction,
    Json,
    Messages,
    ModelRequest,
    Number,
    Penalty,
    Repetition,
    Seed,
    Shape,
    Stops,
    Temperature,
    TokenId,
    Tokens,
    Tool,
    TopK,
    least_top_p,
    stop_texts,
)

Bias = Annotated[Number, Field(ge=-100, le=100)]
_COPIED = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
)


class Sampling(ModelRequest):
    """Fields that chat completions and completions share."""

    temperature: Temperature | None = None
    top_p: Fraction | None = None
    top_k: TopK | None = None
    min_p: Fraction | None = None
    repetition_penalty: Repetition | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    seed: Seed | None = None
    stop: str | Stops | None = None
    logit_bias: dict[Annotated[str, Field(pattern=r"^\d{1,9}$")], Bias] | None = None
    ignore_eos: bool = False
    n: Annotated[int, Field(ge=1, le=MAX_N)] | None = 1
    stream: bool | None = False
    response_format: Json | None = None

    def keywords(self, max_tokens: int | None) -> Json:
        """Of `Model.stream`; what is not said keeps the default of OpenAI's API."""
        given = {name: getattr(self, name) for name in _COPIED if getattr(self, name) is not None}
        keywords = {"temperature": 1.0, "top_p": 1.0, "max_tokens": max_tokens, "ignore_eos": self.ignore_eos} | given
        keywords["top_p"] = least_top_p(keywords["top_p"])
        keywords["top_k"] = max(keywords.get("top_k", 0), 0)
        if self.seed is not None:
            keywords["seed"] = self.seed % (1 << 64)
        keywords["logit_bias"] = {int(token): bias for token, bias in (self.logit_bias or {}).items()}
        keywords["stop"] = stop_texts(self.stop)
        return keywords


class StreamOptions(Shape):
    include_usage: bool = False


class ChosenFunction(Shape):
    name: str


class ToolChoice(Shape):
    type: Literal["function"]
    function: ChosenFunction


class Thinking(Shape):
    """As DeepSeek's and GLM's servers have it."""

    type: Literal["enabled", "disabled"]
    budget_tokens: Budget | None = None


class ChatRequest(Sampling):
    """POST /v1/chat/completions"""

    messages: Messages
    max_tokens: Tokens | None = None
    max_completion_tokens: Tokens | None = None
    stream_options: StreamOptions | None = None
    logprobs: bool | None = False
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    tools: Annotated[list[Tool], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: Literal["none", "auto", "required"] | ToolChoice | None = None
    parallel_tool_calls: bool | None = True
    reasoning_effort: Effort | None = None
    enable_thinking: bool | None = None
    thinking: Thinking | None = None
    reasoning_budget: Budget | None = None
    chat_template_kwargs: Json | None = None
    modalities: list[Literal["text"]] | None = None
    audio: None = None

    @property
    def thinks(self) -> bool | None:
        """Whether reasoning is switched on or off, by whichever of the fields says so."""
        said = [
            None if self.thinking is None else self.thinking.type == "enabled",
            self.enable_thinking,
            None if self.reasoning_effort is None else self.reasoning_effort != "none",
        ]
        found = {value for value in said if value is not None}
        if len(found) > 1:
            message = "reasoning_effort, enable_thinking and thinking: one switches reasoning on, another off"
            raise ServeError(400, message, "invalid_value", "reasoning_effort")
        return found.pop() if found else None


class CompletionRequest(Sampling):
    """POST /v1/completions"""

    prompt: (
        str
        | Annotated[list[str], Field(min_length=1, max_length=256)]
        | Annotated[list[TokenId], Field(min_length=1, max_length=1 << 20)]
        | Annotated[list[Annotated[list[TokenId], Field(max_length=1 << 20)]], Field(min_length=1, max_length=256)]
    )
    max_tokens: Annotated[int, Field(ge=0, lt=INT32)] | None = 16
    best_of: Literal[1] | None = None
    stream_options: StreamOptions | None = None
    logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    echo: bool | None = False
    suffix: None = None


class EmbeddingsRequest(ModelRequest):
    """POST /v1/embeddings"""

    input: (
        str
        | Annotated[list[str], Field(min_length=1, max_length=256)]
        | Annotated[list[TokenId], Field(min_length=1, max_length=1 << 20)]
        | Annotated[list[Annotated[list[TokenId], Field(max_length=1 << 20)]], Field(min_length=1, max_length=256)]
    )
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Field(ge=1, lt=INT32)] | None = None
