"""Qwen2-MoE and Qwen3-MoE: Qwen2 and Qwen3 with routed experts; Qwen2's add a gated one that every token passes.

Papers: Yang et al. 2024 (Qwen2), 2025 (Qwen3). Checkpoints: Qwen1.5-MoE-A2.7B, Qwen2-57B-A14B; Qwen3-30B-A3B and
235B-A22B, Qwen3-Coder. Reference: transformers `models/qwen2_moe` and `models/qwen3_moe`.
"""

from typing import Any, Self

from freehold import ops
from freehold.models.config import decoder_values
from freehold.models.experts import EXPERTS_GGUF_NAMES, Experts, ExpertsConfig, experts_values
from freehold.models.qwen2 import Qwen2, optional_windows
from freehold.models.qwen3 import Qwen3
from freehold.models.settings import Settings


def qwen_experts(settings: Settings, normalize: bool = False) -> dict[str, Any]:
    """Fields of ExpertsConfig: every `decoder_sparse_step`-th layer has experts but for `mlp_only_layers`.

    `normalize`: where the file does not say.
    """
    router = ops.Router(settings.size("num_experts_per_tok"), normalize=settings.flag("norm_topk_prob", normalize))
    step, dense = settings.size("decoder_sparse_step", 1), settings.get("mlp_only_layers", [])
    layers = [i for i in range(settings.size("num_hidden_layers")) if i not in dense and (i + 1) % step == 0]
    return experts_values(settings, router, layers)


class GatedShared(Experts):
    """Experts beside one that every token passes, which has a gate."""

    shared = "mlp.shared_expert"

    def feed_forward_shapes(self, i: int) -> dict[str, tuple[int, ...]]:
        shapes = super().feed_forward_shapes(i)
        if i in self.config.sparse_layers:
            shapes["mlp.shared_expert_gate.weight"] = (1, self.config.hidden_size)
        return shapes

    def shared_experts(self, x, layer):
        return ops.sigmoid_gate(super().shared_experts(x, layer), self.linear(x, layer, "mlp.shared_expert_gate"))


class Qwen2Moe(GatedShared, Qwen2):
    gguf_names = (
        Qwen2.gguf_names
        | {name: ours.replace("shared_experts", "shared_expert") for name, ours in EXPERTS_GGUF_NAMES.items()}
        | {"blk.{i}.ffn_gate_inp_shexp.weight": "model.layers.{i}.mlp.shared_expert_gate.weight"}
    )

    @classmethod
    def from_settings(cls, settings: Settings, interleaved_rope: bool) -> Self:
        values = decoder_values(settings, interleaved_rope=interleaved_rope)
        values |= {"qkv_bias": settings.flag("qkv_bias", True), "windows": optional_windows(settings)}
        return cls(ExpertsConfig(**values, **qwen_experts(settings)))


class Qwen3Moe(Experts, Qwen3):
    gguf_names = Qwen3.gguf_names | EXPERTS_GGUF_NAMES

    @classmethod
    def from_settings(cls, settings: Settings, interleaved_rope: bool) -> Self:
        values = decoder_values(settings, interleaved_rope=interleaved_rope)
        values |= {"output_bias": values["qkv_bias"], "windows": optional_windows(settings)}
        # GGUF files do not say that the weights are normalized; llama.cpp takes it for granted.
        return cls(ExpertsConfig(**values, **qwen_experts(settings, normalize=settings.is_gguf)))
