"""The torch executor: runs a model's forward eagerly on tensors, on a CPU or a GPU.

In float32 on a CPU it is the reference that the native executor is checked against. The operations stand in
`torch_operations.py`; without a cache the same forward trains through autograd (`forward`). On a GPU steps of few rows
are compiled (`torch_compiled.py`).
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch

from freehold import ops
from freehold.errors import RequestError, UnsupportedError
from freehold.executors.memory_plan import MemoryPlan
from freehold.executors.torch_operations import LayerCache, Step, TorchBatch
from freehold.models.parameters import Parameters, named_parameters

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
MAX_LOGIT_ROWS = 64


def _draw(sampler: Any, rows: Sequence[Any], drafts: Sequence[int]) -> list[Any]:
    drawn = [sampler.sample(rows[0])]
    for row, draft in zip(rows[1:], drafts, strict=True):
        if drawn[-1][0] != draft:
            break
        drawn.append(sampler.sample(row))
    return drawn


def check_device(device: str) -> torch.device:
    """Raises RequestError for a device that torch does not know, UnsupportedError for one that is not here."""
    try:
        place = torch.device(device)
    except RuntimeError:
        raise RequestError(f"device {device!r}: expected cpu, cuda or cuda:N") from None
    if place.type == "cuda" and (place.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise UnsupportedError(f"device {device!r}: torch {torch.__version__} finds {count} CUDA devices here")
    if place.type not in ("cpu", "cuda"):
        raise UnsupportedError(f"device {device!r}: expected cpu, cuda or cuda:N")
    return place


def available_device_memory(device: str) -> int:
    """Free bytes of a GPU. Raises as `check_device`."""
    return torch.cuda.mem_get_info(check_device(device))[0]


def check_dtype(device: str, dtype: str | None) -> torch.dtype:
    """The default on a CPU is float32, on a GPU bfloat16. Raises RequestError for one that is not here."""
    name = dtype or ("float32" if device == "cpu" else "bfloat16")
    if name not in DTYPES:
        raise RequestError(f"dtype {name!r}: expected one of {', '.join(DTYPES)}")
    return DTYPES[name]


def memory_plan(
    model: Any,
    checkpoint: Any,
    *,
    device: str = "cpu",
    dtype: str | None = None,
    max_rows: int = 512,
    next_token: Any = None,
) -> MemoryPlan:
    """What TorchExecutor with the same arguments will need, from shapes alone; activations are an estimate."""
    item = check_dtype(device, dtype).itemsize
    further = [next_token] if next_token is not None else []
    shapes = {name: shape for part in (model, *further) for name, shape in part.parameter_shapes().items()}
    weights = sum(item * _count(shape) for shape in shapes.values())
    config = model.config
    widest = max(_count(shape[1:]) + shape[0] for shape in model.parameter_shapes().values() if len(shape) == 2)
    rows = max_rows * 4 * (8 * config.hidden_size + 4 * min(widest, 8 * config.hidden_size))
    scores = 4 * max_rows * config.num_heads * min(config.context_length, 8192)
    logits = 4 * MAX_LOGIT_ROWS * config.vocabulary_size
    size, specs = block_size(model), [spec for part in (model, *further) for spec in part.caches()]
    tokens = sum(width for spec in specs for width in spec.tokens.values())
    states = sum(_count(shape) for spec in specs for shape in spec.states.values())
    form = {torch.float32: "f32", torch.bfloat16: "bf16", torch.float16: "f16"}[check_dtype(device, dtype)]
    formats = {name: form for spec in specs for name in spec.tokens}
    formats |= {name: "f32" for spec in specs for name in spec.states}
    return MemoryPlan(weights, rows + scores + logits, item * size * tokens + 4 * states, size, formats)


def block_size(model: Any) -> int:
    """Tokens of a block: more where a block also keeps a state, which is as large as many tokens' keys and values."""
    return 256 if any(spec.states for spec in model.caches()) else 32


