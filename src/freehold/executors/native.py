"""The native executor: traces a model's forward once into a Program and runs that in C++.

trace   the model's forward on symbolic values: a list of calls
fuse    calls that share rows or a barrier become one step: norm + projections, q/k/v + rope + cache write,
        gate/up + SwiGLU, projection + residual
plan    values that never live together share a buffer
build   weights are repacked, steps added to the native Program
"""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from freehold import _native, ops
from freehold.errors import EngineError, RequestError, UnsupportedError
from freehold.models.parameters import Parameters, named_parameters

MAX_LOGIT_ROWS = 64
KV_FORMATS = ("f16", "bf16", "int8", "f32")


# Trace ----------------------------------------------------------------------------------------------------------------


class Value:
    """A symbolic activation: float32 (rows, width), rows being the step's or only its logit rows."""

    __slots__ = ("graph", "logit_rows", "width")

    def __init__(self, graph: "Graph", width: int, logit_rows: bool):
        self.graph, self.width, self.logit_rows = graph, width, logit_rows

    @property
    def shape(self) -> tuple[str, int]:
        return ("logit rows" if self.logit_rows else "rows", self.width)


@dataclass(eq=False, slots=True)
class Call:
    operation: str
    inputs: tuple[Value, ...]
    output: Value
    options: dict[str, Any]


class Graph:
    """Records each operation that a forward calls on its values."""

    def __init__(self) -> None:
        self.calls: list[Call] = []

    def _call(self, operation: str, inputs: tuple[Value, ...], width: int, **options: Any) -> Value:
        output = Value(self, width, inputs[0].logit_rows or operation == "select_rows")
        self.calls.append(Call(operation, inputs, output, options))
        return output

    def embedding(self, tokens: Value, table: "Parameter") -> Value:
        return self._call("embedding", (tokens,), table.shape[1], table=table)

    def rms_norm(self, x: Value, weight: "Parameter | None", eps: float, num_heads: int, offset: float) -> Value:
        return self._call("rms_norm", (x,), x.width, weight=weight, eps=eps, num_heads=num_heads, offset=offset)

    def linear(self, x: Value, weight: "Parameter", bias: "Parameter | None") -> Value:
        return self._call("linear", (x,), weight.shape[0], weight=weight, bias=bias)

    def rope(self, x: Value, positions: Value, rope: ops.Rope, num_heads: int, first: int) -> Value:
        if first:
            raise UnsupportedError("rope of trailing channels: the native executor does not have this operation")
        return self._call("rope", (x,), x.width, rope=rope, num_heads=num_heads)

    def attention(
        self,
        q: Value,
        k: Value,
        v: Value,
        cache: int,
        heads: int,
        kv_heads: int,
        scale: float,
        window: int | None,
        chunk: int | None,
        sinks: "Parameter | None",
    ) -> Value:
        if chunk is not None:
            raise UnsupportedError("attention with chunks: the native executor does not have this operation")
        options = {"num_heads": heads, "num_kv_heads": kv_heads, "scale": scale, "window": window, "sinks": sinks}
        return self._call("attention", (q, k, v), q.width, layer=cache, **options)

    def swiglu(self, gate: Value, up: Value, glu: ops.Glu) -> Value:
        if glu != ops.Glu():
            raise UnsupportedError(f"swiglu of {glu}: the native executor does not have this operation")
        return self._call("swiglu", (gate, up), gate.width)

    def add(self, x: Value, y: Value, x_scale: float, y_scale: float) -> Value:
        if (x_scale, y_scale) != (1, 1):
            raise UnsupportedError("add with scales: the native executor does not have this operation")
        return self._call("add", (x, y), x.width)

    def select_rows(self, x: Value, rows: Any) -> Value:
        return self._call("select_rows", (x,), x.width)


class Operations:
    """`freehold.ops` on symbolic values: each is recorded in the graph of its first operand."""

    executor = "native"

    def __getattr__(self, operation: str) -> Callable[..., Value]:
        method = getattr(Graph, operation)  # AttributeError: the operation is not here
        return lambda value, *operands: method(value.graph, value, *operands)


ops.register(Value, Operations())


@dataclass(frozen=True, eq=False, slots=True)
class Parameter:
    """A named tensor of the checkpoint."""

    name: str
    tensor: Any

    @property
    def shape(self) -> tuple[int, ...]:
        return self.tensor.shape

    def floats(self) -> list[float]:
        if self.tensor.format == "F32":
            return self.tensor.data.cast("f").tolist()
        return self.tensor.dequantize().ravel().tolist()


