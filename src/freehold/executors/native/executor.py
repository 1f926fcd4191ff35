"""Build and run: weights are repacked, steps added to the native Program."""

import os
from typing import Any

from freehold import _native, ops
from freehold.errors import EngineError, RequestError, UnsupportedError
from freehold.executors.native.experts import ExpertMemory, add_experts, native_glu, packed_bytes, pageable
from freehold.executors.native.fuse import Step, fuse
from freehold.executors.native.plan import (
    MAX_LOGIT_ROWS,
    Cache,
    final_norm,
    matrices,
    plan_buffers,
    selected_rows,
)
from freehold.executors.native.trace import Call, Parameter, trace


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
    """Runs steps of one model; see `engine.executor.Executor` for the face that the engine uses.

    `experts_bytes`: memory for routed experts, which then stay in the file but for those used last; None: all of them
    are repacked at load.
    """

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
        experts_bytes: int | None = None,
    ):
        if dtype not in (None, "float32"):
            raise RequestError(f"dtype {dtype!r}: expected None (as the file has it) or 'float32'")
        self.num_blocks, self.max_rows, self.vocabulary_size = num_blocks, max_rows, model.config.vocabulary_size
        self._cache = Cache(model, dtype=dtype, kv_format=kv_format)
        self.block_size, self.keeps_states = self._cache.block_size, self._cache.keeps_states
        self.pool = make_pool(threads)
        self._program = _native.Program(
            self.pool,
            max_rows=max_rows,
            max_logit_rows=MAX_LOGIT_ROWS,
            cache=self._cache.layout,
            num_blocks=num_blocks,
        )
        calls, logits = trace(model, checkpoint)
        self._angles: dict[ops.Rope, int] = {}
        staying = pageable(calls, dtype) if experts_bytes is not None else []
        self._experts = ExpertMemory(staying, experts_bytes or 0) if staying else None
        self._num_experts = sum(c.options["matrices"][0].shape[0] for c in calls if c.operation == "experts")
        paged = self._experts.names if self._experts else ()
        self._weights = self._pack([p for p in matrices(calls) if p.name not in paged], dtype)
        steps = fuse(calls, fusing)
        self._final_norm, self._logits = final_norm(calls), logits
        self._buffers = plan_buffers(steps, self._program.buffer, (selected_rows(calls), logits))
        for step in steps:
            getattr(self, f"_add_{step.kind}")(step)
        self._program.output(self._buffers[logits])

    def _pack(self, parameters: list[Parameter], dtype: str | None) -> dict[str, list[Any]]:
        """The matrices of each parameter repacked: those that lie in a file all at once, others one by one."""
        arena = _native.WeightArena(sum(packed_bytes(parameter, dtype) for parameter in parameters))
        lying = [p for p in parameters if dtype is None and p.tensor.places]
        tensors = [(m.format, *m.shape, m.data, True) for p in lying for m in p.matrices]
        packed = iter(_native.pack(self.pool, arena, tensors))
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
            weight = self._weights[call.options["weight"].name][0]
            projections.append((weight, bias.floats() if bias else [], self._buffers[output]))
        self._program.linear(
            name=_short_name(group[0].options["weight"].name, step.options.get("epilogue", "")),
            input=self._buffers[step.reads[0]],
            norm=_norm_weight(norm) if norm else [],
            eps=norm.options["eps"] if norm else 0.0,
            projections=projections,
            residual=self._buffers[residual] if residual is not None else -1,
            epilogue=step.options.get("epilogue", ""),
            rope=self._rope_options(rope) if rope else None,
            layer=self._cache.layers.get(step.options.get("layer", 0), 0),
        )

    def _add_experts(self, step: Step) -> None:
        norm = step.options["norm"]
        add_experts(
            self._program, step, self._buffers, _norm_weight(norm) if norm else [], self._weights, self._experts
        )

    def _rope_angles(self, rope: ops.Rope) -> int:
        if rope not in self._angles:
            self._angles[rope] = self._program.buffer(rope.rotary_dim, False)
            self._program.rope_angles(list(rope.inverse_frequencies), rope.scale, self._angles[rope])
        return self._angles[rope]

    def _rope_options(self, call: Call) -> Any:
        rope = call.options["rope"]
        return _native.RopeOptions(self._rope_angles(rope), call.options["first"], rope.rotary_dim, rope.interleaved)

    def _add_rope(self, step: Step) -> None:
        call = step.calls[0]
        heads = call.options["num_heads"]
        source, out = self._buffers[call.inputs[0]], self._buffers[call.output]
        self._program.rope(source, heads, call.output.width // heads, self._rope_options(call), out)

    def _add_attention(self, step: Step) -> None:
        call = step.calls[0]
        q, k, v = (self._buffers[value] for value in call.inputs)
        layer = self._cache.layers[call.options["layer"]]
        if not call.options.get("cached"):
            self._program.cache_write(k, v, layer)
        out = self._buffers[call.output]
        heads, scale, sinks = (call.options[name] for name in ("num_heads", "scale", "sinks"))
        window, chunk = call.options["window"] or 0, call.options["chunk"] or 0
        self._program.attention(q, out, layer, heads, scale, window, chunk, sinks.floats() if sinks else [])

    def _add_short_convolution(self, step: Step) -> None:
        parts = [
            (
                self._buffers[call.inputs[0]],
                self._buffers[call.output],
                _transposed(call.options["weight"]),
                self._cache.states[call.options["layer"], call.options["state"]],
            )
            for call in step.calls
        ]
        self._program.short_convolutions(step.calls[0].options["weight"].shape[1], parts)

    def _add_delta_rule(self, step: Step) -> None:
        call = step.calls[0]
        q, k, v, decay, beta = (self._buffers[value] for value in call.inputs)
        self._program.delta_rule(
            q=q,
            k=k,
            v=v,
            decay=decay,
            beta=beta,
            out=self._buffers[call.output],
            prepared=[self._buffers[value] for value in step.prepared],
            heads=call.inputs[4].width,
            key_heads=call.options["num_key_heads"],
            tiled_heads=call.options["tiled_heads"],
            rate=call.options["rate"].floats(),
            decay_bias=call.options["decay_bias"].floats(),
            state=self._cache.states[call.options["layer"], "state"],
        )

    def _add_lightning_attention(self, step: Step) -> None:
        call = step.calls[0]
        q, k, v = (self._buffers[value] for value in call.inputs)
        prepared = [self._buffers[value] for value in step.prepared]
        state = self._cache.states[call.options["layer"], "state"]
        slopes = list(call.options["slopes"])
        self._program.lightning_attention(q, k, v, self._buffers[call.output], prepared, slopes, state)

    def _add_head_linear(self, step: Step) -> None:
        call = step.calls[0]
        weight, strides = call.options["weight"], {name: call.options[name] for name in ("in_stride", "out_stride")}
        self._program.head_linear(
            name=_short_name(weight.name, ""),
            input=self._buffers[call.inputs[0]],
            weights=self._weights[weight.name],
            out=self._buffers[call.output],
            **strides,
        )

    def _add_latent_attention(self, step: Step) -> None:
        call = step.calls[0]
        absorbed, q, latents, rope_keys, *selected = (self._buffers[value] for value in call.inputs)
        kept = [self._cache.rows[call.options["layer"], name] for name in ("latents", "rope_keys")]
        self._program.keep_rows([(latents, kept[0]), (rope_keys, kept[1])])
        self._program.latent_attention(
            absorbed=absorbed,
            q=q,
            out=self._buffers[call.output],
            latents=kept[0],
            rope_keys=kept[1],
            **{name: call.options[name] for name in ("num_heads", "plain_dim", "scale")},
            selected=selected[0] if selected else -1,
            top_k=call.inputs[4].width if selected else 0,
        )

    def _add_select_keys(self, step: Step) -> None:
        call = step.calls[0]
        q, k, weights = (self._buffers[value] for value in call.inputs)
        keys = self._cache.rows[call.options["layer"], "index_keys"]
        self._program.keep_rows([(k, keys)])
        out, heads, top_k = self._buffers[call.output], call.inputs[2].width, call.output.width
        self._program.select_keys(q, weights, keys, heads, top_k, out)

    def _add_rms_norm(self, step: Step) -> None:
        source, out = self._buffers_of(step.calls[0])
        self._program.rms_norm(source, _norm_weight(step.calls[0]), step.calls[0].options["eps"], out)

    def _add_gated_rms_norm(self, step: Step) -> None:
        call = step.calls[0]
        source, gate, out = self._buffers_of(call)
        activation = getattr(_native.Activation, call.options["activation"])
        self._program.gated_rms_norm(source, gate, _norm_weight(call), call.options["eps"], activation, out)

    def _add_layer_norm(self, step: Step) -> None:
        source, out = self._buffers_of(step.calls[0])
        weight, bias, eps = (step.calls[0].options[name] for name in ("weight", "bias", "eps"))
        self._program.layer_norm(source, weight.floats(), bias.floats(), eps, out)

    def _add_swiglu(self, step: Step) -> None:
        gate, up, out = self._buffers_of(step.calls[0])
        self._program.swiglu(gate, up, native_glu(step.calls[0].options["glu"]), out)

    def _add_add(self, step: Step) -> None:
        x, y, out = self._buffers_of(step.calls[0])
        self._program.add(x, y, *step.calls[0].options["scales"], out)

    def _add_sigmoid_gate(self, step: Step) -> None:
        x, gate, out = self._buffers_of(step.calls[0])
        self._program.gate(x, gate, _native.Activation.sigmoid, out)

    def _add_scale_by_position(self, step: Step) -> None:
        source, out = self._buffers_of(step.calls[0])
        self._program.scale_by_position(source, step.calls[0].options["scale"], step.calls[0].options["step"], out)

    def _add_select_rows(self, step: Step) -> None:
        self._program.select_rows(*self._buffers_of(step.calls[0]))

    def _buffers_of(self, call: Call) -> list[int]:
        return [self._buffers[value] for value in (*call.inputs, call.output)]

    @property
    def info(self) -> dict[str, Any]:
        """What it runs with."""
        info = {"isa": self.pool.isa, "threads": self.pool.threads}
        if self._num_experts:
            absent = self._experts.total - self._experts.num_slots if self._experts else 0
            info["experts"] = {"total": self._num_experts, "in_memory": self._num_experts - absent}
        return info

    def experts_read(self) -> tuple[int, int]:
        """How often an expert that may stay in the file was found in memory, and how often it was read."""
        return (self._experts.cache.hits, self._experts.cache.misses) if self._experts else (0, 0)

    # The engine's face.

    def run(self, batch: Any) -> None:
        """Run one step (an `engine.executor.Batch`); its logits stay here until the next run."""
        try:
            self._program.run(batch.tokens, batch.positions, batch.row_starts, batch.block_tables, batch.logit_rows)
        except ValueError as error:
            raise EngineError(str(error)) from None

    def sample(self, samplers: list[Any], drafts: list[list[int]]) -> list[list[Any]]:
        """What each sampler draws of its logit rows of the last run (see `engine.executor.Executor`)."""
        return self._program.sample(samplers, drafts)

    def logits(self) -> Any:
        """Logits of the last run's logit rows: float32 (rows, vocabulary)."""
        return self._program.logits()

    def hidden(self) -> Any:
        """Hidden states, after the final norm, of the last run's logit rows: float32 (rows, width)."""
        import numpy

        norm = self._final_norm
        if norm is None:
            raise UnsupportedError("embeddings: the model has no final norm")
        self._program.output(self._buffers[norm.inputs[0]])
        rows = self._program.logits().astype(numpy.float64)
        self._program.output(self._buffers[self._logits])
        rows /= numpy.sqrt((rows * rows).mean(-1, keepdims=True) + norm.options["eps"])
        return (rows * numpy.array(_norm_weight(norm))).astype(numpy.float32)

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


def _transposed(weight: Parameter) -> list[float]:
    """A matrix's values, column by column."""
    return weight.tensor.dequantize().T.ravel().tolist()


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
