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


def rms_norm(x_TD: Value, weight_H: Value | None, eps: float, num_heads: int = 1, offset: float = 0.0) -> Value:
    """x / sqrt(mean(x^2) + eps) * (weight + offset) (Zhang and Sennrich 2019), in `num_heads` parts of a row: (T, D).

    The parts are equal and share the weight: D = num_heads * H. None: there is no weight.
    """
    if weight_H is not None:
        _expect("rms_norm", "width", x_TD.shape[-1], num_heads * weight_H.shape[0])
    return _call("rms_norm", x_TD, weight_H, eps, num_heads, offset)


def gated_rms_norm(x_TD: Value, gate_TD: Value, weight_H: Value, eps: float, num_heads: int, activation: str) -> Value:
    """rms_norm(x) * silu(gate), or * sigmoid(gate), by `activation` "silu" or "sigmoid": (T, D)."""
    _expect("gated_rms_norm", "gate", tuple(gate_TD.shape), tuple(x_TD.shape))
    _expect("gated_rms_norm", "width", x_TD.shape[-1], num_heads * weight_H.shape[0])
    return _call("gated_rms_norm", x_TD, gate_TD, weight_H, eps, num_heads, activation)


def layer_norm(x_TD: Value, weight_D: Value, bias_D: Value, eps: float) -> Value:
    """(x - mean(x)) / sqrt(variance(x) + eps) * weight + bias, row by row (Ba et al. 2016): (T, D)."""
    _expect("layer_norm", "weight", tuple(weight_D.shape), tuple(x_TD.shape[-1:]))
    _expect("layer_norm", "bias", tuple(bias_D.shape), tuple(x_TD.shape[-1:]))
    return _call("layer_norm", x_TD, weight_D, bias_D, eps)


def linear(x_TD: Value, weight_FD: Value, bias_F: Value | None = None) -> Value:
    """x W^T + b: (T, F). Rows may be quantized to int8 in blocks of 32 where the weight is quantized."""
    _expect("linear", "columns of the weight", weight_FD.shape[1], x_TD.shape[-1])
    if bias_F is not None:
        _expect("linear", "bias", tuple(bias_F.shape), (weight_FD.shape[0],))
    return _call("linear", x_TD, weight_FD, bias_F)


def rope(x: Value, positions_T: Value, rope: Rope, num_heads: int, first: int = 0) -> Value:
    """Turn `rope.rotary_dim` channels of each head, from `first` on, by position * frequency: (T, num_heads * H)."""
    head_dim = x.shape[-1] // num_heads
    if first + rope.rotary_dim > head_dim:
        raise ValueError(f"rope: turns {rope.rotary_dim} channels from {first} on, of heads of {head_dim}")
    return _call("rope", x, positions_T, rope, num_heads, first)


def scale_by_position(x: Value, positions_T: Value, scale: float, step: float) -> Value:
    """x * (1 + scale * log(1 + floor((position + 1) / step))): attention stays sharp far out (Nakanishi 2025)."""
    return _call("scale_by_position", x, positions_T, scale, step)


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
    chunk: int | None = None,
    sinks_N: Value | None = None,
) -> Value:
    """Causal grouped-query attention (Ainslie et al. 2023) over a request's cached and new keys: (T, N * H).

    Writes k and v (T, K * H) as "keys" and "values" into the layer's `cache`, then softmax(q k^T * scale) v with each
    group of N / K query heads sharing one key/value head. With a `window` the query at position p sees the keys at
    p - window + 1 to p only (Beltagy et al. 2020); with a `chunk` those of its own chunk of positions only. `sinks_N`
    adds exp(sink) of the head to the softmax's denominator (Xiao et al. 2024).
    """
    if num_heads % num_kv_heads:
        raise ValueError(f"attention: {num_heads} query heads cannot share {num_kv_heads} key/value heads")
    head_dim = q.shape[-1] // num_heads
    if sinks_N is not None:
        _expect("attention", "sinks", tuple(sinks_N.shape), (num_heads,))
    for name, value, heads in (("q", q, num_heads), ("k", k, num_kv_heads), ("v", v, num_kv_heads)):
        _expect("attention", name, value.shape[-1], heads * head_dim)
    return _call("attention", q, k, v, cache, num_heads, num_kv_heads, scale, window, chunk, sinks_N)


