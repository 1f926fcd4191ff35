"""What requests may say: the fields of each protocol that are read, with their ranges. Others are passed over."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from freehold.engine.request import MAX_LOGPROBS

MAX_N = 16
MAX_MESSAGES = 10_000
Number = Annotated[float, Field(allow_inf_nan=False)]
Name = Annotated[str, Field(max_length=500)]
Seed = Annotated[int, Field(ge=-(1 << 63), lt=1 << 63)]
Tokens = Annotated[int, Field(ge=1, lt=1 << 31)]
Temperature = Annotated[Number, Field(ge=0, le=100)]
Fraction = Annotated[Number, Field(ge=0, le=1)]
Penalty = Annotated[Number, Field(ge=-2, le=2)]
Stop = str | Annotated[list[str], Field(max_length=16)]
Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh"]
Json = dict[str, Any]


class Shape(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True, protected_namespaces=())


class Sampling(Shape):
    """Sampling fields that OpenAI's endpoints share, and those that other servers have added to them."""

    model: Name | None = None
    temperature: Temperature | None = None
    top_p: Fraction | None = None
    top_k: Annotated[int, Field(ge=-1, lt=1 << 31)] | None = None
    min_p: Fraction | None = None
    repetition_penalty: Annotated[Number, Field(gt=0, le=100)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    seed: Seed | None = None
    stop: Stop | None = None
    logit_bias: dict[Annotated[str, Field(max_length=12)], Annotated[Number, Field(ge=-100, le=100)]] | None = None
    ignore_eos: bool = False

    def keywords(self, max_tokens: int | None) -> Json:
        """Of `Model.stream`; what is not said keeps the default of OpenAI's API."""
        from freehold.serve.errors import ServeError

        given = {name: getattr(self, name) for name in KEYWORDS if getattr(self, name) is not None}
        keywords = {"temperature": 1.0, "top_p": 1.0, "max_tokens": max_tokens, "ignore_eos": self.ignore_eos} | given
        keywords["top_p"] = keywords["top_p"] or 1e-9  # 0 leaves the likeliest token
        keywords["top_k"] = max(keywords.get("top_k", 0), 0)
        if self.seed is not None:
            keywords["seed"] = self.seed % (1 << 64)
        try:
            keywords["logit_bias"] = {int(token): bias for token, bias in (self.logit_bias or {}).items()}
        except ValueError:
            raise ServeError(400, "logit_bias: expected token ids as keys", "invalid_value", "logit_bias") from None
        keywords["stop"] = [text for text in ([self.stop] if isinstance(self.stop, str) else self.stop or ()) if text]
        return keywords


KEYWORDS = ["temperature", "top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty"]


class StreamOptions(Shape):
    include_usage: bool = False


class Function(Shape):
    name: Annotated[str, Field(min_length=1, max_length=200)]
    description: str | None = None
    parameters: Json | None = None
    arguments: str | None = None  # of a call


class Tool(Shape):
    type: Literal["function"] = "function"
    function: Function


class ToolCall(Shape):
    id: str | None = None
    type: Literal["function"] = "function"
    function: Function


class Message(Shape):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[Json] | None = None
    name: str | None = None
    reasoning_content: str | None = None
    tool_calls: Annotated[list[ToolCall], Field(max_length=200)] | None = None
    tool_call_id: str | None = None


class ChatRequest(Sampling):
    """POST /v1/chat/completions"""

    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES)]
    max_tokens: Tokens | None = None
    max_completion_tokens: Tokens | None = None
    n: Annotated[int, Field(ge=1, le=MAX_N)] | None = 1
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    logprobs: bool | None = False
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    response_format: Json | None = None
    tools: Annotated[list[Tool], Field(max_length=200)] | None = None
    tool_choice: Literal["none", "auto", "required"] | Json | None = None
    parallel_tool_calls: bool | None = True
    reasoning_effort: Effort | None = None
    reasoning_budget: Annotated[int, Field(ge=0, lt=1 << 31)] | None = None
    chat_template_kwargs: Json | None = None


class CompletionRequest(Sampling):
    """POST /v1/completions"""

    prompt: str | Annotated[list[str] | list[int] | list[list[int]], Field(min_length=1, max_length=1 << 20)]
    max_tokens: Annotated[int, Field(ge=0, lt=1 << 31)] | None = 16
    n: Annotated[int, Field(ge=1, le=MAX_N)] | None = 1
    best_of: Literal[1] | None = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    echo: bool | None = False
    suffix: None = None
    response_format: Json | None = None


class TokenizeRequest(Shape):
    """POST /tokenize"""

    model: Name | None = None
    prompt: str | None = None
    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES)] | None = None
    add_special_tokens: bool = True


class DetokenizeRequest(Shape):
    """POST /detokenize"""

    model: Name | None = None
    tokens: Annotated[list[int], Field(max_length=1 << 20)]


class AnthropicTool(Shape):
    name: Annotated[str, Field(min_length=1, max_length=200)]
    description: str | None = None
    input_schema: Json


class AnthropicMessage(Shape):
    role: Literal["user", "assistant", "system"]
    content: str | list[Json]


class Thinking(Shape):
    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: Annotated[int, Field(ge=1, lt=1 << 31)] | None = None


class CountRequest(Shape):
    """POST /v1/messages/count_tokens"""

    model: Name
    messages: Annotated[list[AnthropicMessage], Field(min_length=1, max_length=MAX_MESSAGES)]
    system: str | list[Json] | None = None
    tools: Annotated[list[AnthropicTool], Field(max_length=200)] | None = None
    tool_choice: Json | None = None
    thinking: Thinking | None = None


class MessagesRequest(CountRequest):
    """POST /v1/messages"""

    max_tokens: Tokens
    temperature: Fraction | None = None
    top_p: Fraction | None = None
    top_k: Annotated[int, Field(ge=0, lt=1 << 31)] | None = None
    stop_sequences: Annotated[list[str], Field(max_length=16)] | None = None
    stream: bool | None = False


class OllamaMessage(Shape):
    role: Literal["system", "user", "assistant", "tool"]
    content: str = ""
    thinking: str | None = None
    tool_calls: Annotated[list[Json], Field(max_length=200)] | None = None
    tool_name: str | None = None
    images: None = None


class OllamaOptions(Shape):
    temperature: Temperature | None = None
    top_p: Fraction | None = None
    top_k: Annotated[int, Field(ge=0, lt=1 << 31)] | None = None
    min_p: Fraction | None = None
    repeat_penalty: Annotated[Number, Field(gt=0, le=100)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    seed: Seed | None = None
    num_predict: Annotated[int, Field(ge=-2, lt=1 << 31)] | None = None
    stop: Stop | None = None


class OllamaRequest(Shape):
    model: Name
    stream: bool | None = True
    format: Literal["", "json"] | Json | None = None
    options: OllamaOptions | None = None
    think: bool | Literal["low", "medium", "high"] | None = None


class OllamaChatRequest(OllamaRequest):
    """POST /api/chat"""

    messages: Annotated[list[OllamaMessage], Field(max_length=MAX_MESSAGES)] = []
    tools: Annotated[list[Tool], Field(max_length=200)] | None = None


class OllamaGenerateRequest(OllamaRequest):
    """POST /api/generate"""

    prompt: str = ""
    system: str | None = None
    raw: bool | None = False


class OllamaShowRequest(Shape):
    """POST /api/show"""

    model: Name
