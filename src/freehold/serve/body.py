"""Request bodies: JSON, whatever the header calls it, and JSON only."""

import json
import math
import re
from collections.abc import Callable
from typing import Any

from fastapi import Request
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

MAX_DEPTH = 100
_NAME = re.compile(r"[\w.-]{1,64}", re.ASCII)
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


class JsonRequest(Request):
    async def json(self) -> Any:
        if not hasattr(self, "_parsed"):
            self._parsed = parse(await self.body())
        return self._parsed


class JsonRoute(APIRoute):
    """Parses bodies with `parse`."""

    def get_route_handler(self) -> Callable[..., Any]:
        handle = super().get_route_handler()

        async def with_json(request: Request) -> Any:
            headers = [(name, value) for name, value in request.scope["headers"] if name != b"content-type"]
            scope = {**request.scope, "headers": [*headers, (b"content-type", b"application/json")]}
            parsed = JsonRequest(scope, request.receive)
            response = await handle(parsed)
            if self.dependant.body_params:
                request.state.caller.ignored = await self._ignored(parsed)
            return response

        return with_json

    async def _ignored(self, request: JsonRequest) -> list[str]:
        """Fields of the request that nobody reads."""
        shape: Any = self.dependant.body_params[0].field_info.annotation
        return [name for name in await request.json() if name not in shape.model_fields and _NAME.fullmatch(name)]


def parse(body: bytes) -> Any:
    """Raises HTTPException for what is not JSON by its standard: NaN, numbers past float64, half of a surrogate pair.

    Of what is raised here FastAPI lets only that pass.
    """
    try:
        value = json.loads(body, parse_constant=_no_constant, parse_float=_finite)
        if body.count(b"[") + body.count(b"{") > MAX_DEPTH:
            _check_depth(value, MAX_DEPTH)
        if _SURROGATE.search(body):
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise HTTPException(400, "body: half of a surrogate pair is no text") from None
    except RecursionError:
        raise HTTPException(400, f"body: more than {MAX_DEPTH} levels deep") from None
    except ValueError as error:
        raise HTTPException(400, f"body: not valid JSON: {str(error)[:200]}") from None
    return value


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:30]} is too large a number")
    return number


def _check_depth(value: Any, left: int) -> None:
    if left < 0:
        raise RecursionError
    for child in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _check_depth(child, left - 1)
