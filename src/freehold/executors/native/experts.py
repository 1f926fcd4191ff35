"""Routed experts: their step, and where their weights lie: all packed in memory, or in the file until they are used."""

from collections.abc import Iterable, Sequence
from typing import Any

from freehold import _native, ops
from freehold.executors.native.fuse import Step
from freehold.executors.native.trace import Call, Parameter


def packed_bytes(parameter: Parameter, dtype: str | None) -> int:
    """Of a matrix, or of all experts' matrices."""
    *count, rows, columns = parameter.shape
    form = "F32" if dtype == "float32" else parameter.tensor.format
    return (count[0] if count else 1) * _native.packed_bytes(form, rows, columns)


def pageable(calls: Iterable[Call], dtype: str | None) -> list[Call]:
    """The operations whose experts may stay in the file: they lie there as they are used."""
    experts = [call for call in calls if call.operation == "experts"]
    return [c for c in experts if dtype is None and all(m.tensor.places for m in c.options["matrices"])]


def pageable_bytes(calls: Iterable[Call], dtype: str | None) -> int:
    return sum(packed_bytes(matrix, dtype) for call in pageable(calls, dtype) for matrix in call.options["matrices"])


def activation_bytes(calls: Iterable[Call], dtype: str | None, max_rows: int) -> int:
    """What the rows of experts take, which all layers share."""
    return max((_activation_bytes(call, dtype, max_rows) for call in calls if call.operation == "experts"), default=0)


def _activation_bytes(call: Call, dtype: str | None, max_rows: int) -> int:
    gate, up, down = call.options["matrices"]
    plain = [dtype == "float32" or m.tensor.format.startswith(("F", "BF")) for m in (gate, up, down)]
    inputs, inner = gate.shape[2], down.shape[2]
    return _native.experts_memory_bytes(
        max_rows, call.options["router"].top_k, inputs, inner, plain[0] or plain[1], plain[2]
    )


class ExpertMemory:
    """The slots of a model whose experts stay in the file: as many as `num_bytes` hold."""

    def __init__(self, calls: Sequence[Call], num_bytes: int):
        self.names = {matrix.name for call in calls for matrix in call.options["matrices"]}
        self.total = sum(call.options["matrices"][0].shape[0] for call in calls)
        sizes = [sum(packed_bytes(m, None) // m.shape[0] for m in call.options["matrices"]) for call in calls]
        self.num_slots = min(self.total, num_bytes // max(sizes))
        self.cache = _native.ExpertCache(max(sizes), self.num_slots)

    def matrix(self, parameter: Parameter, bias: list[float]) -> Any:
        tensor = parameter.tensor
        places = [(str(path), offset) for path, offset in tensor.places]
        return _native.lying_experts(self.cache, tensor.format, *parameter.shape[1:], places, bias)


def add_experts(
    program: Any, step: Step, buffers: Any, norm: list[float], weights: Any, memory: ExpertMemory | None
) -> None:
    """Add the step to the native program.

    `weights`: the packed matrices of experts; `memory`: of those that stay in the file, where some do.
    """
    call, norm_call, residual = step.calls[0], step.options["norm"], step.options.get("residual")
    gate = call.options["matrices"][0]
    lying = memory if memory is not None and gate.name in memory.names else None
    matrices = []
    for parameter, bias in zip(call.options["matrices"], call.options["biases"], strict=True):
        floats = bias.floats() if bias else []
        matrices.append(
            lying.matrix(parameter, floats) if lying else _native.packed_experts(weights[parameter.name], floats)
        )
    program.experts(
        input=buffers[step.reads[0]],
        norm=norm,
        eps=norm_call.options["eps"] if norm_call else 0.0,
        logits=buffers[call.inputs[1]],
        out=buffers[step.writes[0]],
        residual=buffers[residual] if residual is not None else -1,
        router=_router(call.options["router"], call.options["correction"]),
        gate=matrices[0],
        up=matrices[1],
        down=matrices[2],
        glu=native_glu(call.options["glu"]),
        cache=lying.cache if lying else None,
    )


def _router(router: ops.Router, correction: Parameter | None) -> Any:
    return _native.RouterOptions(
        top_k=router.top_k,
        sigmoid=router.scoring == "sigmoid",
        num_groups=router.num_groups,
        top_groups=router.top_groups,
        best_two=router.group_score == "top2",
        normalize=router.normalize,
        least_sum=router.least_sum,
        scale=router.scale,
        scales_inputs=router.scales_inputs,
        correction=correction.floats() if correction else [],
    )


def native_glu(glu: ops.Glu) -> Any:
    return _native.Glu(glu.alpha, float("inf") if glu.limit is None else glu.limit, glu.offset)
