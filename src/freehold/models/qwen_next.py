"""Qwen3-Next and Qwen3.5 (text): most layers keep a fixed state by the gated delta rule, the others attend with a gate.

Papers: Yang et al. 2025 (gated delta networks), Qwen team 2025 and 2026. Checkpoints: Qwen3-Next-80B-A3B,
Qwen3-Coder-Next (`qwen3_next`); Qwen3.5 0.8B to 27B (`qwen3_5`), 35B-A3B and larger (`qwen3_5_moe`), Qwen3.6, Qwen3.8.
Norms are published as their distance from one, but for those behind the delta rule. Text alone has one position for all
three sections of Qwen3.5's rope. Reference: transformers `models/qwen3_next`, `models/qwen3_5`, `models/qwen3_5_moe`.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

from freehold import ops
from freehold.models.config import DecoderConfig, decoder_values
from freehold.models.experts import ExpertsConfig
from freehold.models.parameters import Split
from freehold.models.qwen3 import Qwen3
from freehold.models.qwen_moe import GatedShared, Qwen2Moe, qwen_experts
from freehold.models.settings import Settings

CONVOLVED = ("q", "k", "v")
SPLITS = {
    f"self_attn.q_proj.{part}": Split((f"self_attn.q_proj.{part}", f"self_attn.gate_proj.{part}"), groups="num_heads")
    for part in ("weight", "bias")
} | {
    "linear_attn.conv1d.weight": Split(tuple(f"linear_attn.{name}_conv1d.weight" for name in CONVOLVED)),
    "linear_attn.in_proj_qkv.weight": Split(tuple(f"linear_attn.in_proj_{name}.weight" for name in CONVOLVED)),
    "linear_attn.in_proj_qkvz.weight": Split(
        tuple(f"linear_attn.in_proj_{name}.weight" for name in "qkvz"), groups="key_heads"
    ),
    "linear_attn.in_proj_ba.weight": Split(
        ("linear_attn.in_proj_b.weight", "linear_attn.in_proj_a.weight"), groups="key_heads"
    ),
}
DELTA_GGUF_NAMES = {
    f"blk.{{i}}.{gguf}": f"model.layers.{{i}}.linear_attn.{ours}"
    for gguf, ours in {
        "attn_qkv.weight": "in_proj_qkv.weight",
        "attn_gate.weight": "in_proj_z.weight",
        "ssm_in.weight": "in_proj_qkvz.weight",
        "ssm_ba.weight": "in_proj_ba.weight",
        "ssm_alpha.weight": "in_proj_a.weight",
        "ssm_beta.weight": "in_proj_b.weight",
        "ssm_conv1d.weight": "conv1d.weight",
        "ssm_dt.bias": "dt_bias",
        "ssm_a": "A_log",
        "ssm_norm.weight": "norm.weight",
        "ssm_out.weight": "out_proj.weight",
    }.items()
} | {"blk.{i}.post_attention_norm.weight": "model.layers.{i}.post_attention_layernorm.weight"}


def convolved(projections: Iterable[Any], layer: Any, part: str, cache: Any) -> Iterator[Any]:
    """Queries, keys and values, each through the short convolution of its own."""
    for name, x in zip(CONVOLVED, projections, strict=True):
        yield ops.short_convolution(x, layer[f"{part}.{name}_conv1d.weight"], cache, f"{name}_convolution")


@dataclass(frozen=True, kw_only=True)
class DeltaConfig(DecoderConfig):
    """Of layers with the gated delta rule."""

    linear_layers: frozenset[int]
    key_heads: int
    value_heads: int
    key_dim: int  # of a head
    value_dim: int
    convolution: int  # taps
    tiled_heads: bool  # value head j goes with key head j % key_heads, not j // (value_heads / key_heads)


@dataclass(frozen=True, kw_only=True)
class DeltaExpertsConfig(ExpertsConfig, DeltaConfig):
    pass


def linear_layers(settings: Settings) -> frozenset[int]:
    """By the file's `layer_types`, or all but every `full_attention_interval`-th."""
    num_layers, every = settings.size("num_hidden_layers"), settings.size("full_attention_interval", 4)
    kinds = settings.layers("layer_types", num_layers)
    if kinds is None:
        return frozenset(i for i in range(num_layers) if (i + 1) % every)
    return frozenset(i for i, kind in enumerate(kinds) if kind == "linear_attention")


def logarithm_of_rate(rate: Any) -> Any:
    """GGUF files hold -exp of what is published."""
    import numpy

    return numpy.log(-rate)


def rate_of_logarithm(logarithm: Any) -> Any:
    import numpy

    return -numpy.exp(logarithm)


