"""DeepSeek-V2 and V3: latent attention, and experts routed in groups with a correction for balance.

Papers: DeepSeek-AI 2024 (DeepSeek-V2: latent attention; DeepSeek-V3: routing without auxiliary loss), 2025 (R1).
Checkpoints: DeepSeek-V2 to V3.1, R1; and of the same shape Moonlight, Kimi K2 to K2.7 (text), GLM-4.7-Flash.
Keys and values are made of a latent per token, which alone is cached, beside one rotated key for all heads. The norms
of latents have an epsilon of 1e-6 whatever the file says. The layer for multi-token prediction is in `mtp.py`.
Reference: transformers `models/deepseek_v2`, `models/deepseek_v3` and `models/glm4_moe_lite`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from freehold import ops
from freehold.models.config import decoder_values
from freehold.models.experts import (
    EXPERTS_GGUF_NAMES,
    Experts,
    ExpertsConfig,
    bias_corrected_router,
    experts_values,
)
from freehold.models.llama import GGUF_NAMES, Llama
from freehold.models.parameters import Split
from freehold.models.rope import rope_parameters, yarn_mscale
from freehold.models.settings import Settings

LATENT_NORM_EPS = 1e-6
LATENT_SPLITS = {
    f"self_attn.kv_a_proj_with_mqa.{part}": Split((f"self_attn.kv_a_proj.{part}", f"self_attn.k_rope_proj.{part}"))
    for part in ("weight", "bias")
} | {
    "self_attn.kv_b_proj.weight": Split(
        ("self_attn.k_b_proj.weight", "self_attn.v_b_proj.weight"),
        groups="num_heads",
        stacked=True,
        transposed_parts=(True, False),
    )
}
# k_b and v_b stand apart in newer GGUF files, k_b transposed, as the names of the parameters have it.
LATENT_GGUF_NAMES = {
    f"blk.{{i}}.{gguf}.weight": f"model.layers.{{i}}.self_attn.{ours}.weight"
    for gguf, ours in {
        "attn_q_a": "q_a_proj",
        "attn_q_a_norm": "q_a_layernorm",
        "attn_q_b": "q_b_proj",
        "attn_kv_a_mqa": "kv_a_proj_with_mqa",
        "attn_kv_a_norm": "kv_a_layernorm",
        "attn_kv_b": "kv_b_proj",
        "attn_k_b": "k_b_proj",
        "attn_v_b": "v_b_proj",
    }.items()
}


@dataclass(frozen=True, kw_only=True)
class LatentConfig(ExpertsConfig):
    """`head_dim` is that of a cached row, latent and rotated key; `num_kv_heads` is 1."""

    query_rank: int  # 0: queries are projected at once
    latent_size: int
    plain_dim: int  # channels of a query head without rope
    value_dim: int
    attention_scale: float
    attention_bias: bool

    @property
    def query_dim(self) -> int:
        return self.plain_dim + (self.head_dim - self.latent_size)


def latent_values(settings: Settings, interleaved_rope: bool) -> dict[str, Any]:
    """The fields of LatentConfig but for those of experts, as a file has them."""
    rope_dim = settings.size("qk_rope_head_dim", settings.get("rotary_dim"))
    plain_dim = settings.size("qk_nope_head_dim", settings.count("qk_head_dim") - rope_dim)
    rope, scale = rope_parameters(settings), (plain_dim + rope_dim) ** -0.5
    if rope["rope_type"] != "default" and rope.get("mscale_all_dim"):
        scale *= yarn_mscale(rope["factor"], rope["mscale_all_dim"]) ** 2
    latent_size = settings.size("kv_lora_rank")
    values = decoder_values(settings, interleaved_rope=interleaved_rope, head_dim=rope_dim, num_kv_heads=1)
    return values | {
        "head_dim": latent_size + rope_dim,
        "query_rank": settings.count("q_lora_rank"),
        "latent_size": latent_size,
        "plain_dim": plain_dim,
        "value_dim": settings.size("v_head_dim"),
        "attention_scale": scale,
        "attention_bias": settings.flag("attention_bias"),
        "output_bias": settings.flag("attention_bias"),
        "qkv_bias": False,
    }


def dense_first(settings: Settings, default: int) -> list[int]:
    """The layers with experts: by the file's `mlp_layer_types`, or all behind the first few."""
    num_layers = settings.size("num_hidden_layers")
    kinds = settings.layers("mlp_layer_types", num_layers)
    if kinds is not None:
        return [i for i, kind in enumerate(kinds) if kind == "sparse"]
    return list(range(settings.count("first_k_dense_replace", default), num_layers))