def latent_attention(
    q: Value,
    latents_TR: Value,
    rope_keys: Value,
    key_up: Value,
    value_up: Value,
    cache: Value,
    *,
    scale: float,
    selected: Value | None = None,
) -> Value:
    """Multi-head latent attention (DeepSeek-AI 2024), causal: (T, N * H) with H the size of a value.

    Writes `latents_TR` and `rope_keys` (T, P) as "latents" and "rope_keys" into the layer's cache. `q` is
    (T, N * (C + P)), each head's plain channels before those with rope. `key_up` (N, R, C) and `value_up` (N, H, R)
    make a head's keys and values of the latents: key = [key_up^T latent, rope key], value = value_up latent. Where the
    attention is computed (on latents, with key_up absorbed by the query, or on keys) is the executor's choice.
    `selected` (of `select_keys`): each query sees those keys only.
    """
    num_heads, rank, plain = key_up.shape
    _expect("latent_attention", "latents", latents_TR.shape[-1], rank)
    _expect("latent_attention", "value_up", (value_up.shape[0], value_up.shape[2]), (num_heads, rank))
    _expect("latent_attention", "queries", q.shape[-1], num_heads * (plain + rope_keys.shape[-1]))
    return _call("latent_attention", q, latents_TR, rope_keys, key_up, value_up, cache, scale, selected)


def select_keys(q: Value, k_TH: Value, weights_TN: Value, cache: Value, *, top_k: int) -> Value:
    """The keys that an indexer (DeepSeek-AI 2025) ranks first: of each query's past, `top_k` positions, or all.

    Writes `k_TH` as "index_keys" into the layer's cache. The rank of a key is the sum over the N heads of
    weight * relu(q k^T / sqrt(H)) / sqrt(N); of equal ranks the earlier position counts as larger.
    """
    _expect("select_keys", "queries", q.shape[-1], weights_TN.shape[-1] * k_TH.shape[-1])
    return _call("select_keys", q, k_TH, weights_TN, cache, top_k)


def short_convolution(x_TC: Value, weight_CK: Value, cache: Value, state: str) -> Value:
    """silu of a causal convolution over a request's rows, channel by channel: (T, C).

    y_t = silu(sum_k weight[:, k] * x_(t - K + 1 + k)), rows before the first being zero. The last K - 1 rows are kept
    in the layer's cache as `state`.
    """
    _expect("short_convolution", "channels", x_TC.shape[-1], weight_CK.shape[0])
    return _call("short_convolution", x_TC, weight_CK, cache, state)


def delta_rule(
    q: Value,
    k: Value,
    v: Value,
    decay: Value,
    beta_TN: Value,
    rate_N: Value,
    decay_bias: Value,
    cache: Value,
    *,
    num_key_heads: int,
    tiled_heads: bool = False,
) -> Value:
    """The gated delta rule (Yang et al. 2025), with a decay for each head or each channel (Kimi team 2025): (T, N * V).

    Each of N heads keeps a state S (C, V) in the layer's cache ("state", float32), zero before the first row. For each
    row: S <- exp(g) S; S <- S + k (sigmoid(beta) (v - S^T k))^T; out = S^T q / sqrt(C), where q and k (T, M * C, of M
    key heads) are divided by sqrt(sum of squares + 1e-6) head by head, and g = -exp(rate) softplus(decay + decay_bias)
    with `decay` (T, N) or (T, N * C), one value for each row of S. Head j uses key head j // (N / M), or j % M if
    `tiled_heads`.
    """
    num_heads = beta_TN.shape[-1]
    key_dim = k.shape[-1] // num_key_heads
    if num_heads % num_key_heads:
        raise ValueError(f"delta_rule: {num_heads} heads cannot share {num_key_heads} key heads")
    _expect("delta_rule", "queries", tuple(q.shape), tuple(k.shape))
    _expect("delta_rule", "rate", tuple(rate_N.shape), (num_heads,))
    if decay.shape[-1] not in (num_heads, num_heads * key_dim):
        _expect("delta_rule", "decay", decay.shape[-1], num_heads * key_dim)
    _expect("delta_rule", "bias of the decay", tuple(decay_bias.shape), tuple(decay.shape[-1:]))
    return _call("delta_rule", q, k, v, decay, beta_TN, rate_N, decay_bias, cache, num_key_heads, tiled_heads)


def lightning_attention(q: Value, k: Value, v: Value, cache: Value, *, slopes: Sequence[float]) -> Value:
    """Linear attention with a fixed decay (Qin et al. 2024), a head for each of `slopes`: (T, N * H).

    With q, k and v = silu of what is given, each head keeps a state S (H, H) in the layer's cache ("state", float32),
    zero before the first row. For each row: S <- exp(-slope) S + k v^T; out = S^T q.
    """
    for name, value in (("k", k), ("v", v)):
        _expect("lightning_attention", name, tuple(value.shape), tuple(q.shape))
    return _call("lightning_attention", q, k, v, cache, tuple(slopes))


