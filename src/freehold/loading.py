"""Load a model within the memory that there is, or say what it is without reading its weights."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

from freehold.api import Model
from freehold.embeddings import pooling_of
from freehold.engine.engine import Engine
from freehold.engine.memory import available_memory, budget_experts, budget_kv_blocks
from freehold.errors import RequestError
from freehold.executors.choice import choose
from freehold.executors.native import memory_plan, native_sampler
from freehold.models.mtp import next_token_layer
from freehold.models.parameters import named_parameters
from freehold.models.registry import model_for, unused_tensors
from freehold.store.references import StoredModel, resolve
from freehold.text.source import describe_text, read_text
from freehold.weights.checkpoint import Checkpoint
from freehold.weights.open import open_checkpoint
from freehold.weights.quantize import quantize_tensors, scheme_of


def load(
    ref: str | None = None,
    *,
    dtype: str | None = None,
    threads: int | None = None,
    context: int | None = None,
    kv_format: str = "int16",
    executor: str = "native",
    device: str = "cpu",
    quantize: str | None = None,
    max_waiting: int = 1024,
    speculate: bool = True,
    memory_bytes: int | None = None,
    progress: Any = None,
) -> Model:
    """Load a model: a path to a GGUF file or to a folder as labs publish them (config.json, .safetensors, tokenizer), a
    name in the catalogue, or None for the catalogue's first.

    `dtype="float32"` evaluates the weights and the KV cache in float32. `executor="torch"` runs the model on
    tensors, on `device` "cpu" (in float32) or "cuda" (in bfloat16, or as `dtype` says). `context` defaults to what the
    model was trained for. `quantize` ("q8_0", "q4_k_m"…): unquantized weights are quantized while they load.
    `speculate`: a single reply is computed several tokens at a time where text repeats itself or the checkpoint has a
    layer that foresees the next token, which is loaded where it fits; which tokens come does not depend on it. More
    than `max_waiting` requests that wait are refused (QueueFullError). Memory, at most `memory_bytes` of what there is,
    is budgeted before any is taken (MemoryBudgetError with both figures).
    """
    stored = resolve(ref, progress=progress)
    checkpoint = open_checkpoint(stored.path)
    model = model_for(checkpoint)
    if quantize is not None:
        checkpoint = _quantized(checkpoint, model, quantize)
    config = model.config
    context = _check_context(context, config.context_length)
    choice = choose(executor, device=device, dtype=dtype, threads=threads, kv_format=kv_format)
    measure = choice.available_bytes or available_memory
    next_token = next_token_layer(model, checkpoint.tensors) if speculate else None
    plan, next_token = _plan(
        lambda layer: choice.plan(model, checkpoint, layer), next_token, context, _at_most(measure(), memory_bytes)
    )
    num_blocks, experts_bytes = _budget(plan, context, _at_most(measure(), memory_bytes))
    text = cache(lambda: read_text(checkpoint.metadata, checkpoint.folder))
    if experts_bytes is not None:  # experts take all that is left, so that what the text takes must be known first
        text()
        num_blocks, experts_bytes = _budget(plan, context, _at_most(measure(), memory_bytes))
    runner = choice.make(model, checkpoint, next_token, num_blocks, experts_bytes, text)
    tokenizer, template = text()
    if tokenizer.vocab_size > config.vocabulary_size:
        tokens, rows = tokenizer.vocab_size, config.vocabulary_size
        raise RequestError(f"{stored.path}: {tokens} tokens in the vocabulary, {rows} rows in the embedding")
    engine = Engine(runner, native_sampler, context=context, max_waiting=max_waiting, speculates=speculate)
    info = _info(stored, checkpoint, model, next_token, context, plan, experts_bytes)
    info |= {"executor": executor, **runner.info, "kv_tokens": num_blocks * plan.block_size}
    return Model(tokenizer, template, runner, engine, info)


def _at_most(available: int, memory_bytes: int | None) -> int:
    return available if memory_bytes is None else min(available, memory_bytes)


def _plan(plan_with: Callable[[Any], Any], next_token: Any, context: int, available: int) -> tuple[Any, Any]:
    """What memory the model takes with its layer for speculation, and the layer; None where not all of it fits.

    A guess that has experts read from the file would cost more than it saves.
    """
    if next_token is not None:
        plan = plan_with(next_token)
        if plan.weights_bytes + plan.activations_bytes + plan.context_bytes(context) <= available:
            return plan, next_token
    return plan_with(None), None


def _budget(plan: Any, context: int, available: int) -> tuple[int, int | None]:
    """(KV blocks, bytes for experts or None where all are in memory). Raises MemoryBudgetError."""
    fixed, experts_bytes = plan.weights_bytes + plan.activations_bytes, _experts_bytes(plan, context, available)
    if experts_bytes is not None:
        fixed += experts_bytes - plan.experts_bytes
    num_blocks = budget_kv_blocks(fixed, plan.block_bytes, plan.block_size, context, available)
    return (num_blocks if experts_bytes is None else -(-context // plan.block_size)), experts_bytes


def _experts_bytes(plan: Any, context: int, available: int) -> int | None:
    fixed = plan.weights_bytes + plan.activations_bytes
    return budget_experts(fixed, plan.experts_bytes, plan.context_bytes(context), available)


def _quantized(checkpoint: Checkpoint, model: Any, name: str) -> Checkpoint:
    scheme, config = scheme_of(name), model.config
    named = named_parameters(model, checkpoint.tensors)
    used = {name: named[name] for name in model.parameter_shapes()}
    router, tied = getattr(model, "routing", None), config.tied_embeddings
    made = quantize_tensors(used, scheme, num_layers=config.num_layers, router=router, tied=tied)
    return replace(checkpoint, tensors=named | made)


def _check_context(context: int | None, trained: int) -> int:
    if context is None:
        return trained
    if not isinstance(context, int) or not 2 <= context <= trained:
        raise RequestError(f"context: expected 2 to {trained} tokens, as the model was trained, got {context!r}")
    return context


def describe(ref: str | None = None, *, context: int | None = None, kv_format: str = "int16") -> dict[str, Any]:
    """What a model is, from its file alone: no weights are read."""
    stored = resolve(ref)
    checkpoint = open_checkpoint(stored.path)
    model = model_for(checkpoint)
    context = _check_context(context, model.config.context_length)
    plan, next_token = _plan(
        lambda layer: memory_plan(model, checkpoint, kv_format=kv_format, next_token=layer),
        next_token_layer(model, checkpoint.tensors),
        context,
        available := available_memory(),
    )
    experts_bytes = _experts_bytes(plan, context, available)
    return _info(stored, checkpoint, model, next_token, context, plan, experts_bytes)


def _info(
    stored: StoredModel,
    checkpoint: Checkpoint,
    model: Any,
    next_token: Any,
    context: int,
    plan: Any,
    experts_bytes: int | None,
) -> dict[str, Any]:
    metadata, config = checkpoint.metadata, model.config
    formats: dict[str, Counter[str]] = {}
    tensors = checkpoint.tensors if checkpoint.config is None else named_parameters(model, checkpoint.tensors)
    for name, tensor in tensors.items():
        kind = ".".join(
            part for part in name.split(".") if part not in ("blk", "model", "layers", "weight") and not part.isdigit()
        )
        formats.setdefault(kind, Counter())[tensor.format] += 1
    kv_bytes_per_token = plan.block_bytes // plan.block_size
    return {
        "name": metadata.get("general.name", stored.name),
        "file": str(stored.path),
        "file_bytes": sum(path.stat().st_size for path in checkpoint.paths),
        "sha256": stored.sha256,
        "architecture": config.architecture,
        "parameters": sum(_count(tensor.shape) for tensor in tensors.values()),
        "layers": config.num_layers,
        "hidden_size": config.hidden_size,
        "heads": config.num_heads,
        "kv_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "vocabulary_size": config.vocabulary_size,
        "trained_context": config.context_length,
        "context": context,
        "pooling": pooling_of(metadata),
        "quantization": {kind: dict(counts) for kind, counts in formats.items()},
        **describe_text(metadata, checkpoint.folder),
        "next_token_layer": next_token is not None,
        "unused": _places(unused_tensors(model, checkpoint.tensors, next_token)),
        "licence": {key: metadata[key] for key in metadata if key.startswith("general.license")},
        "memory": {
            "weights_bytes": plan.weights_bytes,
            "experts_bytes": plan.experts_bytes,
            "experts_in_memory_bytes": plan.experts_bytes if experts_bytes is None else experts_bytes,
            "activations_bytes": plan.activations_bytes,
            "cache_formats": dict(plan.cache_formats),
            "kv_bytes_per_token": kv_bytes_per_token,
            "kv_bytes_at_context": kv_bytes_per_token * context,
            "total_bytes": plan.weights_bytes + plan.activations_bytes + kv_bytes_per_token * context,
        },
    }


def _places(names: Iterable[str]) -> dict[str, int]:
    """How many tensors lie where, by the first two parts of their names."""
    return dict(Counter(".".join(name.split(".")[:2]) for name in names))


def _count(shape: Sequence[int]) -> int:
    count = 1
    for length in shape:
        count *= length
    return count
