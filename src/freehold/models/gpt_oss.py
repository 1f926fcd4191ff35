"""gpt-oss: alternating windows, attention sinks, biases everywhere, and experts with a clamped SwiGLU.

Paper: OpenAI 2025 (gpt-oss-120b & gpt-oss-20b model card). Checkpoints: gpt-oss-20b and 120b.
The published experts hold gate and up in alternating rows, transposed where they are not quantized.
Reference: transformers `models/gpt_oss/modeling_gpt_oss.py`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from freehold import ops
from freehold.models.config import decoder_values, window_of_each_layer
from freehold.models.experts import Experts, ExpertsConfig, experts_values
from freehold.models.llama import GGUF_NAMES
from freehold.models.parameters import Split
from freehold.models.settings import Settings, gguf_settings

SPLITS = {
    "mlp.experts.gate_up_proj": Split(
        ("mlp.experts.gate_proj.weight", "mlp.experts.up_proj.weight"), groups="expert_size", transposed=True
    ),
    "mlp.experts.gate_up_proj_bias": Split(
        ("mlp.experts.gate_proj.bias", "mlp.experts.up_proj.bias"), groups="expert_size"
    ),
    "mlp.experts.down_proj": Split(("mlp.experts.down_proj.weight",), transposed=True),
    "mlp.experts.down_proj_bias": Split(("mlp.experts.down_proj.bias",)),
}


@dataclass(frozen=True, kw_only=True)
class GptOssConfig(ExpertsConfig):
    glu: ops.Glu


class GptOss(Experts):
    permuted_in_gguf = False
    routing = "mlp.router"
    splits = SPLITS
    gguf_names = (
        GGUF_NAMES
        | {
            "blk.{i}.post_attention_norm.weight": "model.layers.{i}.post_attention_layernorm.weight",
            "blk.{i}.attn_sinks.weight": "model.layers.{i}.self_attn.sinks",
            "blk.{i}.ffn_gate_inp.weight": "model.layers.{i}.mlp.router.weight",
            "blk.{i}.ffn_gate_inp.bias": "model.layers.{i}.mlp.router.bias",
        }
        | {
            f"blk.{{i}}.ffn_{name}_exps.{part}": f"model.layers.{{i}}.mlp.experts.{name}_proj.{part}"
            for name in ("gate", "up", "down")
            for part in ("weight", "bias")
        }
    )

    @classmethod
    def from_gguf(cls, metadata: Mapping[str, Any], tensors: Mapping[str, Any]) -> Self:
        settings = gguf_settings(metadata, tensors)
        settings.get("rope_parameters").setdefault("truncate", False)  # as published; GGUF files cannot say so
        return cls.from_settings(settings, cls.interleaved_rope)

    @classmethod
    def from_settings(cls, settings: Settings, interleaved_rope: bool) -> Self:
        values = decoder_values(settings, interleaved_rope=interleaved_rope)
        bias = settings.flag("attention_bias", True)
        values |= {"qkv_bias": bias, "output_bias": bias, "windows": windows(settings)}
        size = settings.size("moe_intermediate_size", values["intermediate_size"])
        router = ops.Router(settings.size("num_experts_per_tok"))  # a softmax over the chosen, which is the same
        experts = experts_values(settings, router, range(values["num_layers"]), expert_size=size)
        glu = ops.Glu(settings.number("swiglu_alpha", 1.702), settings.number("swiglu_limit", 7.0), 1.0)
        return cls(GptOssConfig(**values, **experts, glu=glu))

    def attention_shapes(self, i: int) -> dict[str, tuple[int, ...]]:
        return super().attention_shapes(i) | {"self_attn.sinks": (self.config.num_heads,)}

    def feed_forward_shapes(self, i: int) -> dict[str, tuple[int, ...]]:
        c = self.config
        biases = {"gate_proj": c.expert_size, "up_proj": c.expert_size, "down_proj": c.hidden_size}
        shapes = {f"mlp.experts.{name}.bias": (c.num_experts, width) for name, width in biases.items()}
        return super().feed_forward_shapes(i) | shapes | {"mlp.router.bias": (c.num_experts,)}

    def sinks(self, layer):
        return layer["self_attn.sinks"]

    def feed_forward(self, x, layer, i):
        weights, biases = (
            [layer[f"mlp.experts.{name}.{part}"] for name in self.matrices] for part in ("weight", "bias")
        )
        named = dict(zip(("gate_bias_EF", "up_bias_EF", "down_bias_ED"), biases, strict=True))
        logits = self.linear(x, layer, self.routing)
        return ops.experts(x, logits, *weights, **named, router=self.config.router, glu=self.config.glu)


def windows(settings: Settings) -> tuple[int | None, ...]:
    """Every other layer has one, the first included, unless the file says otherwise."""
    window = settings.size("sliding_window")
    if settings.get("layer_types") is None:
        return tuple(None if i % 2 else window for i in range(settings.size("num_hidden_layers")))
    return window_of_each_layer(settings, window)
