"""Steps of few rows as one compiled graph, for GPUs: run one by one, their hundreds of kernels take longer to launch
than to run.

`torch.compile` fuses what it can and has the rest replayed as CUDA graphs. Shapes are fixed for that: rows are padded
to one of a few counts, and each is a query of its own, with its own row of the table of blocks. Attention reads keys
and values in the blocks where they lie, by torch's flex_attention (Dong et al. 2024).
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy
import torch
from torch import Tensor
from torch._dynamo.exc import TorchDynamoException
from torch.nn.attention.flex_attention import AuxRequest, BlockMask, flex_attention

from freehold.executors.torch_operations import Heads, TorchBatch
from freehold.models.parameters import Parameters

ROWS = (1, 8, 32)  # a graph for each
ROWS_OF_EXPERTS = (1, 4)  # a row's experts are gathered for it
MAX_GRAPHS = 64  # of all models of a process
QUERIES = 128  # of a block of the mask: more than a row has

_log = logging.getLogger("freehold.torch")


def order_of(tables: Tensor, num_blocks: int) -> Tensor:
    """(T, num_blocks) of tables (T, W): which of its row's blocks each block is; -1 for those of others."""
    places = torch.arange(tables.shape[1], device=tables.device, dtype=torch.int32).expand(tables.shape)
    return places.new_full((len(tables), num_blocks), -1).scatter(1, tables, places)


