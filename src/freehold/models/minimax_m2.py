"""MiniMax-M2: experts routed by corrected sigmoids; whole projections of q and k normalized; rope on half of each head.

Checkpoints: MiniMax-M2, M2.1, M2.5, M2.7. Reference: transformers `models/minimax_m2/modeling_minimax_m2.py`.
"""

from typing import Self

from freehold import ops
from freehold.models.config import decoder_values
from freehold.models.experts import EXPERTS_GGUF_NAMES, Experts, ExpertsConfig, experts_values
from freehold.models.llama import GGUF_NAMES
from freehold.models.olmo2 import WholeNorm
from freehold.models.qwen3 import QK_NORM_NAMES
from freehold.models.settings import Settings

# Mixtral's names for the matrices of an expert.
PUBLISHED = {
    "mlp.experts.gate_proj": "block_sparse_moe.experts.w1",
    "mlp.experts.up_proj": "block_sparse_moe.experts.w3",
    "mlp.experts.down_proj": "block_sparse_moe.experts.w2",
    "mlp.gate.e_score": "block_sparse_moe.e_score",
    "mlp.gate.": "block_sparse_moe.gate.",
}


def published(name: str) -> str:
    """The name as MiniMax publishes it."""
    for usual, theirs in PUBLISHED.items():
        name = name.replace(usual, theirs)
    return name


class MiniMaxM2(Experts, WholeNorm):
    permuted_in_gguf = False
    routing = "block_sparse_moe.gate"
    correction = "block_sparse_moe.e_score_correction_bias"
    routed = "block_sparse_moe.experts"
    matrices = ("w1", "w3", "w2")
    gguf_names = GGUF_NAMES | QK_NORM_NAMES | {name: published(usual) for name, usual in EXPERTS_GGUF_NAMES.items()}

    @classmethod
    def from_settings(cls, settings: Settings, interleaved_rope: bool) -> Self:
        values = decoder_values(settings, interleaved_rope=interleaved_rope)
        router = ops.Router(settings.size("num_experts_per_tok"), scoring="sigmoid")
        size = settings.size("moe_intermediate_size", values["intermediate_size"])
        experts = experts_values(settings, router, range(values["num_layers"]), expert_size=size)
        return cls(ExpertsConfig(**values, **experts))
