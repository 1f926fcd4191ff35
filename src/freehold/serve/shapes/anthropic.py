"""Requests in Anthropic's shape."""

from typing import Annotated, Literal

from pydantic import Field

from freehold.serve.shapes.common import (
    INT32,
    MAX_MESSAGES,
    MAX_TOOLS,
    Fraction,
    Name,
    Parameters,
    Parts,
    Shape,
    Stops,
    Tokens,
)


class AnthropicTool(Shape):
    type: Literal["custom"] | None = None
    name: Annotated[str, Field(min_length=1, max_length=200)]
    description: str | None = None
    input_schema: Parameters


class AnthropicMessage(Shape):
    role: Literal["user", "assistant", "system"]
    content: str | Parts


class ToolChoice(Shape):
    type: Literal["auto", "any", "none", "tool"]
    name: Annotated[str, Field(max_length=200)] | None = None
    disable_parallel_tool_use: bool = False


class Thinking(Shape):
    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: Tokens | None = None


class CountRequest(Shape):
    """POST /v1/messages/count_tokens"""

    model: Name
    messages: Annotated[list[AnthropicMessage], Field(min_length=1, max_length=MAX_MESSAGES)]
    system: str | Parts | None = None
    tools: Annotated[list[AnthropicTool], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None


class MessagesRequest(CountRequest):
    """POST /v1/messages"""

    max_tokens: Tokens
    temperature: Fraction | None = None
    top_p: Fraction | None = None
    top_k: Annotated[int, Field(ge=0, lt=INT32)] | None = None
    stop_sequences: Stops | None = None
    stream: bool | None = False