class Pages:
    """Where the keys and values lie that each of a step's T rows may see.

    `positions`: T; `tables`: (T, W), the blocks of the row's request in order, and behind them a block that nobody
    reads; `order`: that of the tables.
    """

    def __init__(self, positions: Tensor, tables: Tensor, order: Tensor, block_size: int):
        self.positions, self.tables, self.order, self.block_size = positions, tables, order, block_size
        block = tables.gather(1, (positions // block_size)[:, None])[:, 0]
        self.slots = block * block_size + positions % block_size  # of each row's own keys among those of all blocks

    def mask(self, window: int | None, chunk: int | None) -> BlockMask:
        size, positions, order = self.block_size, self.positions, self.order
        num_blocks = order.shape[1]
        first = torch.zeros_like(positions)  # of the keys that a row sees
        if window is not None:
            first = (positions - window + 1).clamp(min=0)
        if chunk is not None:
            first = torch.maximum(first, positions // chunk * chunk)
        count = positions // size - first // size + 1
        places = (first // size)[:, None] + torch.arange(num_blocks, device=positions.device)
        blocks = self.tables.gather(1, places.clamp(max=self.tables.shape[1] - 1))

        def visible(row: Tensor, head: Tensor, query: Tensor, slot: Tensor) -> Tensor:
            position, own = order[row, slot // size] * size + slot % size, positions[row]
            seen = (position >= 0) & (position <= own)
            if window is not None:
                seen = seen & (position > own - window)
            if chunk is not None:
                seen = seen & (position // chunk == own // chunk)
            return seen

        return BlockMask.from_kv_blocks(
            count[:, None, None].int(),
            blocks[:, None, None].int(),
            BLOCK_SIZE=(QUERIES, size),
            mask_mod=visible,
            seq_lengths=(1, num_blocks * size),
            compute_q_blocks=False,
        )


@dataclass(frozen=True)
class PagedCache:
    """One layer's keys and values, as `torch_operations.LayerCache`."""

    pages: Pages
    storage: Mapping[str, Tensor]

    def write(self, name: str, rows: Tensor) -> None:
        memory = self.storage[name]
        memory.flatten(0, 1)[self.pages.slots] = rows.to(memory.dtype)

    def attend(self, q: Tensor, heads: Heads) -> Tensor:
        # (T, N, 1, H); twice the queries by half the scale, since torch's kernel for CPUs takes no view
        queries = 2 * q.unflatten(-1, (heads.num_heads, -1))[:, :, None]
        keys, values = (
            self.storage[name].flatten(0, 1).unflatten(-1, (heads.num_kv_heads, -1)).transpose(0, 1)[None]
            for name in ("keys", "values")
        )
        options: dict[str, Any] = {
            "block_mask": self.pages.mask(heads.window, heads.chunk),
            "scale": heads.scale / 2,
            "enable_gqa": True,
            # Of torch's two kernels for CPUs the one that splits the keys does not compile.
            "kernel_options": {"PARTITION_SIZE": 1} if q.device.type == "cpu" else None,
        }
        if heads.sinks is None:
            return flex_attention(queries, keys, values, **options).flatten(1)
        out, more = flex_attention(queries, keys, values, **options, return_aux=AuxRequest(lse=True))
        assert more.lse is not None
        share = torch.sigmoid(more.lse - heads.sinks.float()[:, None])  # of all but the sink
        return (out * share[..., None]).to(q.dtype).flatten(1)


class CompiledSteps:
    """A model's steps of few rows, over parameters and caches that stay where they are.

    `storage`: for each layer (blocks, block size, width) of keys and of values; nobody reads the last block. `works`:
    whether torch could compile the steps so far.
    """

    def __init__(self, model: Any, parameters: Mapping[str, Tensor], storage: Sequence[Mapping[str, Tensor]]):
        self._model, self._parameters, self._storage = model, Parameters(parameters), storage
        self._rows = ROWS if getattr(model, "routing", None) is None else ROWS_OF_EXPERTS
        memory = storage[0]["keys"]
        self._num_blocks, self._block_size = memory.shape[:2]
        self._width = min(self._num_blocks - 1, -(-model.config.context_length // self._block_size))
        self._device = memory.device
        if self._device.type == "cuda":  # so that CUDA graphs take them where they lie
            for tensor in [*parameters.values(), *(tensor for layer in storage for tensor in layer.values())]:
                torch._dynamo.mark_static_address(tensor)
        mode = "reduce-overhead" if self._device.type == "cuda" else None
        self.works, self._warm = True, False
        self._step: Any = torch.compile(self._forward, fullgraph=True, dynamic=False, mode=mode)

    def run(self, batch: Any) -> tuple[Tensor, Tensor] | None:
        """Hidden states (T, D) and logits (T, V), float32, of all rows of a step (an `engine.executor.Batch`).

        None where the rows are too many, or torch cannot compile the model.
        """
        if not self._warm:  # the first is run as others are, so that what operations keep is there
            self._warm = True
            return None
        if not self.works or len(batch.tokens) > self._rows[-1]:
            return None
        try:
            return self._run(batch)
        except TorchDynamoException as error:
            self.works = False
            _log.warning("torch cannot compile the model's steps, so that they are slow: %s", str(error).split("\n")[0])
            return None

    def _run(self, batch: Any) -> tuple[Tensor, Tensor]:
        count = len(batch.tokens)
        rows = next(rows for rows in self._rows if rows >= count)
        tokens, positions = numpy.zeros((2, rows), numpy.int64)
        tables = numpy.full((rows, self._width), self._num_blocks - 1)
        tokens[:count], positions[:count] = batch.tokens, batch.positions
        for start, end, table in zip(batch.row_starts[:-1], batch.row_starts[1:], batch.block_tables, strict=True):
            tables[start:end, : len(table)] = table
        torch.compiler.cudagraph_mark_step_begin()
        on_device = [torch.from_numpy(values).to(self._device) for values in (tokens, positions, tables)]
        # Not in the graph: captured by the mask, a tensor made there is read before it is written (torch 2.13, CPU).
        order = order_of(on_device[2], self._num_blocks)
        with torch._dynamo.config.patch(recompile_limit=MAX_GRAPHS):
            hidden, logits = self._step(*on_device, order)
        return hidden[:count].clone(), logits[:count].clone()

    def _forward(self, tokens: Tensor, positions: Tensor, tables: Tensor, order: Tensor) -> tuple[Tensor, Tensor]:
        pages = Pages(positions, tables, order, self._block_size)
        caches = [PagedCache(pages, layer) for layer in self._storage]
        hidden = self._model.forward(self._parameters, TorchBatch(tokens, positions, caches))
        return hidden, self._model.logits(self._parameters, hidden).float()
