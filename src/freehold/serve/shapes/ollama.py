"""Requests in Ollama's shape."""

from typing import Annotated, Literal

from pydantic import Field

from freehold.serve.shapes.common import (
    INT32,
    MAX_MESSAGES,
    MAX_TOOLS,
    Fraction,
    Json,
    Name,
    Penalty,
    Repetition,
    Seed,
    Shape,
    Stops,
    Temperature,
    Tokens,
    Tool,
)

NoImages = Annotated[list[str], Field(max_length=0)]


class OllamaMessage(Shape):
    role: Literal["system", "user", "assistant", "tool"]
    content: str = ""
    thinking: str | None = None
    tool_calls: Annotated[list[Json], Field(max_length=MAX_TOOLS)] | None = None
    tool_name: str | None = None
    images: NoImages | None = None


class OllamaOptions(Shape):
    temperature: Temperature | None = None
    top_p: Fraction | None = None
    top_k: Annotated[int, Field(ge=0, lt=INT32)] | None = None
    min_p: Fraction | None = None
    repeat_penalty: Repetition | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    seed: Seed | None = None
    num_predict: Annotated[int, Field(ge=-2, lt=INT32)] | None = None
    num_ctx: Tokens | None = None  # no more than the model is served with
    stop: str | Stops | None = None


class OllamaRequest(Shape):
    model: Name
    stream: bool | None = True
    format: Literal["", "json"] | Json | None = None
    options: OllamaOptions | None = None
    think: bool | Literal["low", "medium", "high"] | None = None

    @property
    def is_empty(self) -> bool:
        """Whether only the model's loading is asked for."""
        raise NotImplementedError


class OllamaChatRequest(OllamaRequest):
    """POST /api/chat"""

    messages: list[OllamaMessage] = Field(default_factory=list, max_length=MAX_MESSAGES)
    tools: Annotated[list[Tool], Field(max_length=MAX_TOOLS)] | None = None

    @property
    def is_empty(self) -> bool:
        return not self.messages


class OllamaGenerateRequest(OllamaRequest):
    """POST /api/generate"""

    prompt: str = ""
    system: str | None = None
    raw: bool | None = False
    images: NoImages | None = None
    suffix: Literal[""] | None = None
    template: Literal[""] | None = None  # no template of a request is rendered

    @property
    def is_empty(self) -> bool:
        return not self.prompt


class OllamaShowRequest(Shape):
    """POST /api/show"""

    model: Name


class OllamaEmbedRequest(Shape):
    """POST /api/embed"""

    model: Name
    input: str | Annotated[list[str], Field(max_length=256)]
    truncate: bool | None = None
    dimensions: Annotated[int, Field(ge=1, lt=INT32)] | None = None
    options: OllamaOptions | None = None
