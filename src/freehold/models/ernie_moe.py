"""ERNIE 4.5 with experts: routing by a softmax whose correction counts for the choice alone.

Paper: Baidu 2025 (ERNIE 4.5 technical report). Checkpoints: ERNIE-4.5-21B-A3B, 300B-A47B.
Reference: transformers `models/ernie4_5_moe/modeling_ernie4_5_moe.py`.
"""

from typing import Any, Self

from freehold import ops
from freehold.models.config import decoder_values
from freehold.models.ernie import Ernie
from freehold.models.experts import EXPERTS_GGUF_NAMES, Experts, ExpertsConfig, experts_values
from freehold.models.settings import Settings

CORRECTION = "mlp.moe_statics.e_score_correction_bias"


class ErnieMoe(Experts, Ernie):
    correction = CORRECTION
    gguf_names = (
        Ernie.gguf_names | EXPERTS_GGUF_NAMES | {"blk.{i}.exp_probs_b.bias": f"model.layers.{{i}}.{CORRECTION}"}
    )

    @classmethod
    def from_settings(cls, settings: Settings, interleaved_rope: bool) -> Self:
        values = decoder_values(settings, interleaved_rope=interleaved_rope)
        bias = settings.flag("use_bias", values["qkv_bias"])
        values |= {"qkv_bias": bias, "output_bias": bias, "mlp_bias": bias}
        router = ops.Router(settings.size("num_experts_per_tok"), least_sum=settings.number("moe_norm_min", 1e-12))
        return cls(ExpertsConfig(**values, **experts_values(settings, router, sparse_layers(settings))))

    def further_config(self) -> Any:
        return Ernie.further_config(self)  # without experts

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        head = {"lm_head.bias": (self.config.vocabulary_size,)} if self.config.mlp_bias else {}
        return super().parameter_shapes() | head


def sparse_layers(settings: Settings) -> list[int]:
    """Every `moe_layer_interval`-th of the layers from `moe_layer_start_index` to `moe_layer_end_index`."""
    num_layers, interval = settings.size("num_hidden_layers"), settings.size("interleave_moe_layer_step", 1)
    first, last = settings.count("first_k_dense_replace", 1), settings.get("moe_layer_end_index", -1)
    last = num_layers - 1 if last == -1 else last
    return [i for i in range(num_layers) if first <= i <= last and (i + 1) % interval == 0]
