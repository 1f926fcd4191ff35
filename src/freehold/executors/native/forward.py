"""Build: weights are repacked, steps added to a native Program."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from freehold import _native, ops
from freehold.executors.native.experts import ExpertMemory, add_experts, native_glu, packed_bytes, pageable
from freehold.executors.native.fuse import Step, fuse
from freehold.executors.native.plan import MAX_LOGIT_ROWS, Cache, matrices, plan_buffers
from freehold.executors.native.trace import Call, Parameter, Value


class Forward:
    """The calls of a traced forward as a native Program, with a cache of its own.

    `output` is the value that its logits are; `keep`: values that are read after a run; `given`: one that is written
    before each, by the program's user. `packed`: matrices that another forward has repacked already, by name.
    `experts_bytes`: memory for routed experts, which then stay in the file but for those used last. `meanwhile` is
    called while the pool's other threads repack.
    """

    def __init__(
        self,
        pool: Any,
        calls: Sequence[Call],
        cache: Cache,
        *,
        output: Value,
        keep: Iterable[Value] = (),
        given: Value | None = None,
        packed: Mapping[str, list[Any]] | None = None,
        num_blocks: int,
        max_rows: int,
        dtype: str | None,
        fusing: bool = True,
        experts_bytes: int | None = None,
        meanwhile: Callable[[], Any] | None = None,
    ):
        self.pool, self.cache = pool, cache
        self.program = _native.Program(
            pool, max_rows=max_rows, max_logit_rows=MAX_LOGIT_ROWS, cache=cache.layout, num_blocks=num_blocks
        )
        self._angles: dict[ops.Rope, int] = {}
        staying = pageable(calls, dtype) if experts_bytes is not None else []
        self.experts = ExpertMemory(staying, experts_bytes or 0) if staying else None
        there = {*(packed or ()), *(self.experts.names if self.experts else ())}
        parameters = [p for p in matrices(calls) if p.name not in there]
        self.weights = self._pack(parameters, dtype, meanwhile) | dict(packed or {})
        steps = fuse(calls, fusing)
        self.buffers = plan_buffers(steps, self.program.buffer, (*keep, output))
        if given is not None:
            self.buffers[given] = self.program.buffer(given.width, given.logit_rows)
        for step in steps:
            getattr(self, f"_add_{step.kind}")(step)
        self.program.output(self.buffers[output])

    def run(self, batch: Any) -> None:
        """Run one step (an `engine.executor.Batch`). Raises ValueError where its indices are out of range."""
        self.program.run(batch.tokens, batch.positions, batch.row_starts, batch.block_tables, batch.logit_rows)

    def _pack(
        self, parameters: list[Parameter], dtype: str | None, meanwhile: Callable[[], Any] | None
    ) -> dict[str, list[Any]]:
        """The matrices of each parameter repacked: those that lie in a file all at once, others one by one."""
        arena = _native.WeightArena(sum(packed_bytes(parameter, dtype) for parameter in parameters))
        lying = [p for p in parameters if dtype is None and p.tensor.places]
        tensors = [(m.format, *m.shape, m.data, True) for p in lying for m in p.matrices]
        packed = iter(_native.pack(self.pool, arena, tensors, meanwhile))
        weights = {p.name: [next(packed) for _ in p.tensor.places] for p in lying}
        for parameter in (p for p in parameters if p.name not in weights):
            weights[parameter.name] = [self._pack_made(arena, matrix, dtype) for matrix in parameter.matrices]
            parameter.tensor.release()
        return weights

    def _pack_made(self, arena: Any, tensor: Any, dtype: str | None) -> Any:
        form, data = tensor.format, tensor.data
        if dtype == "float32" and form != "F32":
            form, data = "F32", memoryview(tensor.dequantize()).cast("B")
        return _native.pack(self.pool, arena, [(form, *tensor.shape, data, False)])[0]

    # One method for each kind of step.

    def _add_embedding(self, step: Step) -> None:
        call = step.calls[0]
        tensor = call.options["table"].tensor
        path, offset = tensor.place or (None, 0)
        self.program.embedding(
            tensor.format, tensor.data, path and str(path), offset, *tensor.shape, self.buffers[call.output]
        )

    def _add_linear(self, step: Step) -> None:
        group, norm, rope = step.options["group"], step.options["norm"], step.options.get("rope")
        residual = step.options.get("residual")
        outputs = step.writes if residual is not None else [call.output for call in group]
        projections = []
        for call, output in zip(group, outputs, strict=False):
            bias = call.options["bias"]
            weight = self.weights[call.options["weight"].name][0]
            projections.append((weight, bias.floats() if bias else [], self.buffers[output]))
        self.program.linear(
            name=_short_name(group[0].options["weight"].name, step.options.get("epilogue", "")),
            input=self.buffers[step.reads[0]],
            norm=norm_weight(norm) if norm else [],
            eps=norm.options["eps"] if norm else 0.0,
            projections=projections,
            residual=self.buffers[residual] if residual is not None else -1,
            epilogue=step.options.get("epilogue", ""),
            rope=self._rope_options(rope) if rope else None,
            layer=self.cache.layers.get(step.options.get("layer", 0), 0),
        )

    def _add_experts(self, step: Step) -> None:
        norm = step.options["norm"]
        add_experts(self.program, step, self.buffers, norm_weight(norm) if norm else [], self.weights, self.experts)

    def _rope_angles(self, rope: ops.Rope) -> int:
        if rope not in self._angles:
            self._angles[rope] = self.program.buffer(rope.rotary_dim, False)
            self.program.rope_angles(list(rope.inverse_frequencies), rope.scale, self._angles[rope])
        return self._angles[rope]

    def _rope_options(self, call: Call) -> Any:
        rope = call.options["rope"]
        return _native.RopeOptions(self._rope_angles(rope), call.options["first"], rope.rotary_dim, rope.interleaved)

    def _add_rope(self, step: Step) -> None:
        call = step.calls[0]
        heads = call.options["num_heads"]
        source, out = self.buffers[call.inputs[0]], self.buffers[call.output]
        self.program.rope(source, heads, call.output.width // heads, self._rope_options(call), out)

    def _add_attention(self, step: Step) -> None:
        call = step.calls[0]
        q, k, v = (self.buffers[value] for value in call.inputs)
        layer = self.cache.layers[call.options["layer"]]
        if not call.options.get("cached"):
            self.program.cache_write(k, v, layer)
        out = self.buffers[call.output]
        heads, scale, sinks = (call.options[name] for name in ("num_heads", "scale", "sinks"))
        window, chunk = call.options["window"] or 0, call.options["chunk"] or 0
        self.program.attention(q, out, layer, heads, scale, window, chunk, sinks.floats() if sinks else [])

    def _add_short_convolution(self, step: Step) -> None:
        parts = [
            (
                self.buffers[call.inputs[0]],
                self.buffers[call.output],
                _transposed(call.options["weight"]),
                self.cache.states[call.options["layer"], call.options["state"]],
            )
            for call in step.calls
        ]
        self.program.short_convolutions(step.calls[0].options["weight"].shape[1], parts)

    def _add_delta_rule(self, step: Step) -> None:
        call = step.calls[0]
        q, k, v, decay, beta = (self.buffers[value] for value in call.inputs)
        self.program.delta_rule(
            q=q,
            k=k,
            v=v,
            decay=decay,
            beta=beta,
            out=self.buffers[call.output],
            prepared=[self.buffers[value] for value in step.prepared],
            heads=call.inputs[4].width,
            key_heads=call.options["num_key_heads"],
            tiled_heads=call.options["tiled_heads"],
            rate=call.options["rate"].floats(),
            decay_bias=call.options["decay_bias"].floats(),
            state=self.cache.states[call.options["layer"], "state"],
        )

    def _add_lightning_attention(self, step: Step) -> None:
        call = step.calls[0]
        q, k, v = (self.buffers[value] for value in call.inputs)
        prepared = [self.buffers[value] for value in step.prepared]
        state = self.cache.states[call.options["layer"], "state"]
        slopes = list(call.options["slopes"])
        self.program.lightning_attention(q, k, v, self.buffers[call.output], prepared, slopes, state)

    def _add_head_linear(self, step: Step) -> None:
        call = step.calls[0]
        weight, strides = call.options["weight"], {name: call.options[name] for name in ("in_stride", "out_stride")}
        self.program.head_linear(
            name=_short_name(weight.name, ""),
            input=self.buffers[call.inputs[0]],
            weights=self.weights[weight.name],
            out=self.buffers[call.output],
            **strides,
        )

    def _add_latent_attention(self, step: Step) -> None:
        call = step.calls[0]
        absorbed, q, latents, rope_keys, *selected = (self.buffers[value] for value in call.inputs)
        kept = [self.cache.rows[call.options["layer"], name] for name in ("latents", "rope_keys")]
        self.program.keep_rows([(latents, kept[0]), (rope_keys, kept[1])])
        self.program.latent_attention(
            absorbed=absorbed,
            q=q,
            out=self.buffers[call.output],
            latents=kept[0],
            rope_keys=kept[1],
            **{name: call.options[name] for name in ("num_heads", "plain_dim", "scale")},
            selected=selected[0] if selected else -1,
            top_k=call.inputs[4].width if selected else 0,
        )

    def _add_select_keys(self, step: Step) -> None:
        call = step.calls[0]
        q, k, weights = (self.buffers[value] for value in call.inputs)
        keys = self.cache.rows[call.options["layer"], "index_keys"]
        self.program.keep_rows([(k, keys)])
        out, heads, top_k = self.buffers[call.output], call.inputs[2].width, call.output.width
        self.program.select_keys(q, weights, keys, heads, top_k, out)

    def _add_rms_norm(self, step: Step) -> None:
        source, out = self._buffers_of(step.calls[0])
        self.program.rms_norm(source, norm_weight(step.calls[0]), step.calls[0].options["eps"], out)

    def _add_gated_rms_norm(self, step: Step) -> None:
        call = step.calls[0]
        source, gate, out = self._buffers_of(call)
        activation = getattr(_native.Activation, call.options["activation"])
        self.program.gated_rms_norm(source, gate, norm_weight(call), call.options["eps"], activation, out)

    def _add_layer_norm(self, step: Step) -> None:
        source, out = self._buffers_of(step.calls[0])
        weight, bias, eps = (step.calls[0].options[name] for name in ("weight", "bias", "eps"))
        self.program.layer_norm(source, weight.floats(), bias.floats(), eps, out)

    def _add_swiglu(self, step: Step) -> None:
        gate, up, out = self._buffers_of(step.calls[0])
        self.program.swiglu(gate, up, native_glu(step.calls[0].options["glu"]), out)

    def _add_add(self, step: Step) -> None:
        x, y, out = self._buffers_of(step.calls[0])
        self.program.add(x, y, *step.calls[0].options["scales"], out)

    def _add_sigmoid_gate(self, step: Step) -> None:
        x, gate, out = self._buffers_of(step.calls[0])
        self.program.gate(x, gate, _native.Activation.sigmoid, out)

    def _add_scale_by_position(self, step: Step) -> None:
        source, out = self._buffers_of(step.calls[0])
        self.program.scale_by_position(source, step.calls[0].options["scale"], step.calls[0].options["step"], out)

    def _add_select_rows(self, step: Step) -> None:
        self.program.select_rows(*self._buffers_of(step.calls[0]))

    def _buffers_of(self, call: Call) -> list[int]:
        return [self.buffers[value] for value in (*call.inputs, call.output)]


def norm_weight(call: Call) -> list[float]:
    """The factors of an rms_norm, of one head where all share them."""
    weight, offset = call.options["weight"], call.options["offset"]
    if weight is None:
        return [1.0] * (call.output.width // call.options["num_heads"])
    return [value + offset for value in weight.floats()] if offset else weight.floats()


def _transposed(weight: Parameter) -> list[float]:
    """A matrix's values, column by column."""
    return weight.tensor.dequantize().T.ravel().tolist()


def _short_name(weight: str, epilogue: str) -> str:
    if epilogue:
        return {"cache": "q, k, v + rope + cache", "swiglu": "gate, up + swiglu"}[epilogue]
    return weight.removesuffix(".weight").split(".")[-1]
