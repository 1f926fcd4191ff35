"""The operations of `freehold.ops` on torch tensors, in the plainest form: what a faster executor is checked against.

Matrices may be bfloat16; means, softmax and recurrences are float32.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional

from freehold import ops


@dataclass(frozen=True)
class Step:
    """Which rows belong to which request, and where its cache lies.

    `block_tables` None: no cache; every request is whole and begins at position 0.
    """

    positions: Tensor  # T
    row_starts: Sequence[int]  # R + 1
    first_positions: Sequence[int]  # R
    block_tables: Sequence[Sequence[int]] | None  # R
    block_size: int = 0

    def requests(self) -> Iterator[tuple[int, slice]]:
        for request, (start, end) in enumerate(zip(self.row_starts[:-1], self.row_starts[1:], strict=True)):
            yield request, slice(start, end)


@dataclass
class LayerCache:
    """One layer's keys and values during a step: written by rows, read by request."""

    step: Step
    storage: dict[str, Tensor] | None = None
    _rows: dict[str, Tensor] = field(default_factory=dict)  # of this step, where there is no storage

    def write(self, name: str, rows: Tensor) -> None:
        """Keep `rows` (T, width) at their positions."""
        if self.storage is None:
            self._rows[name] = rows
            return
        memory, step = self.storage[name], self.step
        assert step.block_tables is not None
        for request, at in step.requests():
            table = torch.tensor(step.block_tables[request], device=rows.device)
            positions = step.positions[at]
            memory[table[positions // step.block_size], positions % step.block_size] = rows[at].to(memory.dtype)

    def read(self, name: str, request: int) -> Tensor:
        """All that was kept for a request, this step's rows included: (length, width)."""
        step = self.step
        start, end = step.row_starts[request], step.row_starts[request + 1]
        if self.storage is None:
            return self._rows[name][start:end]
        assert step.block_tables is not None
        length = step.first_positions[request] + end - start
        table = torch.tensor(step.block_tables[request][: -(-length // step.block_size)], device=step.positions.device)
        return self.storage[name][table].flatten(0, 1)[:length]


class TorchOperations:
    """`freehold.ops` says what each does."""

    executor = "torch"

    def embedding(self, tokens: Tensor, table: Tensor) -> Tensor:
        return functional.embedding(tokens, table)

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float, num_heads: int) -> Tensor:
        parts = x.float().unflatten(-1, (num_heads, -1))
        parts = parts * torch.rsqrt(parts.square().mean(-1, keepdim=True) + eps)
        return (parts * weight.float()).flatten(-2).to(x.dtype)

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return functional.linear(x, weight, None if bias is None else bias.to(x.dtype))

    def rope(self, x: Tensor, positions: Tensor, rope: ops.Rope, num_heads: int) -> Tensor:
        frequencies = torch.tensor(rope.inverse_frequencies, dtype=torch.float32, device=x.device)
        angles = positions[:, None].float() * frequencies
        cos, sin = (rope.scale * f(angles)[:, None] for f in (torch.cos, torch.sin))  # (T, 1, pairs)
        heads = x.unflatten(-1, (num_heads, -1))
        turned, rest = heads[..., : rope.rotary_dim].float(), heads[..., rope.rotary_dim :]
        if rope.interleaved:
            a, b = turned[..., 0::2], turned[..., 1::2]
            turned = torch.stack((a * cos - b * sin, b * cos + a * sin), -1).flatten(-2)
        else:
            a, b = turned.chunk(2, -1)
            turned = torch.cat((a * cos - b * sin, b * cos + a * sin), -1)
        return torch.cat((turned.to(x.dtype), rest), -1).flatten(-2)

    def attention(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        cache: LayerCache,
        num_heads: int,
        num_kv_heads: int,
        scale: float,
        window: int | None,
    ) -> Tensor:
        cache.write("keys", k)
        cache.write("values", v)
        outputs = []
        for request, rows in cache.step.requests():
            keys, values = (cache.read(name, request).to(q.dtype) for name in ("keys", "values"))
            visible = _visible(cache.step.positions[rows], len(keys), window)
            outputs.append(_attend(q[rows], keys, values, visible, num_heads, num_kv_heads, scale))
        return torch.cat(outputs)

    def swiglu(self, gate: Tensor, up: Tensor) -> Tensor:
        return functional.silu(gate) * up

    def add(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y

    def select_rows(self, x: Tensor, rows: Sequence[int]) -> Tensor:
        return x[torch.tensor(rows, dtype=torch.int64, device=x.device)]


def _visible(positions: Tensor, length: int, window: int | None) -> Tensor:
    """(rows, length): which cached positions each row may see."""
    keys = torch.arange(length, device=positions.device)
    visible = keys <= positions[:, None]
    return visible if window is None else visible & (keys > positions[:, None] - window)


def _attend(
    q: Tensor, k: Tensor, v: Tensor, visible: Tensor, num_heads: int, num_kv_heads: int, scale: float
) -> Tensor:
    """One request's attention: (rows, N * H) queries, (length, K * H) keys and values."""
    queries = q.unflatten(-1, (num_heads, -1)).transpose(0, 1)
    keys, values = (x.unflatten(-1, (num_kv_heads, -1)).transpose(0, 1) for x in (k, v))
    shared = num_heads != num_kv_heads
    out = functional.scaled_dot_product_attention(
        queries[None], keys[None], values[None], visible, scale=scale, enable_gqa=shared
    )
    return out[0].transpose(0, 1).flatten(1)


ops.register(Tensor, TorchOperations())