def can_compile(model: Any) -> bool:
    """Whether steps can be compiled: all that the model's layers keep is keys and values."""
    return all(set(spec.tokens) == {"keys", "values"} and not spec.states for spec in model.caches())


def _count(shape: Sequence[int]) -> int:
    count = 1
    for length in shape:
        count *= length
    return count


def load_parameters(
    model: Any, checkpoint: Any, *, device: str = "cpu", dtype: str | None = None, there: Collection[str] = ()
) -> dict[str, torch.Tensor]:
    """The checkpoint's tensors but those `there`, dequantized, by published name.

    Vectors (norms, biases, gates) stay float32.
    """
    tensors = named_parameters(model, checkpoint.tensors)
    place, wanted = check_device(device), check_dtype(device, dtype)
    parameters = {}
    for name, shape in model.parameter_shapes().items():
        if name in there:
            continue
        tensor = tensors[name]
        value = torch.from_numpy(tensor.dequantize())
        parameters[name] = value.to(place, wanted if len(shape) > 1 else torch.float32)
        tensor.release()
    return parameters


def forward(model: Any, parameters: Mapping[str, torch.Tensor], sequences: Sequence[torch.Tensor]) -> torch.Tensor:
    """Logits of every token of whole sequences, one after the other: float32 (T, vocabulary). Autograd sees all of it.

    `sequences`: int64 tensors on the parameters' device; `parameters`: those of `load_parameters`, or what an adapter
    has made of them.
    """
    starts = [0]
    for sequence in sequences:
        starts.append(starts[-1] + len(sequence))
    tokens = torch.cat(list(sequences))
    positions = torch.cat([torch.arange(len(sequence), device=tokens.device) for sequence in sequences])
    step = Step(positions, starts, [0] * len(sequences), None)
    caches = [LayerCache(step) for _ in range(model.config.num_layers)]
    named = Parameters(parameters)
    hidden = model.forward(named, TorchBatch(tokens, positions, caches))
    return model.logits(named, hidden).float()


