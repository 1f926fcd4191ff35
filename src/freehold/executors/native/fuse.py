"""Fuse: calls that share rows or a barrier become one step.

Norm + projections, q/k/v + rope + cache write, gate/up + SwiGLU, projection + residual.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from freehold.executors.native.trace import Call, Value

IN_PLACE = ("rope", "swiglu", "add", "latent_attention")


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


def fuse(calls: Sequence[Call], fusing: bool = True) -> list[Step]:
    """Steps in the order of the calls; a call that belongs to an earlier step is taken with it."""
    users: dict[Value, list[Call]] = {}
    for call in calls:
        for value in call.inputs:
            users.setdefault(value, []).append(call)
    taken: set[int] = set()
    steps = []
    for call in calls:
        if id(call) in taken:
            continue
        step = _single(call)
        following = users.get(call.output, ())
        if fusing and following and _is_norm_of_rows(call) and all(user.operation == "linear" for user in following):
            step = _projections(users[call.output], users, norm=call)
        elif call.operation == "linear":
            group = [u for u in users[call.inputs[0]] if u.operation == "linear"] if fusing else [call]
            step = _projections(group, users if fusing else {}, norm=None)
        elif call.operation == "short_convolution" and fusing:
            step = _convolutions(call, calls, taken)
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


def _single(call: Call) -> Step:
    in_place = {call.output: call.inputs[0]} if call.operation in IN_PLACE else {}
    step = Step(call.operation, [call], list(call.inputs), [call.output], in_place=in_place)
    for source in (call.inputs[i] for i in PREPARED.get(call.operation, ())):
        step.prepared.append(Value(source.graph, source.width, source.logit_rows))
        step.in_place[step.prepared[-1]] = source
    step.writes += step.prepared
    return step


def _projections(group: list[Call], users: Mapping[Value, list[Call]], norm: Call | None) -> Step:
    """Matrices that read the same rows, with what may follow them at once."""
    outputs = [call.output for call in group]
    source = norm.inputs[0] if norm else group[0].inputs[0]
    step = Step("linear", [*([norm] if norm else []), *group], [source], outputs, {"group": group, "norm": norm})
    following = [users.get(value, []) for value in outputs]
    if any(len(calls) != 1 for calls in following):
        return step
    after = [calls[0] for calls in following]
    if len(group) == 3 and _is_attention_input(group, after, users):
        _fuse_cache(step, after)
    elif (
        len(group) == 2
        and after[0] is after[1]
        and after[0].operation == "swiglu"
        and after[0].inputs == tuple(outputs)
    ):
        step.calls.append(after[0])
        step.writes.append(after[0].output)
        step.options["epilogue"] = "swiglu"
        step.in_place[after[0].output] = outputs[0]
    elif len(group) == 1 and after[0].operation == "add":
        residual = next(value for value in after[0].inputs if value is not outputs[0])
        step.calls.append(after[0])
        step.reads.append(residual)
        step.writes = [after[0].output]
        step.options["residual"] = residual
        step.in_place[after[0].output] = residual
    return step


def _is_attention_input(group: list[Call], after: list[Call], users: Mapping[Value, list[Call]]) -> bool:
    q, k, v = after
    if (q.operation, k.operation, v.operation) != ("rope", "rope", "attention") or q.options["rope"] != k.options[
        "rope"
    ]:
        return False
    head_dim = q.output.width // v.options["num_heads"]
    return v.inputs == (q.output, k.output, group[2].output) and users[k.output] == [v] and head_dim % 16 == 0


def _fuse_cache(step: Step, after: list[Call]) -> None:
    q, k, attention = after
    step.calls += [q, k]
    step.writes += [q.output, k.output]
    step.options |= {"epilogue": "cache", "rope": q.options["rope"], "layer": attention.options["layer"]}
    step.in_place |= {q.output: q.inputs[0], k.output: k.inputs[0]}
    attention.options["cached"] = True
