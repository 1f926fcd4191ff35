"""Plan: values that never live together share a buffer; what the memory of all will be."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from freehold import _native
from freehold.errors import RequestError
from freehold.executors.choice import KV_FORMATS
from freehold.executors.memory_plan import MemoryPlan
from freehold.executors.native.experts import activation_bytes, packed_bytes, pageable_bytes
from freehold.executors.native.fuse import Step, fuse
from freehold.executors.native.trace import Call, Parameter, Value, trace, trace_next_token

MAX_LOGIT_ROWS = 64
STATE_BLOCK_PAGES = 8


def plan_buffers(
    steps: Sequence[Step], new_buffer: Callable[[int, bool], int], keep: Iterable[Value]
) -> dict[Value, int]:
    """Give each value a buffer; one is used again once the last reader of its value is past, and never if to `keep`."""
    last_use: dict[Value, int] = dict.fromkeys(keep, len(steps))
    for index, step in enumerate(steps):
        for value in step.reads + step.writes:
            last_use[value] = max(index, last_use.get(value, 0))
    buffers: dict[Value, int] = {}
    free: dict[tuple[int, bool], list[int]] = {}
    for index, step in enumerate(steps):
        moved: set[Value] = set()
        for value in step.writes:
            source = step.in_place.get(value)
            if source is not None and last_use[source] == index and source in buffers:
                buffers[value] = buffers[source]
                moved.add(source)
            else:
                available = free.get((value.width, value.logit_rows))
                buffers[value] = available.pop() if available else new_buffer(value.width, value.logit_rows)
        for value in {*step.reads, *step.writes}:
            if last_use[value] == index and value in buffers and value not in moved:
                free.setdefault((value.width, value.logit_rows), []).append(buffers[value])
    return buffers


class Cache:
    """The native layout of a model's caches, and where in it each layer has its part.

    `layers`: a layer with attention -> its number among these; `rows`: (layer, name) -> index of the rows kept of each
    token; `states`: (layer, name) -> offset in a block's states, in floats. `formats`: name -> format of its elements,
    which for rows is int16 where keys and values are int8. `num_pages` of a block, where another cache goes by the
    same.
    """

    def __init__(self, model: Any, *, dtype: str | None, kv_format: str, num_pages: int | None = None):
        config, specs = model.config, model.caches()
        attending = [i for i, spec in enumerate(specs) if "keys" in spec.tokens]
        self.layers = {layer: number for number, layer in enumerate(attending)}
        self.keeps_states = any(spec.states for spec in specs)
        # A state is as large as many tokens' keys and values: blocks that keep one are longer.
        self.num_pages = num_pages = num_pages or (STATE_BLOCK_PAGES if self.keeps_states else 1)
        heads, head_dim = (config.num_kv_heads, config.head_dim) if attending else (1, 1)
        form = _kv_format(dtype, kv_format)
        self.layout = _native.CacheLayout(form, len(attending), heads, head_dim, num_pages)
        self.block_size = num_pages * _native.PAGE_TOKENS
        self.rows = {
            (i, name): self.layout.add_rows(width)
            for i, spec in enumerate(specs)
            for name, width in spec.tokens.items()
            if name not in ("keys", "values")
        }
        self.formats = {
            name: form if name in ("keys", "values") else self.layout.row_format
            for spec in specs
            for name in spec.tokens
        } | {name: "f32" for spec in specs for name in spec.states}
        self.states = {
            (i, name): self.layout.add_state(math.prod(shape))
            for i, spec in enumerate(specs)
            for name, shape in spec.states.items()
        }


def memory_plan(
    model: Any,
    checkpoint: Any,
    *,
    dtype: str | None = None,
    kv_format: str = "int16",
    max_rows: int = 512,
    next_token: Any = None,
) -> MemoryPlan:
    """What NativeExecutor with the same arguments will need, from shapes alone."""
    calls, logits = trace(model, checkpoint)
    selected = selected_rows(calls)
    cache = Cache(model, dtype=dtype, kv_format=kv_format)
    weights = {parameter.name: packed_bytes(parameter, dtype) for parameter in matrices(calls)}
    activations = _activation_bytes(calls, (selected.inputs[0], selected.output, logits), dtype, max_rows)
    block_bytes = cache.layout.block_bytes
    if next_token is not None:
        next_calls, logits, given = trace_next_token(next_token, checkpoint)
        weights |= {parameter.name: packed_bytes(parameter, dtype) for parameter in matrices(next_calls)}
        activations += _activation_bytes(next_calls, (logits,), dtype, max_rows) + 4 * given.width * max_rows
        num_pages = cache.num_pages
        block_bytes += Cache(next_token, dtype=dtype, kv_format=kv_format, num_pages=num_pages).layout.block_bytes
    experts = pageable_bytes(calls, dtype)
    return MemoryPlan(sum(weights.values()), activations, block_bytes, cache.block_size, cache.formats, experts)


def _activation_bytes(calls: Sequence[Call], keep: Iterable[Value], dtype: str | None, max_rows: int) -> int:
    total = activation_bytes(calls, dtype, max_rows)

    def count(width: int, logit_rows: bool) -> int:
        nonlocal total
        total += 4 * width * (MAX_LOGIT_ROWS if logit_rows else max_rows)
        return total

    plan_buffers(fuse(calls), count, keep)
    return total


def selected_rows(calls: Sequence[Call]) -> Call:
    """The call that takes the rows whose logits are computed."""
    return next(call for call in calls if call.operation == "select_rows")


def final_norm(calls: Sequence[Call]) -> Call | None:
    """The norm of the rows whose logits are computed."""
    selected = selected_rows(calls).output
    return next((call for call in calls if call.operation == "rms_norm" and call.inputs[0] is selected), None)


def matrices(calls: Iterable[Call]) -> list[Parameter]:
    """Each weight once, in the order of its use."""
    used = {}
    for call in calls:
        own = [call.options["weight"]] if call.operation in ("linear", "head_linear") else ()
        for parameter in own or call.options.get("matrices", ()):
            used[parameter.name] = parameter
    return list(used.values())


def _kv_format(dtype: str | None, kv_format: str) -> str:
    if kv_format not in KV_FORMATS:
        raise RequestError(f"KV format {kv_format!r}: expected one of {', '.join(KV_FORMATS)}")
    return "f32" if dtype == "float32" else kv_format
