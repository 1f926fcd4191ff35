"""The OpenAPI document: what FastAPI knows of the routes, and what every answer may be."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

DESCRIPTION = (
    "OpenAI's, Anthropic's and Ollama's protocols over open models. Fields that are not listed are passed over; the "
    "answer's x-ignored-fields names them. Every answer carries x-request-id."
)
ERRORS = {  # by whom they are given, and why
    "400": "The request is wrong; the text says where",
    "403": "The host or the page's origin may not ask",
    "404": "There is no such model or response",
    "408": "The body has not come in time",
    "409": "The model is in use",
    "413": "The body is too large",
    "429": "Too many requests wait (Retry-After)",
    "500": "A bug of the server's",
    "503": "The model is being loaded, or the server is stopping (Retry-After)",
}
STREAMS = {"/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"}
EVENT = {
    "type": "object",
    "properties": {"event": {"type": "string"}, "data": {"type": "string"}},
    "required": ["data"],
}
LINES = {"/api/chat", "/api/generate"}


def openapi(app: FastAPI, *, with_keys: bool) -> dict[str, Any]:
    """The document; with `with_keys` it says that a key is needed."""
    if app.openapi_schema is None:
        app.openapi_schema = _document(app, with_keys)
    return app.openapi_schema


def _document(app: FastAPI, with_keys: bool) -> dict[str, Any]:
    document = get_openapi(title=app.title, version=app.version, description=DESCRIPTION, routes=app.routes)
    for path, operations in document["paths"].items():
        for operation in operations.values():
            _add_answers(path, operation["responses"], with_keys)
    if with_keys:
        schemes = {
            "bearer": {"type": "http", "scheme": "bearer"},
            "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
        }
        document.setdefault("components", {})["securitySchemes"] = schemes
        document["security"] = [{name: []} for name in schemes]
        for path in ("/health", "/ready"):
            document["paths"][path]["get"]["security"] = []
    document.get("components", {}).get("schemas", {}).pop("HTTPValidationError", None)
    document.get("components", {}).get("schemas", {}).pop("ValidationError", None)
    return document


def _add_answers(path: str, answers: dict[str, Any], with_keys: bool) -> None:
    answers.pop("422", None)
    content: dict[str, Any] = {"application/json": {"schema": {"type": "object"}}}
    if path == "/metrics":
        content = {"text/plain": {"schema": {"type": "string"}}}
    if path in STREAMS:
        content["text/event-stream"] = {"schema": EVENT}
    if path in LINES:
        content["application/x-ndjson"] = {"schema": {"type": "object"}}
    answers["200"] = {"description": "The answer", "content": content}
    errors = ERRORS | ({"401": "A valid key is needed"} if with_keys or path.startswith("/admin/") else {})
    error = {"application/json": {"schema": {"type": "object", "required": ["error"]}}}
    for status, description in errors.items():
        answers[status] = {"description": description, "content": error}
