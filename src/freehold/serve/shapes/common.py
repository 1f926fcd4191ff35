"""What several protocols' requests share."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

MAX_N = 16
MAX_MESSAGES = 10_000
MAX_TOOLS = 200
INT32 = 1 << 31
Number = Annotated[float, Field(allow_inf_nan=False)]
Name = Annotated[str, Field(max_length=500)]
Seed = Annotated[int, Field(ge=-(1 << 63), lt=1 << 63)]
Tokens = Annotated[int, Field(ge=1, lt=INT32)]
TokenId = Annotated[int, Field(ge=0, lt=INT32)]
Budget = Annotated[int, Field(ge=0, lt=INT32)]
TopK = Annotated[int, Field(ge=-1, lt=INT32)]
Temperature = Annotated[Number, Field(ge=0, le=100)]
Fraction = Annotated[Number, Field(ge=0, le=1)]
Penalty = Annotated[Number, Field(ge=-2, le=2)]
Repetition = Annotated[Number, Field(ge=0.01, le=100)]
Stops = Annotated[list[str], Field(max_length=16)]
Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh"]
Json = dict[str, Any]
Parts = Annotated[list[Json], Field(max_length=MAX_MESSAGES)]


def _of_object(schema: Json) -> Json:
    if schema.get("type", "object") != "object":
        raise ValueError('the arguments of a call are an object: its schema\'s "type" must be "object"')
    return schema


Parameters = Annotated[Json, AfterValidator(_of_object)]  # the schema of a call's arguments


class Shape(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True, protected_namespaces=())


class Function(Shape):
    name: Annotated[str, Field(min_length=1, max_length=200)]
    description: str | None = None
    parameters: Parameters | None = None


class Tool(Shape):
    type: Literal["function"] = "function"
    function: Function


class CalledFunction(Shape):
    name: Annotated[str, Field(min_length=1, max_length=200)]
    arguments: str | None = None


class ToolCall(Shape):
    id: str | None = None
    type: Literal["function"] = "function"
    function: CalledFunction


class Message(Shape):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | Parts | None = None
    name: str | None = None
    reasoning_content: str | None = None
    tool_calls: Annotated[list[ToolCall], Field(max_length=MAX_TOOLS)] | None = None
    tool_call_id: str | None = None


Messages = Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES)]


class ModelRequest(Shape):
    model: Name | None = None


class TokenizeRequest(ModelRequest):
    """POST /tokenize"""

    prompt: str | None = None
    messages: Messages | None = None
    add_special_tokens: bool = True


class DetokenizeRequest(ModelRequest):
    """POST /detokenize"""

    tokens: Annotated[list[TokenId], Field(max_length=1 << 20)]


def least_top_p(top_p: float) -> float:
    """0 is allowed in requests and leaves the likeliest token."""
    return top_p or 1e-9


def stop_texts(stop: str | list[str] | None) -> list[str]:
    return [text for text in ([stop] if isinstance(stop, str) else stop or ()) if text]
