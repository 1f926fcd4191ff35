"""GLM-4.5 to 4.7: grouped-query attention with rope on half of each head, and DeepSeek-V3's routing of experts.

Paper: GLM-4.5 team 2025. Checkpoints: GLM-4.5, 4.5-Air, 4.6, 4.7. The rope pairs channel i with i + half, unlike that
of the dense GLM-4. Reference: transformers `models/glm4_moe/modeling_glm4_moe.py`.
"""

from dataclasses import dataclass
from typing import Self

from freehold.models.config import decoder_values
from freehold.models.experts import (
    EXPERTS_GGUF_NAMES,
    Experts,
    ExpertsConfig,
    bias_corrected_router,
    experts_values,
)
from freehold.models.llama import Llama
from freehold.models.qwen3 import Qwen3
from freehold.models.settings import Settings


@dataclass(frozen=True, kw_only=True)
class GlmMoeConfig(ExpertsConfig):
    qk_norm: bool


class GlmMoe(Experts, Qwen3):
    correction = "mlp.gate.e_score_correction_bias"
    predicts_further = True
    gguf_names = (
        Qwen3.gguf_names
        | EXPERTS_GGUF_NAMES
        | {
            "blk.{i}.post_attention_norm.weight": "model.layers.{i}.post_attention_layernorm.weight",
        }
    )

    @classmethod
    def from_settings(cls, settings: Settings, interleaved_rope: bool) -> Self:
        values = decoder_values(settings, interleaved_rope=interleaved_rope, rotary_share=0.5)
        layers = range(settings.count("first_k_dense_replace", 1), values["num_layers"])
        experts = experts_values(settings, bias_corrected_router(settings), layers)
        return cls(
            GlmMoeConfig(
                **values, **experts, qk_norm=settings.flag("use_qk_norm", settings.flag("has_qk_norm_weights"))
            )
        )

    def attention_shapes(self, i: int) -> dict[str, tuple[int, ...]]:
        return super().attention_shapes(i) if self.config.qk_norm else Llama.attention_shapes(self, i)

    def projections(self, x, layer, i):
        return super().projections(x, layer, i) if self.config.qk_norm else Llama.projections(self, x, layer, i)
