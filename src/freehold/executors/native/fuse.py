"""Fuse: calls that share rows or a barrier become one step.

Norm + projections or experts, q/k/v + rope + cache write, gate/up + SwiGLU, projection or experts + residual.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from freehold import ops
from freehold.executors.native.trace import Call, Value

IN_PLACE = ("rope", "swiglu", "add", "sigmoid_gate", "scale_by_position", "latent_attention")


@dataclass(eq=False, slots=True)
class Step:
    """One or several calls that the native program runs as one operation.

    `in_place`: outputs that take over the buffer of a value which this step reads. `prepared`: values of the step's
    own, which nothing after it reads.
    """

    kind: str
    calls: list[Call]
    reads: list[Value]
    writes: list[Value]
    options: dict[str, Any] = field(default_factory=dict)
    in_place: dict[Value, Value] = field(default_factory=dict)
    prepared: list[Value] = field(default_factory=list)


class Uses:
    """Who reads a value, and when it is there."""

    def __init__(self, calls: Sequence[Call]):
        self._readers: dict[Value, list[Call]] = {}
        self._index = {call.output: index for index, call in enumerate(calls)}
        for call in calls:
            for value in call.inputs:
                self._readers.setdefault(value, []).append(call)

    def readers(self, value: Value) -> list[Call]:
        return self._readers.get(value, [])

    def only_reader(self, value: Value, operation: str) -> Call | None:
        """The one call that reads the value, if it is of that operation."""
        readers = self.readers(value)
        return readers[0] if len(readers) == 1 and readers[0].operation == operation else None

    def precedes(self, value: Value, call: Call) -> bool:
        return self._index.get(value, -1) < self._index[call.output]


def fuse(calls: Sequence[Call], fusing: bool = True) -> list[Step]:
    """Steps in the order of the calls; a call that belongs to an earlier step is taken with it."""
    uses = Uses(calls if fusing else ())
    norms: dict[Value, Call] = {}  # of rows that those who read them make for themselves
    taken: set[int] = set()
    steps = []
    for call in calls:
        if id(call) in taken:
            continue
        if _is_norm_of_rows(call) and _is_input_of_matrices(call.output, uses):
            norms[call.output] = call
            continue
        if call.operation == "linear":
            step = _projections(_group(call, uses), uses, norms.get(call.inputs[0]))
        elif call.operation == "experts":
            step = _experts(call, uses, norms.get(call.inputs[0]))
        elif call.operation == "short_convolution" and fusing:
            step = _convolutions(call, calls, taken)
        else:
            step = _single(call)
        taken.update(id(c) for c in step.calls)
        steps.append(step)
    return steps


# Inputs that a recurrence makes ready before its rows go one after the other.
PREPARED = {"delta_rule": (0, 1, 3, 4), "lightning_attention": (0, 1, 2)}


def _convolutions(first: Call, calls: Sequence[Call], taken: set[int]) -> Step:
    """The layer's convolutions whose inputs are there already."""
    made = {call.output for call in calls if id(call) in taken}
    group = [
        call
        for call in calls
        if call.operation == "short_convolution"
        and call.options["layer"] == first.options["layer"]
        and call.options["weight"].shape[1] == first.options["weight"].shape[1]
        and (call is first or call.inputs[0] in made)
    ]
    return Step("short_convolution", group, [call.inputs[0] for call in group], [call.output for call in group])


def _is_norm_of_rows(call: Call) -> bool:
    return call.operation == "rms_norm" and call.options["num_heads"] == 1 and call.options["weight"] is not None


def _is_input_of_matrices(value: Value, uses: Uses) -> bool:
    readers = uses.readers(value)
    return bool(readers) and all(r.operation in ("linear", "experts") and r.inputs[0] is value for r in readers)


def _single(call: Call) -> Step:
    in_place = {call.output: call.inputs[0]} if call.operation in IN_PLACE else {}
    step = Step(call.operation, [call], list(call.inputs), [call.output], in_place=in_place)
    for source in (call.inputs[i] for i in PREPARED.get(call.operation, ())):
        step.prepared.append(Value(source.graph, source.width, source.logit_rows))
        step.in_place[step.prepared[-1]] = source
    step.writes += step.prepared
    return step


def _group(call: Call, uses: Uses) -> list[Call]:
    """The matrices that read the same rows as `call`; gate and up of one SwiGLU are a group of their own."""
    glu = uses.only_reader(call.output, "swiglu")
    same = [reader for reader in uses.readers(call.inputs[0]) if reader.operation == "linear"]
    return [other for other in same if uses.only_reader(other.output, "swiglu") is glu] or [call]


def _projections(group: list[Call], uses: Uses, norm: Call | None) -> Step:
    """Matrices that read the same rows, with what may follow them at once."""
    outputs = [call.output for call in group]
    source = norm.inputs[0] if norm else group[0].inputs[0]
    step = Step("linear", list(group), [source], outputs, {"group": group, "norm": norm})
    glu = uses.only_reader(outputs[0], "swiglu")
    if len(group) == 3 and _is_attention_input(group, uses):
        _fuse_cache(step, group, uses)
    elif len(group) == 2 and glu and glu.inputs == tuple(outputs) and glu.options["glu"] == ops.Glu():
        step.calls.append(glu)
        step.writes.append(glu.output)
        step.options["epilogue"] = "swiglu"
        step.in_place[glu.output] = outputs[0]
    elif len(group) == 1 and (residual := _fuse_residual(step, group[0], uses)):
        step.in_place[step.writes[0]] = residual
    return step


def _experts(call: Call, uses: Uses, norm: Call | None) -> Step:
    source = norm.inputs[0] if norm else call.inputs[0]
    step = Step("experts", [call], [source, call.inputs[1]], [call.output], {"norm": norm})
    if residual := _fuse_residual(step, call, uses):
        step.in_place[step.writes[0]] = residual
    return step


def _fuse_residual(step: Step, call: Call, uses: Uses) -> Value | None:
    """Take the addition that follows, if what is added is there in time; that value."""
    add = uses.only_reader(call.output, "add")
    if add is None or add.options["scales"] != (1, 1):
        return None
    residual = next(value for value in add.inputs if value is not call.output)
    if not uses.precedes(residual, call):
        return None
    step.calls.append(add)
    step.reads.append(residual)
    step.writes = [add.output]
    step.options["residual"] = residual
    return residual


def _is_attention_input(group: list[Call], uses: Uses) -> bool:
    q, k = (uses.only_reader(call.output, "rope") for call in group[:2])
    attention = uses.only_reader(group[2].output, "attention")
    if not (q and k and attention) or any(q.options[name] != k.options[name] for name in ("rope", "first")):
        return False
    head_dim = q.output.width // attention.options["num_heads"]
    alone = uses.readers(k.output) == [attention]
    return attention.inputs == (q.output, k.output, group[2].output) and alone and head_dim % 16 == 0


def _fuse_cache(step: Step, group: list[Call], uses: Uses) -> None:
    q, k, attention = (uses.readers(call.output)[0] for call in group)
    step.calls += [q, k]
    step.writes += [q.output, k.output]
    step.options |= {"epilogue": "cache", "rope": q, "layer": attention.options["layer"]}
    step.in_place |= {q.output: q.inputs[0], k.output: k.inputs[0]}
    attention.options["cached"] = True
