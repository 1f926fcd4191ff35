"""Requests of OpenAI's responses."""

from typing import Annotated, Literal

from pydantic import Field

from freehold.engine.request import MAX_LOGPROBS
from freehold.serve.shapes.common import (
    MAX_MESSAGES,
    MAX_TOOLS,
    Effort,
    Fraction,
    Json,
    ModelRequest,
    Parameters,
    Penalty,
    Seed,
    Shape,
    Temperature,
    Tokens,
)


class FunctionTool(Shape):
    type: Literal["function"]
    name: Annotated[str, Field(min_length=1, max_length=200)]
    description: str | None = None
    parameters: Parameters | None = None
    strict: bool | None = None


class ChosenTool(Shape):
    type: Literal["function"]
    name: Annotated[str, Field(min_length=1, max_length=200)]


class TextFormat(Shape):
    format: Json | None = None


class ReasoningOptions(Shape):
    effort: Effort | None = None
    max_tokens: Tokens | None = None  # as OpenRouter has it


class ResponsesRequest(ModelRequest):
    """POST /v1/responses"""

    input: str | Annotated[list[Json], Field(min_length=1, max_length=MAX_MESSAGES)]
    instructions: str | None = None
    previous_response_id: Annotated[str, Field(max_length=200)] | None = None
    conversation: None = None  # what is not kept here cannot be gone on from
    prompt: None = None
    store: bool | None = True
    background: Literal[False] | None = None
    truncation: Literal["disabled"] | None = None
    stream: bool | None = False
    max_output_tokens: Tokens | None = None
    temperature: Temperature | None = None
    top_p: Fraction | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    seed: Seed | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    include: Annotated[list[str], Field(max_length=20)] | None = None
    tools: Annotated[list[FunctionTool], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: Literal["none", "auto", "required"] | ChosenTool | None = None
    parallel_tool_calls: bool | None = True
    max_tool_calls: Tokens | None = None
    text: TextFormat | None = None
    reasoning: ReasoningOptions | None = None
    metadata: dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]] | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