class GatedDelta(Qwen3):
    """Layers with the delta rule, and layers whose attention has a gate."""

    splits = SPLITS
    gguf_names = Qwen3.gguf_names | DELTA_GGUF_NAMES
    gguf_values: Mapping[str, Any] = {"linear_attn.A_log": logarithm_of_rate}
    gguf_stored: Mapping[str, Any] = {"linear_attn.A_log": rate_of_logarithm}
    tiled_in_gguf = True
    predicts_further = True

    @classmethod
    def delta_values(cls, settings: Settings, interleaved_rope: bool) -> dict[str, Any]:
        """The fields of DeltaConfig as a file has them."""
        values = decoder_values(settings, interleaved_rope=interleaved_rope, rotary_share=0.25)
        value_heads = settings.size("linear_num_value_heads")
        value_size = settings.size("linear_value_size", value_heads * settings.get("linear_value_head_dim", 0) or None)
        return values | {
            "output_bias": values["qkv_bias"],
            "norm_offset": 0.0 if settings.is_gguf else 1.0,
            "linear_layers": linear_layers(settings),
            "key_heads": settings.size("linear_num_key_heads"),
            "value_heads": value_heads,
            "key_dim": settings.size("linear_key_head_dim"),
            "value_dim": value_size // value_heads,
            "convolution": settings.size("linear_conv_kernel_dim"),
            "tiled_heads": settings.is_gguf and cls.tiled_in_gguf,
        }

    @classmethod
    def from_settings(cls, settings: Settings, interleaved_rope: bool) -> Self:
        return cls(DeltaConfig(**cls.delta_values(settings, interleaved_rope)))

    def attention_shapes(self, i: int) -> dict[str, tuple[int, ...]]:
        c = self.config
        if i in c.linear_layers:
            return self.delta_shapes()
        shapes = super().attention_shapes(i)
        gate = {f"self_attn.gate_proj.{part}": shapes.get(f"self_attn.q_proj.{part}") for part in ("weight", "bias")}
        return shapes | {name: shape for name, shape in gate.items() if shape}

    def delta_shapes(self) -> dict[str, tuple[int, ...]]:
        c = self.config
        d, n, keys, values = c.hidden_size, c.value_heads, c.key_heads * c.key_dim, c.value_heads * c.value_dim
        widths = {"q": keys, "k": keys, "v": values}
        shapes: dict[str, tuple[int, ...]] = {
            f"in_proj_{name}.weight": (width, d) for name, width in (widths | {"z": values, "a": n, "b": n}).items()
        }
        shapes |= {f"{name}_conv1d.weight": (width, c.convolution) for name, width in widths.items()}
        shapes |= {"A_log": (n,), "dt_bias": (n,), "norm.weight": (c.value_dim,), "out_proj.weight": (d, values)}
        return {f"linear_attn.{name}": shape for name, shape in shapes.items()}

    def caches(self) -> list[ops.CacheSpec]:
        c = self.config
        widths = {"q": c.key_heads * c.key_dim, "k": c.key_heads * c.key_dim, "v": c.value_heads * c.value_dim}
        states: dict[str, tuple[int, ...]] = {
            f"{name}_convolution": (c.convolution - 1, width) for name, width in widths.items()
        }
        linear = ops.CacheSpec(states=states | {"state": (c.value_heads, c.key_dim, c.value_dim)})
        return [linear if i in c.linear_layers else spec for i, spec in enumerate(super().caches())]

    def attention(self, x, layer, batch, i):
        if i in self.config.linear_layers:
            return self.delta(x, layer, batch.caches[i])
        out = ops.sigmoid_gate(self.mix(x, layer, batch, i), self.linear(x, layer, "self_attn.gate_proj"))
        return self.linear(out, layer, "self_attn.o_proj")

    def delta(self, x, layer, cache):
        c = self.config
        projections = (self.linear(x, layer, f"linear_attn.in_proj_{name}") for name in CONVOLVED)
        q, k, v = convolved(projections, layer, "linear_attn", cache)
        out = ops.delta_rule(
            q,
            k,
            v,
            self.linear(x, layer, "linear_attn.in_proj_a"),
            self.linear(x, layer, "linear_attn.in_proj_b"),
            layer["linear_attn.A_log"],
            layer["linear_attn.dt_bias"],
            cache,
            num_key_heads=c.key_heads,
            tiled_heads=c.tiled_heads,
        )
        gate = self.linear(x, layer, "linear_attn.in_proj_z")
        weight = layer["linear_attn.norm.weight"]
        out = ops.gated_rms_norm(out, gate, weight, c.norm_eps, c.value_heads, "silu")
        return self.linear(out, layer, "linear_attn.out_proj")


class GatedDeltaExperts(GatedShared, GatedDelta):
    gguf_names = Qwen2Moe.gguf_names | GatedDelta.gguf_names

    @classmethod
    def from_settings(cls, settings: Settings, interleaved_rope: bool) -> Self:
        values = cls.delta_values(settings, interleaved_rope)
        return cls(DeltaExpertsConfig(**values, **qwen_experts(settings, normalize=True)))


class QwenNext(GatedDeltaExperts):
    tiled_in_gguf = False
