"""What went wrong, as each protocol says it."""

from dataclasses import dataclass
from typing import Any

from freehold.errors import (
    EngineError,
    FreeholdError,
    MemoryBudgetError,
    ModelNotFoundError,
    PromptTooLongError,
    QueueFullError,
)

TYPES = {  # of HTTP statuses: OpenAI's names, Anthropic's names
    400: ("invalid_request_error", "invalid_request_error"),
    401: ("authentication_error", "authentication_error"),
    403: ("permission_error", "permission_error"),
    404: ("not_found_error", "not_found_error"),
    405: ("invalid_request_error", "invalid_request_error"),
    408: ("invalid_request_error", "timeout_error"),
    409: ("invalid_request_error", "invalid_request_error"),
    413: ("invalid_request_error", "request_too_large"),
    415: ("invalid_request_error", "invalid_request_error"),
    429: ("rate_limit_error", "rate_limit_error"),
    500: ("server_error", "api_error"),
    503: ("overloaded_error", "overloaded_error"),
}


@dataclass(eq=False)
class ServeError(Exception):
    """An answer that is an error. `code` is a word for programs, `param` the field that is wrong."""

    status: int
    message: str
    code: str | None = None
    param: str | None = None
    retry_after_s: int | None = None

    def __str__(self) -> str:
        return self.message

    @property
    def headers(self) -> dict[str, str]:
        headers = {} if self.retry_after_s is None else {"retry-after": str(self.retry_after_s)}
        return headers | ({"www-authenticate": "Bearer"} if self.status == 401 else {})


def of_error(error: Exception) -> ServeError:
    """The answer to a request that ended with `error`."""
    match error:
        case ServeError():
            return error
        case PromptTooLongError():
            return ServeError(400, str(error), "context_length_exceeded", "messages")
        case QueueFullError():
            return ServeError(429, str(error), "queue_full", retry_after_s=1)
        case ModelNotFoundError():
            return ServeError(404, str(error), "model_not_found", "model")
        case MemoryBudgetError():
            return ServeError(503, str(error), "out_of_memory", retry_after_s=5)
        case EngineError():
            return ServeError(500, str(error), "engine_error")
        case FreeholdError():
            return ServeError(400, str(error), "invalid_value")
        case _:
            return ServeError(500, "an internal error; the server's log says more", "internal_error")


def body(error: ServeError, path: str) -> dict[str, Any]:
    """The JSON of an error in the shape of the protocol that `path` belongs to."""
    openai, anthropic = TYPES.get(error.status, TYPES[400 if error.status < 500 else 500])
    if path.startswith("/v1/messages"):
        return {"type": "error", "error": {"type": anthropic, "message": error.message}}
    if path.startswith("/api/"):
        return {"error": error.message}
    return {"error": {"message": error.message, "type": openai, "param": error.param, "code": error.code}}