class Latent(Llama):
    """A decoder with latent attention."""

    permuted_in_gguf = False
    interleaved_rope = True
    splits: Mapping[str, Any] = LATENT_SPLITS

    def attention_shapes(self, i: int) -> dict[str, tuple[int, ...]]:
        c = self.config
        d, r, n, rope_dim = c.hidden_size, c.latent_size, c.num_heads, c.head_dim - c.latent_size
        shapes: dict[str, tuple[int, ...]] = {
            "self_attn.kv_a_proj.weight": (r, d),
            "self_attn.k_rope_proj.weight": (rope_dim, d),
            "self_attn.kv_a_layernorm.weight": (r,),
            "self_attn.k_b_proj.weight": (n, r, c.plain_dim),
            "self_attn.v_b_proj.weight": (n, c.value_dim, r),
            "self_attn.o_proj.weight": (d, n * c.value_dim),
        }
        if c.query_rank:
            shapes["self_attn.q_a_proj.weight"] = (c.query_rank, d)
            shapes["self_attn.q_a_layernorm.weight"] = (c.query_rank,)
        shapes[f"self_attn.{'q_b' if c.query_rank else 'q'}_proj.weight"] = (n * c.query_dim, c.query_rank or d)
        if c.attention_bias:
            biased = [("kv_a_proj", r), ("k_rope_proj", rope_dim), ("o_proj", d)]
            biased += [("q_a_proj", c.query_rank)] if c.query_rank else []
            shapes |= {f"self_attn.{name}.bias": (width,) for name, width in biased}
        return shapes

    def caches(self) -> list[ops.CacheSpec]:
        c = self.config
        widths = {"latents": c.latent_size, "rope_keys": c.head_dim - c.latent_size}
        return [ops.CacheSpec(widths)] * c.num_layers

    def attention(self, x, layer, batch, i):
        residual = self.query_residual(x, layer)
        return self.attend(x, residual, layer, batch, i, None)

    def query_residual(self, x, layer):
        """What queries are projected from."""
        if not self.config.query_rank:
            return x
        return ops.rms_norm(
            self.linear(x, layer, "self_attn.q_a_proj"), layer["self_attn.q_a_layernorm.weight"], LATENT_NORM_EPS
        )

    def attend(self, x, residual, layer, batch, i, selected):
        """Attention of all keys, or of those `selected`."""
        c = self.config
        q = self.linear(residual, layer, "self_attn.q_b_proj" if c.query_rank else "self_attn.q_proj")
        q = self.turn(q, batch, c.num_heads, first=c.plain_dim)
        latents = self.linear(x, layer, "self_attn.kv_a_proj")
        latents = ops.rms_norm(latents, layer["self_attn.kv_a_layernorm.weight"], LATENT_NORM_EPS)
        rope_keys = self.turn(self.linear(x, layer, "self_attn.k_rope_proj"), batch, 1)
        up = layer["self_attn.k_b_proj.weight"], layer["self_attn.v_b_proj.weight"]
        out = ops.latent_attention(
            q, latents, rope_keys, *up, batch.caches[i], scale=c.attention_scale, selected=selected
        )
        return self.linear(out, layer, "self_attn.o_proj")

    def turn(self, x, batch, num_heads, first=0):
        return ops.rope(x, batch.positions, self.config.rope, num_heads, first)


class DeepSeek(Experts, Latent):
    gguf_names = GGUF_NAMES | EXPERTS_GGUF_NAMES | LATENT_GGUF_NAMES
    correction: str | None = "mlp.gate.e_score_correction_bias"
    predicts_further = True

    @classmethod
    def from_settings(cls, settings: Settings, interleaved_rope: bool) -> Self:
        experts = experts_values(settings, bias_corrected_router(settings), dense_first(settings, 3))
        return cls(LatentConfig(**latent_values(settings, interleaved_rope), **experts))


class DeepSeekV2(DeepSeek):
    correction = None

    @classmethod
    def from_settings(cls, settings: Settings, interleaved_rope: bool) -> Self:
        grouped = settings.get("topk_method", "group_limited_greedy") == "group_limited_greedy"
        router = ops.Router(
            top_k=settings.size("num_experts_per_tok"),
            num_groups=settings.size("n_group", 1) if grouped else 1,
            top_groups=settings.size("topk_group", 1) if grouped else 1,
            normalize=settings.flag("norm_topk_prob"),
            scale=settings.number("routed_scaling_factor", 1.0),
        )
        experts = experts_values(settings, router, dense_first(settings, 0))
        return cls(LatentConfig(**latent_values(settings, interleaved_rope), **experts))

    @classmethod
    def from_gguf(cls, metadata: Mapping[str, Any], tensors: Mapping[str, Any]) -> Llama:
        """GGUF files call both generations deepseek2, and tell them apart by the router's scores."""
        if cls is DeepSeekV2 and metadata.get("deepseek2.expert_gating_func", 1) == 2:
            return DeepSeek.from_gguf(metadata, tensors)
        return super().from_gguf(metadata, tensors)