class TorchExecutor:
    """Runs steps of one model; see `engine.executor.Executor` for the face that the engine uses.

    `device`: "cpu" or "cuda". `dtype`, of matrices and of the KV cache: "float32" (the default on a CPU), "bfloat16"
    (the default on a GPU) or "float16"; sums inside norms and softmax are float32 always. `threads` are torch's own,
    those of the whole process. `compiled`: steps of few rows are compiled where the model allows, the first time taking
    a minute or so; by default on a GPU.
    """

    max_logit_rows = MAX_LOGIT_ROWS

    def __init__(
        self,
        model: Any,
        checkpoint: Any,
        *,
        num_blocks: int,
        device: str = "cpu",
        dtype: str | None = None,
        threads: int | None = None,
        max_rows: int = 512,
        next_token: Any = None,
        compiled: bool | None = None,
    ):
        if threads is not None:
            if not 1 <= threads <= 1024:
                raise RequestError(f"threads: expected 1 to 1024, got {threads}")
            torch.set_num_threads(threads)
        self.num_blocks, self.max_rows, self.vocabulary_size = num_blocks, max_rows, model.config.vocabulary_size
        self.block_size = block_size(model)
        self.keeps_states = any(spec.states for spec in model.caches())
        self.device = check_device(device)
        self._model = model
        self.parameters = load_parameters(model, checkpoint, device=device, dtype=dtype)
        kept = check_dtype(device, dtype)
        compiles = (self.device.type == "cuda" if compiled is None else compiled) and can_compile(model)
        # Compiled steps need one block more than is given out, for rows that belong to no request.
        self._storage = [self._make_cache(spec, kept, num_blocks + compiles) for spec in model.caches()]
        self._compiled = self._compile() if compiles else None
        self._next, self.foresees = next_token, next_token is not None
        self._next_storage: list[dict[str, torch.Tensor]] = []
        if self.foresees:
            more = load_parameters(next_token, checkpoint, device=device, dtype=dtype, there=self.parameters)
            self._next_parameters = self.parameters | more
            self._next_storage = [self._make_cache(spec, kept, num_blocks) for spec in next_token.caches()]
        self._logits = torch.zeros(0, self.vocabulary_size)
        self._hidden = self._rows = torch.zeros(0, model.config.hidden_size)

    @property
    def info(self) -> dict[str, Any]:
        """What it runs with."""
        dtype = str(next(iter(self.parameters.values())).dtype).removeprefix("torch.")
        return {"isa": f"torch {torch.__version__}", "threads": torch.get_num_threads(), "device": str(self.device)} | {
            "dtype": dtype,
            "compiled": self._compiled is not None and self._compiled.works,
        }

    def _make_cache(self, spec: ops.CacheSpec, dtype: torch.dtype, blocks: int) -> dict[str, torch.Tensor]:
        """A layer's memory: (blocks, block size, width) for what tokens leave, (blocks, *shape) for states."""
        size, device = self.block_size, self.device
        tokens = {
            name: torch.zeros((blocks, size, width), dtype=dtype, device=device) for name, width in spec.tokens.items()
        }
        return tokens | {name: torch.zeros((blocks, *shape), device=device) for name, shape in spec.states.items()}

    def _compile(self) -> Any:
        from freehold.executors.torch_compiled import CompiledSteps  # takes over a second to import

        return CompiledSteps(self._model, self.parameters, self._storage)

    @torch.inference_mode()
    def run(self, batch: Any) -> None:
        """Run one step (an `engine.executor.Batch`); its logits stay here until the next run."""
        if self._compiled is not None and (done := self._compiled.run(batch)) is not None:
            self._hidden, logits = done
            self._rows = ops.select_rows(self._hidden, batch.logit_rows)
            self._logits = ops.select_rows(logits, batch.logit_rows).cpu()
            return
        parameters = Parameters(self.parameters)
        self._hidden = self._model.forward(parameters, self._inputs(batch, self._storage))
        self._rows = ops.select_rows(self._hidden, batch.logit_rows)
        self._logits = self._model.logits(parameters, self._rows).float().cpu()

    def _inputs(self, batch: Any, storages: Sequence[dict[str, torch.Tensor]]) -> TorchBatch:
        positions = torch.tensor(batch.positions, device=self.device)
        first = [batch.positions[start] for start in batch.row_starts[:-1]]
        step = Step(positions, batch.row_starts, first, batch.block_tables, self.block_size)
        tokens = torch.tensor(batch.tokens, device=self.device)
        return TorchBatch(tokens, positions, [LayerCache(step, storage) for storage in storages])

    @torch.inference_mode()
    def foresee(self, batch: Any, rows: list[int]) -> list[int]:
        """Guesses of what follows `batch`'s logit rows (see `engine.executor.Executor`)."""
        parameters = Parameters(self._next_parameters)
        inputs = self._inputs(batch, self._next_storage)
        hidden = self._next.forward(parameters, inputs, ops.select_rows(self._hidden, rows))
        return self._next.logits(parameters, ops.select_rows(hidden, batch.logit_rows)).argmax(-1).tolist()

    def sample(self, samplers: list[Any], drafts: list[list[int]]) -> list[list[Any]]:
        """What each sampler draws of its logit rows of the last run (see `engine.executor.Executor`)."""
        rows = iter(self.logits())
        return [
            _draw(sampler, [next(rows) for _ in [None, *d]], d) for sampler, d in zip(samplers, drafts, strict=True)
        ]

    def logits(self) -> Any:
        """Logits of the last run's logit rows: float32 numpy (rows, vocabulary)."""
        return self._logits.numpy()

    @torch.inference_mode()
    def hidden(self) -> Any:
        """Hidden states, after the final norm, of the last run's logit rows: float32 numpy (rows, width)."""
        return self._model.final(Parameters(self.parameters), self._rows).float().cpu().numpy()

    def copy_block(self, source: int, target: int) -> None:
        for layer in (*self._storage, *self._next_storage):
            for tensor in layer.values():
                tensor[target] = tensor[source]
