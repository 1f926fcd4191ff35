"""OpenAI's embeddings: what a model makes of texts, as vectors of length 1."""

import base64
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from freehold.serve.body import JsonRoute
from freehold.serve.completions import prompts_of
from freehold.serve.errors import ServeError
from freehold.serve.pool import Served
from freehold.serve.shapes.openai import EmbeddingsRequest
from freehold.serve.sse import until_gone

router = APIRouter(route_class=JsonRoute)


@router.post("/v1/embeddings")
async def embeddings(body: EmbeddingsRequest, request: Request) -> Response:
    """Vectors of texts: `pooling` of the hidden states after the final norm, of length 1.

    `pooling` is what the model's file says, "mean" where it says nothing.
    """

    async def answer() -> dict[str, Any]:
        async with request.app.state.pool.use(body.model) as served:
            vectors, num_tokens = await embed(served, prompts_of(body.input), body.dimensions, request)
            data = [
                {"object": "embedding", "index": index, "embedding": _encoded(vector, body.encoding_format)}
                for index, vector in enumerate(vectors)
            ]
            usage = {"prompt_tokens": num_tokens, "total_tokens": num_tokens}
            head = {"object": "list", "model": served.name, "pooling": served.model.pooling}
            return head | {"data": data, "usage": usage}

    return JSONResponse(await until_gone(request, answer()))


async def embed(
    served: Served, prompts: list[str | list[int]], dimensions: int | None, request: Request
) -> tuple[list[Any], int]:
    """(a vector for each prompt, the number of their tokens)"""
    width = served.model.info["hidden_size"]
    if dimensions not in (None, width):
        raise ServeError(400, f"dimensions: this model has {width}, got {dimensions}", "invalid_value", "dimensions")
    embedded = await served.model.aembed(prompts, salt=request.state.caller.salt)
    num_tokens = sum(item.num_tokens for item in embedded)
    request.state.caller.fields |= {"model": served.name, "prompt_tokens": num_tokens}
    return [item.vector for item in embedded], num_tokens


def _encoded(vector: Any, encoding: str | None) -> Any:
    return base64.b64encode(vector.tobytes()).decode() if encoding == "base64" else vector.tolist()
