"""MiniMax-Text-01 and M1: lightning attention, which keeps a decaying state, in seven layers of eight; experts in all.

Paper: MiniMax 2025 (MiniMax-01, MiniMax-M1). Checkpoints: MiniMax-Text-01, M1-40k, M1-80k. What a layer adds is weighed
against its normalized input. Where `rotary_dim` is given, rope turns only the leading channels of a head; the reference
of transformers turns all of them, the checkpoints' own code and llama.cpp do not.
Reference: transformers `models/minimax/modeling_minimax.py`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from freehold import ops
from freehold.models.config import decoder_values
from freehold.models.experts import EXPERTS_GGUF_NAMES, Experts, ExpertsConfig, experts_values
from freehold.models.llama import GGUF_NAMES
from freehold.models.minimax_m2 import published
from freehold.models.parameters import Split
from freehold.models.settings import Settings

LIGHTNING_NORM_EPS = 1e-6
SPLITS = {
    "self_attn.qkv_proj.weight": Split(tuple(f"self_attn.{name}_proj.weight" for name in "qkv"), groups="num_heads")
}
# (alpha, beta): weights of a layer's normalized input and of what it adds, in both spellings of config.json.
WEIGHTS = {
    "lightning": ("linear_attn", "layernorm_linear_attention"),
    "attention": ("full_attn", "layernorm_full_attention"),
    "experts": ("mlp", "layernorm_mlp"),
}


@dataclass(frozen=True, kw_only=True)
class MiniMaxConfig(ExpertsConfig):
    linear_layers: frozenset[int]
    weights: dict[str, tuple[float, float]]

    def slopes(self, layer: int) -> tuple[float, ...]:
        """How fast each head's state decays, per token; slower in later layers."""
        share = 1 - layer / (self.num_layers - 1 + 1e-5) + 1e-5
        return tuple(2 ** (-8 * (head + 1) / self.num_heads) * share for head in range(self.num_heads))


class MiniMax(Experts):
    permuted_in_gguf = False
    splits = SPLITS
    aliases: Mapping[str, str] = {"self_attn.out_proj.weight": "self_attn.o_proj.weight"}  # of lightning attention
    routing = "block_sparse_moe.gate"
    routed = "block_sparse_moe.experts"
    matrices = ("w1", "w3", "w2")
    gguf_names = (
        GGUF_NAMES
        | {name: published(usual) for name, usual in EXPERTS_GGUF_NAMES.items()}
        | {
            "blk.{i}.attn_qkv.weight": "model.layers.{i}.self_attn.qkv_proj.weight",
            "blk.{i}.attn_gate.weight": "model.layers.{i}.self_attn.output_gate.weight",
            "blk.{i}.attn_norm_2.weight": "model.layers.{i}.self_attn.norm.weight",
        }
    )

    @classmethod
    def from_settings(cls, settings: Settings, interleaved_rope: bool) -> Self:
        values = decoder_values(settings, interleaved_rope=interleaved_rope)
        router = ops.Router(settings.size("num_experts_per_tok"))
        size = settings.size("moe_intermediate_size", values["intermediate_size"])
        experts = experts_values(settings, router, range(values["num_layers"]), expert_size=size)
        weights = {part: residual_weights(settings, *names) for part, names in WEIGHTS.items()}
        return cls(MiniMaxConfig(**values, **experts, linear_layers=linear_layers(settings), weights=weights))

    def attention_shapes(self, i: int) -> dict[str, tuple[int, ...]]:
        c = self.config
        if i not in c.linear_layers:
            return super().attention_shapes(i)
        d, width = c.hidden_size, c.num_heads * c.head_dim
        inner: dict[str, tuple[int, ...]] = {f"{name}_proj.weight": (width, d) for name in "qkv"}
        inner |= {"output_gate.weight": (width, d), "norm.weight": (width,), "o_proj.weight": (d, width)}
        return {f"self_attn.{name}": shape for name, shape in inner.items()}

    def caches(self) -> list[ops.CacheSpec]:
        c = self.config
        linear = ops.CacheSpec(states={"state": (c.num_heads, c.head_dim, c.head_dim)})
        return [linear if i in c.linear_layers else spec for i, spec in enumerate(super().caches())]

    def block(self, x, layer, batch, i):
        weights, linear = self.config.weights, i in self.config.linear_layers
        x = self.norm(x, layer, "input_layernorm")
        out = self.lightning(x, layer, batch, i) if linear else self.attention(x, layer, batch, i)
        x = self.norm(
            ops.add(x, out, *weights["lightning" if linear else "attention"]), layer, "post_attention_layernorm"
        )
        return ops.add(x, self.feed_forward(x, layer, i), *weights["experts"])

    def lightning(self, x, layer, batch, i):
        q, k, v = self.projections(x, layer, i)
        out = ops.lightning_attention(q, k, v, batch.caches[i], slopes=self.config.slopes(i))
        gate, weight = self.linear(x, layer, "self_attn.output_gate"), layer["self_attn.norm.weight"]
        out = ops.gated_rms_norm(out, gate, weight, LIGHTNING_NORM_EPS, 1, "sigmoid")
        return self.linear(out, layer, "self_attn.o_proj")


def residual_weights(settings: Settings, name: str, legacy: str) -> tuple[float, float]:
    alpha = settings.number("residual_scale", 1.0)  # of all three parts, in GGUF files
    return (
        settings.number(f"{name}_alpha_factor", settings.number(f"{legacy}_alpha", alpha)),
        settings.number(f"{name}_beta_factor", settings.number(f"{legacy}_beta", 1.0)),
    )


def linear_layers(settings: Settings) -> frozenset[int]:
    num_layers = settings.size("num_hidden_layers")
    if settings.is_gguf:
        every = settings.size("full_attention_interval", 8)
        return frozenset(i for i in range(num_layers) if (i + 1) % every)
    kinds = settings.layers("layer_types", num_layers) or settings.layers("attn_type_list", num_layers)
    if kinds is None:
        return frozenset(range(1, num_layers, 2))
    return frozenset(i for i, kind in enumerate(kinds) if kind in ("linear_attention", 0))
