"""Qwen3: Qwen2 without biases, its queries and keys normalized head by head.

Paper: Yang et al. 2025 (Qwen3). Checkpoints: Qwen3 0.6B to 32B, R1-0528-Qwen3-8B.
Reference: transformers `models/qwen3/modeling_qwen3.py`.
"""

from typing import Self

from freehold.models.config import DecoderConfig, decoder_values
from freehold.models.llama import GGUF_NAMES
from freehold.models.qwen2 import Qwen2, optional_windows
from freehold.models.settings import Settings

QK_NORM_NAMES = {
    "blk.{i}.attn_q_norm.weight": "model.layers.{i}.self_attn.q_norm.weight",
    "blk.{i}.attn_k_norm.weight": "model.layers.{i}.self_attn.k_norm.weight",
}


class Qwen3(Qwen2):
    gguf_names = GGUF_NAMES | QK_NORM_NAMES

    @classmethod
    def from_settings(cls, settings: Settings, interleaved_rope: bool) -> Self:
        values = decoder_values(settings, interleaved_rope=interleaved_rope)
        values |= {"output_bias": values["qkv_bias"], "windows": optional_windows(settings)}
        return cls(DecoderConfig(**values))

    def attention_shapes(self, i: int) -> dict[str, tuple[int, ...]]:
        width = (self.config.head_dim,)
        return super().attention_shapes(i) | {"self_attn.q_norm.weight": width, "self_attn.k_norm.weight": width}

    def projections(self, x, layer, i):
        c = self.config
        q, k, v = super().projections(x, layer, i)
        q = self.norm(q, layer, "self_attn.q_norm", c.num_heads)
        return q, self.norm(k, layer, "self_attn.k_norm", c.num_kv_heads), v
