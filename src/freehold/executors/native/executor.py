"""The native executor's face: steps are run in C++."""

import os
from collections.abc import Callable
from typing import Any

from freehold import _native
from freehold.errors import EngineError, RequestError, UnsupportedError
from freehold.executors.native.forward import Forward, norm_weight
from freehold.executors.native.plan import MAX_LOGIT_ROWS, Cache, final_norm, selected_rows
from freehold.executors.native.trace import trace, trace_next_token


def make_pool(threads: int | None = None) -> Any:
    """The native threads and the instruction set: FREEHOLD_ISA's choice, else the machine's best."""
    isa = os.environ.get("FREEHOLD_ISA", "")
    supported = _native.supported_isas()
    if isa and isa not in supported:
        raise UnsupportedError(
            f"FREEHOLD_ISA={isa}: this machine cannot run it", f"supported here: {', '.join(supported)}"
        )
    threads = len(os.sched_getaffinity(0)) if threads is None else threads
    if not isinstance(threads, int) or not 1 <= threads <= 1024:
        raise RequestError(f"threads: expected 1 to 1024, got {threads!r}")
    return _native.Pool(threads, isa)


class NativeExecutor:
    """Runs steps of one model; see `engine.executor.Executor` for the face that the engine uses.

    `experts_bytes`: memory for routed experts, which then stay in the file but for those used last; None: all of them
    are repacked at load. `next_token`: the model's layer for speculation (`models.mtp`). `meanwhile` is called while
    the pool's other threads repack.
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
        kv_format: str = "int16",
        max_rows: int = 512,
        fusing: bool = True,
        experts_bytes: int | None = None,
        next_token: Any = None,
        meanwhile: Callable[[], Any] | None = None,
    ):
        if dtype not in (None, "float32"):
            raise RequestError(f"dtype {dtype!r}: expected None (as the file has it) or 'float32'")
        self.num_blocks, self.max_rows, self.vocabulary_size = num_blocks, max_rows, model.config.vocabulary_size
        cache = Cache(model, dtype=dtype, kv_format=kv_format)
        self.block_size, self.keeps_states = cache.block_size, cache.keeps_states
        self.pool = make_pool(threads)
        calls, logits = trace(model, checkpoint)
        sizes: dict[str, Any] = {"num_blocks": num_blocks, "max_rows": max_rows, "dtype": dtype, "fusing": fusing}
        selected = selected_rows(calls)
        self._hidden = selected.inputs[0]
        self._main = Forward(
            self.pool,
            calls,
            cache,
            output=logits,
            keep=(self._hidden, selected.output),
            experts_bytes=experts_bytes,
            meanwhile=meanwhile,
            **sizes,
        )
        self._num_experts = sum(c.options["matrices"][0].shape[0] for c in calls if c.operation == "experts")
        self._final_norm, self._logits = final_norm(calls), logits
        self.foresees = next_token is not None
        if self.foresees:
            calls, logits, self._given = trace_next_token(next_token, checkpoint)
            cache = Cache(next_token, dtype=dtype, kv_format=kv_format, num_pages=cache.num_pages)
            self._next = Forward(
                self.pool, calls, cache, output=logits, given=self._given, packed=self._main.weights, **sizes
            )

    @property
    def info(self) -> dict[str, Any]:
        """What it runs with."""
        info = {"isa": self.pool.isa, "threads": self.pool.threads}
        if self._num_experts:
            absent = self._main.experts.total - self._main.experts.num_slots if self._main.experts else 0
            info["experts"] = {"total": self._num_experts, "in_memory": self._num_experts - absent}
        return info

    def experts_read(self) -> tuple[int, int]:
        """How often an expert that may stay in the file was found in memory, and how often it was read."""
        return (self._main.experts.cache.hits, self._main.experts.cache.misses) if self._main.experts else (0, 0)

    # The engine's face.

    def run(self, batch: Any) -> None:
        """Run one step (an `engine.executor.Batch`); its logits stay here until the next run."""
        try:
            self._main.run(batch)
        except ValueError as error:
            raise EngineError(str(error)) from None

    def sample(self, samplers: list[Any], drafts: list[list[int]]) -> list[list[Any]]:
        """What each sampler draws of its logit rows of the last run (see `engine.executor.Executor`)."""
        return self._main.program.sample(samplers, drafts)

    def logits(self) -> Any:
        """Logits of the last run's logit rows: float32 (rows, vocabulary)."""
        return self._main.program.logits()

    def hidden(self) -> Any:
        """Hidden states, after the final norm, of the last run's logit rows: float32 (rows, width)."""
        import numpy

        norm = self._final_norm
        if norm is None:
            raise UnsupportedError("embeddings: the model has no final norm")
        self._main.program.output(self._main.buffers[norm.inputs[0]])
        rows = self._main.program.logits().astype(numpy.float64)
        self._main.program.output(self._main.buffers[self._logits])
        rows /= numpy.sqrt((rows * rows).mean(-1, keepdims=True) + norm.options["eps"])
        return (rows * numpy.array(norm_weight(norm))).astype(numpy.float32)

    def foresee(self, batch: Any, rows: list[int]) -> list[int]:
        """Guesses of what follows `batch`'s logit rows (see `engine.executor.Executor`)."""
        program = self._next.program
        program.take_rows(self._next.buffers[self._given], self._main.program, self._main.buffers[self._hidden], rows)
        self._next.run(batch)
        return program.logits().argmax(-1).tolist() if batch.logit_rows else []

    def copy_block(self, source: int, target: int) -> None:
        self._main.program.copy_block(source, target)
        if self.foresees:
            self._next.program.copy_block(source, target)

    def reset_profile(self) -> None:
        self._main.program.set_profiling(True)

    def profile(self) -> list[tuple[str, int, float]]:
        """(operation, calls, seconds) since `reset_profile`, layers added up, the costliest first."""
        totals: dict[str, tuple[int, float]] = {}
        for name, calls, seconds in self._main.program.profile():
            before = totals.get(name, (0, 0.0))
            totals[name] = (before[0] + calls, before[1] + seconds)
        return sorted(((name, *total) for name, total in totals.items()), key=lambda row: -row[2])


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
