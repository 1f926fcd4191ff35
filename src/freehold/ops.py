"""The vocabulary that models are written in: one function per operation.

A model's forward calls these on values; the type of the value says which executor answers (`register`). Here stand
each operation's shapes, checks and mathematical definition. Letters: T tokens of a step (rows), D model width,
N query heads, K key/value heads, H head size, F feed-forward width, V vocabulary. Activations are float32, weights
come in any format of the checkpoint, as (outputs, inputs).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from freehold.errors import UnsupportedError

Value = Any  # an executor's own type, with `.shape`

_implementations: dict[type, Any] = {}


def register(value_type: type, implementation: Any) -> None:
    """Make methods of `implementation`, named as the operations are, answer for values of `value_type`."""
    _implementations[value_type] = implementation


def _call(operation: str, value: Value, *operands: Any) -> Any:
    implementation = next(_implementations[kind] for kind in type(value).__mro__ if kind in _implementations)
    method = getattr(implementation, operation, None)
    if method is None:
        raise UnsupportedError(
            f"{operation}: the {implementation.executor} executor does not have this operation",
            "the torch executor has all of them: --executor torch",
        )
    return method(value, *operands)


def _expect(operation: str, what: str, got: Any, expected: Any) -> None:
    if got != expected:
        raise ValueError(f"{operation}: {what}: expected {expected}, got {got}")


@dataclass(frozen=True)
class Rope:
    """Rotary position embedding (Su et al. 2021): which channels turn, how fast, and how they are paired."""

    inverse_frequencies: tuple[float, ...]  # radians per position, one for each pair of channels
    interleaved: bool = False  # pairs (2i, 2i+1); otherwise (i, i + half)
    scale: float = 1.0  # of cosines and sines

    @property
    def rotary_dim(self) -> int:
        return 2 * len(self.inverse_frequencies)


@dataclass(frozen=True)
class CacheSpec:
    """What a layer keeps of the past.

    `tokens`: widths of the rows kept for each token; `states`: shapes of what is kept for each request, as it is after
    its last token.
    """

    tokens: Mapping[str, int] = field(default_factory=dict)
    states: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


def embedding(tokens_T: Value, table_VD: Value) -> Value:
    """Rows of `table_VD` for the step's tokens: (T, D)."""
    return _call("embedding", tokens_T, table_VD)


def rms_norm(x_TD: Value, weight_H: Value, eps: float, num_heads: int = 1) -> Value:
    """x / sqrt(mean(x^2) + eps) * weight, for each of `num_heads` parts of a row (Zhang and Sennrich 2019): (T, D).

    The parts are equal and share the weight: D = num_heads * H.
    """
    _expect("rms_norm", "width", x_TD.shape[-1], num_heads * weight_H.shape[0])
    return _call("rms_norm", x_TD, weight_H, eps, num_heads)


def linear(x_TD: Value, weight_FD: Value, bias_F: Value | None = None) -> Value:
    """x W^T + b: (T, F). Rows may be quantized to int8 in blocks of 32 where the weight is quantized."""
    _expect("linear", "columns of the weight", weight_FD.shape[1], x_TD.shape[-1])
    if bias_F is not None:
        _expect("linear", "bias", tuple(bias_F.shape), (weight_FD.shape[0],))
    return _call("linear", x_TD, weight_FD, bias_F)


def rope(x: Value, positions_T: Value, rope: Rope, num_heads: int) -> Value:
    """Turn the leading `rope.rotary_dim` channels of each head by position * frequency: (T, num_heads * H)."""
    head_dim = x.shape[-1] // num_heads
    if rope.rotary_dim > head_dim:
        raise ValueError(f"rope: turns {rope.rotary_dim} channels of heads of {head_dim}")
    return _call("rope", x, positions_T, rope, num_heads)


def attention(
    q: Value,
    k: Value,
    v: Value,
    cache: Value,
    *,
    num_heads: int,
    num_kv_heads: int,
    scale: float,
    window: int | None = None,
) -> Value:
    """Causal grouped-query attention (Ainslie et al. 2023) over a request's cached and new keys: (T, N * H).

    Writes k and v (T, K * H) as "keys" and "values" into the layer's `cache`, then softmax(q k^T * scale) v with each
    group of N / K query heads sharing one key/value head. With a `window` the query at position p sees the keys at
    p - window + 1 to p only (Beltagy et al. 2020).
    """
    if num_heads % num_kv_heads:
        raise ValueError(f"attention: {num_heads} query heads cannot share {num_kv_heads} key/value heads")
    head_dim = q.shape[-1] // num_heads
    for name, value, heads in (("q", q, num_heads), ("k", k, num_kv_heads), ("v", v, num_kv_heads)):
        _expect("attention", name, value.shape[-1], heads * head_dim)
    return _call("attention", q, k, v, cache, num_heads, num_kv_heads, scale, window)


def swiglu(gate_TF: Value, up_TF: Value) -> Value:
    """silu(gate) * up (Shazeer 2020): (T, F)."""
    _expect("swiglu", "up", tuple(up_TF.shape), tuple(gate_TF.shape))
    return _call("swiglu", gate_TF, up_TF)


def add(x: Value, y: Value) -> Value:
    """x + y."""
    _expect("add", "second operand", tuple(y.shape), tuple(x.shape))
    return _call("add", x, y)


def select_rows(x_TD: Value, rows: Value | Sequence[int]) -> Value:
    """The rows of x whose logits are wanted."""
    return _call("select_rows", x_TD, rows)