@dataclass
class SymbolicBatch:
    tokens: Value
    positions: Value
    caches: range


def trace(model: Any, checkpoint: Any) -> tuple[list[Call], Value]:
    """The calls of one step, and the value that holds the logits."""
    graph = Graph()
    tensors = named_parameters(model, checkpoint.tensors)
    parameters = Parameters({name: Parameter(name, tensor) for name, tensor in tensors.items()})
    batch = SymbolicBatch(Value(graph, 1, False), Value(graph, 1, False), range(model.config.num_layers))
    hidden = model.forward(parameters, batch)
    return graph.calls, model.logits(parameters, ops.select_rows(hidden, None))


# Fuse -----------------------------------------------------------------------------------------------------------------


@dataclass(eq=False, slots=True)
class Step:
    """One or several calls that the native program runs as one operation.

    `in_place`: outputs that take over the buffer of a value which this step reads.
    """

    kind: str
    calls: list[Call]
    reads: list[Value]
    writes: list[Value]
    options: dict[str, Any] = field(default_factory=dict)
    in_place: dict[Value, Value] = field(default_factory=dict)


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
        taken.update(id(c) for c in step.calls)
        steps.append(step)
    return steps


def _is_norm_of_rows(call: Call) -> bool:
    return call.operation == "rms_norm" and call.options["num_heads"] == 1 and call.options["weight"] is not None


def _single(call: Call) -> Step:
    in_place = {call.output: call.inputs[0]} if call.operation in ("rope", "swiglu", "add") else {}
    return Step(call.operation, [call], list(call.inputs), [call.output], in_place=in_place)


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


# Plan -----------------------------------------------------------------------------------------------------------------


def plan_buffers(steps: Sequence[Step], new_buffer: Callable[[int, bool], int], keep: Value) -> dict[Value, int]:
    """Give each value a buffer; a buffer is used again once the last reader of its value is past."""
    last_use: dict[Value, int] = {keep: len(steps)}
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


# Build ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes that an executor will take."""

    weights_bytes: int
    activations_bytes: int
    block_bytes: int  # of one KV block
    block_size: int = _native.KV_BLOCK  # tokens of a block


def memory_plan(
    model: Any, checkpoint: Any, *, dtype: str | None = None, kv_format: str = "f16", max_rows: int = 512
) -> MemoryPlan:
    """What NativeExecutor with the same arguments will need, from shapes alone."""
    calls, logits = trace(model, checkpoint)
    weights = sum(_packed_bytes(parameter, dtype) for parameter in _matrices(calls))
    activations = 0

    def count(width: int, logit_rows: bool) -> int:
        nonlocal activations
        activations += 4 * width * (MAX_LOGIT_ROWS if logit_rows else max_rows)
        return activations

    plan_buffers(fuse(calls), count, logits)
    config = model.config
    block = _native.kv_block_bytes(
        _kv_format(dtype, kv_format), config.num_layers, config.num_kv_heads, config.head_dim
    )
    return MemoryPlan(weights, activations, block)


def _matrices(calls: Iterable[Call]) -> list[Parameter]:
    """Each weight matrix once, in the order of its use."""
    return list({c.options["weight"].name: c.options["weight"] for c in calls if c.operation == "linear"}.values())


def _packed_bytes(parameter: Parameter, dtype: str | None) -> int:
    return _native.packed_bytes("F32" if dtype == "float32" else parameter.tensor.format, *parameter.shape)


def _kv_format(dtype: str | None, kv_format: str) -> str:
    if kv_format not in KV_FORMATS:
        raise RequestError(f"KV format {kv_format!r}: expected one of {', '.join(KV_FORMATS)}")
    return "f32" if dtype == "float32" else kv_format


def make_pool(threads: int | None = None) -> Any:
    """The native threads and the instruction set: FREEHOLD_ISA's choice, else the machine's best."""
    isa = os.environ.get("FREEHOLD_ISA", "")
    supported = _native.supported_isas()
    if isa and isa not in supported:
        raise UnsupportedError(
            f"FREEHOLD_ISA={isa}: this machine cannot run it", f"supported here: {', '.join(supported)}"
        )
    threads = len(os.sched_getaffinity(0)) if threads is None else threads
    if not 1 <= threads <= 1024:
        raise RequestError(f"threads: expected 1 to 1024, got {threads}")
    return _native.Pool(threads, isa)