@dataclass(frozen=True)
class Glu:
    """A gated linear unit: g * sigmoid(alpha * g) * (u + offset), with g <= limit and -limit <= u <= limit.

    The default is SwiGLU (Shazeer 2020); gpt-oss (OpenAI 2025) has 1.702, 7 and 1.
    """

    alpha: float = 1.0
    limit: float | None = None
    offset: float = 0.0


def swiglu(gate_TF: Value, up_TF: Value, glu: Glu | None = None) -> Value:
    """silu(gate) * up, or the variant that `glu` describes: (T, F)."""
    _expect("swiglu", "up", tuple(up_TF.shape), tuple(gate_TF.shape))
    return _call("swiglu", gate_TF, up_TF, glu or Glu())


@dataclass(frozen=True)
class Router:
    """How a token chooses its experts, and what weights they get.

    The scores are softmax or sigmoid of the logits (`scoring`). Chosen are the `top_k` experts of the largest scores, a
    correction added to them where there is one (Wang et al. 2024), among the `top_groups` of `num_groups` equal groups
    of experts whose score is largest (DeepSeek-AI 2024): a group's score is that of its best expert, or the sum of its
    two best (`group_score` "max" or "top2"). Of equal scores the first counts as larger. The weights are the scores of
    the chosen, without the correction; if `normalize`, divided by their sum, or by `least_sum` where that is more;
    times `scale`. `scales_inputs`: the weights multiply the experts' inputs, not their outputs.
    """

    top_k: int
    scoring: str = "softmax"
    num_groups: int = 1
    top_groups: int = 1
    group_score: str = "max"
    normalize: bool = True
    least_sum: float = 1e-20
    scale: float = 1.0
    scales_inputs: bool = False


def experts(
    x_TD: Value,
    logits_TE: Value,
    gate_EFD: Value,
    up_EFD: Value,
    down_EDF: Value,
    *,
    router: Router,
    correction_E: Value | None = None,
    gate_bias_EF: Value | None = None,
    up_bias_EF: Value | None = None,
    down_bias_ED: Value | None = None,
    glu: Glu | None = None,
) -> Value:
    """A sparse mixture of gated feed-forwards (Shazeer et al. 2017): (T, D).

    Each row goes through the experts that `router` chooses by `logits_TE`; their outputs, by the router's weights, are
    added up in the order of the experts.
    """
    num_experts, width, hidden = gate_EFD.shape
    _expect("experts", "columns of the experts", hidden, x_TD.shape[-1])
    _expect("experts", "logits", logits_TE.shape[-1], num_experts)
    _expect("experts", "up", tuple(up_EFD.shape), tuple(gate_EFD.shape))
    _expect("experts", "down", tuple(down_EDF.shape), (num_experts, hidden, width))
    for name, bias, size in (("gate", gate_bias_EF, width), ("up", up_bias_EF, width), ("down", down_bias_ED, hidden)):
        if bias is not None:
            _expect("experts", f"bias of {name}", tuple(bias.shape), (num_experts, size))
    if correction_E is not None:
        _expect("experts", "correction", tuple(correction_E.shape), (num_experts,))
    if num_experts % router.num_groups or router.top_k > num_experts // router.num_groups * router.top_groups:
        raise ValueError(f"experts: cannot choose {router.top_k} of {num_experts} experts by {router}")
    matrices, biases = (gate_EFD, up_EFD, down_EDF), (gate_bias_EF, up_bias_EF, down_bias_ED)
    return _call("experts", x_TD, logits_TE, matrices, biases, router, correction_E, glu or Glu())


def sigmoid_gate(x_TD: Value, gate: Value) -> Value:
    """x * sigmoid(gate), with a gate for each channel (T, D) or one for each row (T, 1): (T, D)."""
    if gate.shape[-1] != 1:
        _expect("sigmoid_gate", "gate", tuple(gate.shape), tuple(x_TD.shape))
    return _call("sigmoid_gate", x_TD, gate)


def add(x: Value, y: Value, x_scale: float = 1.0, y_scale: float = 1.0) -> Value:
    """x_scale * x + y_scale * y."""
    _expect("add", "second operand", tuple(y.shape), tuple(x.shape))
    return _call("add", x, y, x_scale, y_scale)


def select_rows(x_TD: Value, rows: Value | Sequence[int]) -> Value:
    """The rows of x whose logits are wanted."""
    return _call("select_rows", x_TD, rows)
