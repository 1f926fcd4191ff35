"""OpenAI's list of models, with what each is."""

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from freehold.serve.body import JsonRoute
from freehold.serve.pool import ModelPool

router = APIRouter(route_class=JsonRoute)
FACTS = (
    "architecture",
    "parameters",
    "context",
    "trained_context",
    "quantization",
    "licence",
    "sha256",
    "template_sha256",
)


@router.get("/v1/models")
async def models(request: Request) -> Response:
    """The models that this server answers with, the first where none is named."""
    pool: ModelPool = request.app.state.pool
    return JSONResponse({"object": "list", "data": [await _entry(pool, name) for name in pool.refs]})


@router.get("/v1/models/{name:path}")
async def model(name: str, request: Request) -> Response:
    """What one model is; `sha256` is null until its file has been read for it."""
    pool: ModelPool = request.app.state.pool
    return JSONResponse(await _entry(pool, pool.resolve(name)))


async def _entry(pool: ModelPool, name: str) -> dict[str, Any]:
    facts, served = await pool.facts(name), pool.loaded.get(name)
    created = int(served.loaded_at) if served else 0
    head = {"id": name, "object": "model", "created": created, "owned_by": "freehold", "loaded": served is not None}
    if served:
        head |= {"reasoning": served.format.reasoning is not None, "reasoning_efforts": served.reasoning_efforts}
    sizes = {"max_model_len": facts["context"], "kv_tokens": facts.get("kv_tokens")}
    return head | {key: facts[key] for key in FACTS} | sizes
