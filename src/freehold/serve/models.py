"""OpenAI's list of models, with what each is."""

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from freehold.errors import FreeholdError
from freehold.serve.body import JsonRoute
from freehold.serve.pool import ModelPool
from freehold.serve.reports import Reports

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


@router.get("/v1/models/", include_in_schema=False)
@router.get("/v1/models")
async def models(request: Request) -> Response:
    """The models that this server answers with, the first where none is named.

    `summary` is null until the files have been examined, which the first question begins. A model whose file cannot be
    read has an `error` instead of facts: the others are no less there.
    """
    pool: ModelPool = request.app.state.pool
    reports: Reports = request.app.state.reports
    entries = [await _listed(pool, name) for name in pool.refs]
    for entry in entries:
        report = reports.known(entry["id"]) if pool.loaded else None  # what is read first is the model itself
        entry["summary"] = report and report["summary"]
    return JSONResponse({"object": "list", "data": entries})


@router.get("/v1/models/{name:path}")
async def model(name: str, request: Request) -> Response:
    """What one model is, with the report on it; `sha256` is null until its file has been read for it."""
    pool: ModelPool = request.app.state.pool
    known = pool.resolve(name)
    return JSONResponse(await _entry(pool, known) | await request.app.state.reports.of(known))


async def _listed(pool: ModelPool, name: str) -> dict[str, Any]:
    try:
        return await _entry(pool, name)
    except FreeholdError as error:
        return _head(name, 0, is_loaded=False) | {"error": str(error)}


def _head(name: str, created: int, *, is_loaded: bool) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": created, "owned_by": "freehold", "loaded": is_loaded}


async def _entry(pool: ModelPool, name: str) -> dict[str, Any]:
    facts, served = await pool.facts(name), pool.loaded.get(name)
    head = _head(name, int(served.loaded_at) if served else 0, is_loaded=served is not None)
    if served:
        head |= {"reasoning": served.format.reasoning is not None, "reasoning_efforts": served.reasoning_efforts}
    sizes = {"max_model_len": facts["context"], "kv_tokens": facts.get("kv_tokens")}
    return head | {key: facts[key] for key in FACTS} | sizes
