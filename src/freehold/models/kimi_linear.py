"""Kimi Linear: three of four layers keep a state by the delta rule with a decay for each channel; the others attend
through latents, without rope.

Paper: Kimi team 2025 (Kimi Linear). Checkpoints: Kimi-Linear-48B-A3B. Layers are counted from one in its config.json.
Reference: transformers `models/kimi_linear/modeling_kimi_linear.py`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from freehold import ops
from freehold.models.deepseek import DeepSeek, LatentConfig, dense_first, latent_values
from freehold.models.experts import EXPERTS_GGUF_NAMES, bias_corrected_router, experts_values
from freehold.models.minimax_m2 import published
from freehold.models.qwen_next import CONVOLVED, convolved, logarithm_of_rate, rate_of_logarithm
from freehold.models.settings import Settings

CORRECTION = "block_sparse_moe.gate.e_score_correction_bias"
DELTA_GGUF_NAMES = {
    f"blk.{{i}}.{gguf}": f"model.layers.{{i}}.self_attn.{ours}"
    for gguf, ours in {
        "ssm_conv1d_q.weight": "q_conv1d.weight",
        "ssm_conv1d_k.weight": "k_conv1d.weight",
        "ssm_conv1d_v.weight": "v_conv1d.weight",
        "ssm_f_a.weight": "f_a_proj.weight",
        "ssm_f_b.weight": "f_b_proj.weight",
        "ssm_g_a.weight": "g_a_proj.weight",
        "ssm_g_b.weight": "g_b_proj.weight",
        "ssm_beta.weight": "b_proj.weight",
        "ssm_a": "A_log",
        "ssm_dt.bias": "dt_bias",
        "ssm_norm.weight": "o_norm.weight",
    }.items()
}


def in_kimi(name: str) -> str:
    """The name of a part with experts as Moonshot publishes it."""
    return published(name).replace("mlp.shared", "block_sparse_moe.shared")


@dataclass(frozen=True, kw_only=True)
class KimiLinearConfig(LatentConfig):
    linear_layers: frozenset[int]
    linear_heads: int
    linear_dim: int  # of a head
    convolution: int  # taps


class KimiLinear(DeepSeek):
    routing = "block_sparse_moe.gate"
    correction = CORRECTION
    routed = "block_sparse_moe.experts"
    matrices = ("w1", "w3", "w2")
    shared = "block_sparse_moe.shared_experts"
    gguf_names = (
        DeepSeek.gguf_names
        | DELTA_GGUF_NAMES
        | {name: in_kimi(usual) for name, usual in EXPERTS_GGUF_NAMES.items()}
        | {"blk.{i}.exp_probs_b.bias": f"model.layers.{{i}}.{CORRECTION}"}
    )
    # As transformers saves them.
    aliases: Mapping[str, str] = {
        f"block_sparse_moe.{name}_proj.weight": f"mlp.{name}_proj.weight" for name in ("gate", "up", "down")
    }
    gguf_values: Mapping[str, Any] = {"self_attn.A_log": logarithm_of_rate}
    gguf_stored: Mapping[str, Any] = {"self_attn.A_log": rate_of_logarithm}

    @classmethod
    def from_settings(cls, settings: Settings, interleaved_rope: bool) -> Self:
        values = latent_values(settings, interleaved_rope)
        experts = experts_values(settings, bias_corrected_router(settings), dense_first(settings, 1))
        linear = Settings(settings.get("linear_attn_config", {}))
        return cls(
            KimiLinearConfig(
                **values,
                **experts,
                linear_layers=linear_layers(settings, linear),
                linear_heads=linear.size("num_heads", settings.get("linear_num_heads", values["num_heads"])),
                linear_dim=linear.size("head_dim", settings.get("linear_head_dim")),
                convolution=linear.size("short_conv_kernel_size", settings.get("linear_conv_kernel_dim")),
            )
        )

    def attention_shapes(self, i: int) -> dict[str, tuple[int, ...]]:
        c = self.config
        if i not in c.linear_layers:
            return super().attention_shapes(i)
        d, h, width = c.hidden_size, c.linear_dim, c.linear_heads * c.linear_dim
        shapes: dict[str, tuple[int, ...]] = {f"{name}_proj.weight": (width, d) for name in CONVOLVED}
        shapes |= {f"{name}_conv1d.weight": (width, c.convolution) for name in CONVOLVED}
        for gate in ("f", "g"):
            shapes |= {f"{gate}_a_proj.weight": (h, d), f"{gate}_b_proj.weight": (width, h)}
        shapes |= {"b_proj.weight": (c.linear_heads, d), "A_log": (c.linear_heads,), "dt_bias": (width,)}
        shapes |= {"o_norm.weight": (h,), "o_proj.weight": (d, width)}
        return {f"self_attn.{name}": shape for name, shape in shapes.items()}

    def caches(self) -> list[ops.CacheSpec]:
        c = self.config
        width = c.linear_heads * c.linear_dim
        states: dict[str, tuple[int, ...]] = {f"{name}_convolution": (c.convolution - 1, width) for name in CONVOLVED}
        linear = ops.CacheSpec(states=states | {"state": (c.linear_heads, c.linear_dim, c.linear_dim)})
        return [linear if i in c.linear_layers else spec for i, spec in enumerate(super().caches())]

    def turn(self, x, batch, num_heads, first=0):
        return x

    def attention(self, x, layer, batch, i):
        if i in self.config.linear_layers:
            return self.delta(x, layer, batch.caches[i])
        return super().attention(x, layer, batch, i)

    def delta(self, x, layer, cache):
        c = self.config
        projections = (self.linear(x, layer, f"self_attn.{name}_proj") for name in CONVOLVED)
        q, k, v = convolved(projections, layer, "self_attn", cache)
        out = ops.delta_rule(
            q,
            k,
            v,
            self.twice(x, layer, "self_attn.f"),
            self.linear(x, layer, "self_attn.b_proj"),
            layer["self_attn.A_log"],
            layer["self_attn.dt_bias"],
            cache,
            num_key_heads=c.linear_heads,
        )
        gate, weight = self.twice(x, layer, "self_attn.g"), layer["self_attn.o_norm.weight"]
        out = ops.gated_rms_norm(out, gate, weight, c.norm_eps, c.linear_heads, "sigmoid")
        return self.linear(out, layer, "self_attn.o_proj")

    def twice(self, x, layer, name):
        """A projection of low rank."""
        return self.linear(self.linear(x, layer, f"{name}_a_proj"), layer, f"{name}_b_proj")


def linear_layers(settings: Settings, linear: Settings) -> frozenset[int]:
    num_layers = settings.size("num_hidden_layers")
    if linear.get("kda_layers") is not None:
        return frozenset(i - 1 for i in linear.get("kda_layers"))
    if settings.is_gguf:  # layers without key and value heads
        heads = settings.layers("num_key_value_heads", num_layers) or []
        return frozenset(i for i, count in enumerate(heads) if not count)
    kinds = settings.layers("layer_types", num_layers)
    if kinds is None:
        return frozenset(i for i in range(num_layers) if i == 0 or i % 4)
    return frozenset(i for i, kind in enumerate(kinds) if kind == "linear_attention")