class NativeExecutor:
    """Runs steps of one model; see `engine.executor.Executor` for the face that the engine uses."""

    block_size = _native.KV_BLOCK
    keeps_states = False
    max_logit_rows = MAX_LOGIT_ROWS

    def __init__(
        self,
        model: Any,
        checkpoint: Any,
        *,
        num_blocks: int,
        threads: int | None = None,
        dtype: str | None = None,
        kv_format: str = "f16",
        max_rows: int = 512,
        fusing: bool = True,
    ):
        if dtype not in (None, "float32"):
            raise RequestError(f"dtype {dtype!r}: expected None (as the file has it) or 'float32'")
        config = model.config
        self.num_blocks, self.max_rows, self.vocabulary_size = num_blocks, max_rows, config.vocabulary_size
        self.pool = make_pool(threads)
        self._program = _native.Program(
            self.pool,
            max_rows=max_rows,
            max_logit_rows=MAX_LOGIT_ROWS,
            kv_format=_kv_format(dtype, kv_format),
            layers=config.num_layers,
            kv_heads=config.num_kv_heads,
            head_dim=config.head_dim,
            num_blocks=num_blocks,
        )
        calls, logits = trace(model, checkpoint)
        self._angles: dict[ops.Rope, int] = {}
        self._weights = self._pack(_matrices(calls), dtype)
        steps = fuse(calls, fusing)
        self._buffers = plan_buffers(steps, self._program.buffer, logits)
        for step in steps:
            getattr(self, f"_add_{step.kind}")(step)
        self._program.output(self._buffers[logits])

    def _pack(self, matrices: list[Parameter], dtype: str | None) -> dict[str, Any]:
        """The matrices repacked: those that lie in the file all at once, what is made first one by one."""
        arena = _native.WeightArena(sum(_packed_bytes(parameter, dtype) for parameter in matrices))
        lying = [p for p in matrices if dtype is None and p.tensor.place]
        tensors = [(p.tensor.format, *p.shape, p.tensor.data, True) for p in lying]
        packed = {p.name: weight for p, weight in zip(lying, _native.pack(self.pool, arena, tensors), strict=True)}
        for parameter in (p for p in matrices if p.name not in packed):
            tensor, form, data = parameter.tensor, parameter.tensor.format, parameter.tensor.data
            if dtype == "float32" and form != "F32":
                form, data = "F32", memoryview(tensor.dequantize()).cast("B")
            packed[parameter.name] = _native.pack(self.pool, arena, [(form, *parameter.shape, data, False)])[0]
            tensor.release()
        return packed

    # One method for each kind of step.

    def _add_embedding(self, step: Step) -> None:
        call = step.calls[0]
        tensor = call.options["table"].tensor
        path, offset = tensor.place or (None, 0)
        self._program.embedding(
            tensor.format, tensor.data, path and str(path), offset, *tensor.shape, self._buffers[call.output]
        )

    def _add_linear(self, step: Step) -> None:
        group, norm, rope = step.options["group"], step.options["norm"], step.options.get("rope")
        residual = step.options.get("residual")
        outputs = step.writes if residual is not None else [call.output for call in group]
        projections = []
        for call, output in zip(group, outputs, strict=False):
            bias = call.options["bias"]
            weight = self._weights[call.options["weight"].name]
            projections.append((weight, bias.floats() if bias else [], self._buffers[output]))
        self._program.linear(
            name=_short_name(group[0].options["weight"].name, step.options.get("epilogue", "")),
            input=self._buffers[step.reads[0]],
            norm=_norm_weight(norm) if norm else [],
            eps=norm.options["eps"] if norm else 0.0,
            projections=projections,
            residual=self._buffers[residual] if residual is not None else -1,
            epilogue=step.options.get("epilogue", ""),
            angles=self._rope_angles(rope) if rope else -1,
            rotary_dim=rope.rotary_dim if rope else 0,
            interleaved=rope.interleaved if rope else False,
            layer=step.options.get("layer", 0),
        )

    def _rope_angles(self, rope: ops.Rope) -> int:
        if rope not in self._angles:
            self._angles[rope] = self._program.buffer(rope.rotary_dim, False)
            self._program.rope_angles(list(rope.inverse_frequencies), rope.scale, self._angles[rope])
        return self._angles[rope]

    def _add_rope(self, step: Step) -> None:
        call = step.calls[0]
        rope, heads = call.options["rope"], call.options["num_heads"]
        source, out = self._buffers[call.inputs[0]], self._buffers[call.output]
        angles = self._rope_angles(rope)
        head_dim = call.output.width // heads
        self._program.rope(source, heads, head_dim, angles, rope.rotary_dim, rope.interleaved, out)

    def _add_attention(self, step: Step) -> None:
        call = step.calls[0]
        q, k, v = (self._buffers[value] for value in call.inputs)
        layer = call.options["layer"]
        if not call.options.get("cached"):
            self._program.cache_write(k, v, layer)
        out = self._buffers[call.output]
        heads, scale, sinks = (call.options[name] for name in ("num_heads", "scale", "sinks"))
        window = call.options["window"] or 0
        self._program.attention(q, out, layer, heads, scale, window, sinks.floats() if sinks else [])

    def _add_rms_norm(self, step: Step) -> None:
        call = step.calls[0]
        source, out = self._buffers[call.inputs[0]], self._buffers[call.output]
        self._program.rms_norm(source, _norm_weight(call), call.options["eps"], out)

    def _add_swiglu(self, step: Step) -> None:
        self._program.swiglu(*(self._buffers[value] for value in (*step.calls[0].inputs, step.calls[0].output)))

    def _add_add(self, step: Step) -> None:
        self._program.add(*(self._buffers[value] for value in (*step.calls[0].inputs, step.calls[0].output)))

    def _add_select_rows(self, step: Step) -> None:
        self._program.select_rows(self._buffers[step.calls[0].inputs[0]], self._buffers[step.calls[0].output])

    @property
    def info(self) -> dict[str, Any]:
        """What it runs with."""
        return {"isa": self.pool.isa, "threads": self.pool.threads}

    # The engine's face.

    def run(self, batch: Any) -> None:
        """Run one step (an `engine.executor.Batch`); its logits stay here until the next run."""
        try:
            self._program.run(batch.tokens, batch.positions, batch.row_starts, batch.block_tables, batch.logit_rows)
        except ValueError as error:
            raise EngineError(str(error)) from None

    def sample(self, samplers: list[Any]) -> list[Any]:
        """One Sample for each logit row of the last run, by its sampler."""
        return self._program.sample(samplers)

    def logits(self) -> Any:
        """Logits of the last run's logit rows: float32 (rows, vocabulary)."""
        return self._program.logits()

    def copy_block(self, source: int, target: int) -> None:
        self._program.copy_block(source, target)

    def reset_profile(self) -> None:
        self._program.set_profiling(True)

    def profile(self) -> list[tuple[str, int, float]]:
        """(operation, calls, seconds) since `reset_profile`, layers added up, the costliest first."""
        totals: dict[str, tuple[int, float]] = {}
        for name, calls, seconds in self._program.profile():
            before = totals.get(name, (0, 0.0))
            totals[name] = (before[0] + calls, before[1] + seconds)
        return sorted(((name, *total) for name, total in totals.items()), key=lambda row: -row[2])


def _norm_weight(call: Call) -> list[float]:
    """The factors of an rms_norm, of one head where all share them."""
    weight, offset = call.options["weight"], call.options["offset"]
    if weight is None:
        return [1.0] * (call.output.width // call.options["num_heads"])
    return [value + offset for value in weight.floats()] if offset else weight.floats()


def _short_name(weight: str, epilogue: str) -> str:
    if epilogue:
        return {"cache": "q, k, v + rope + cache", "swiglu": "gate, up + swiglu"}[epilogue]
    return weight.removesuffix(".weight").split(".")[-1]


def native_sampler(request: Any) -> Any:
    """The native sampler of an `engine.request.Request`."""
    params = request.params
    return _native.Sampler(
        temperature=params.temperature,
        top_k=params.top_k,
        top_p=params.top_p,
        min_p=params.min_p,
        repetition_penalty=params.repetition_penalty,
        presence_penalty=params.presence_penalty,
        frequency_penalty=params.frequency_penalty,
        seed=request.seed,
        num_logprobs=params.logprobs,
        logit_bias=list(params.logit_bias.items()),
        prompt=request.tokens if params.repetition_penalty != 1 else [],
    )
