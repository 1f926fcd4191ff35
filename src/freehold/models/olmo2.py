"""OLMo 2: Llama whose norms follow attention and feed-forward, with whole projections of q and k normalized.

Paper: Walsh et al. 2025 (2 OLMo 2 Furious). Checkpoints: OLMo 2 1B to 32B.
Reference: transformers `models/olmo2/modeling_olmo2.py`.
"""

from freehold import ops
from freehold.models.llama import GGUF_NAMES, Llama
from freehold.models.qwen3 import QK_NORM_NAMES


class WholeNorm(Llama):
    """Mixed into a decoder: the projections of q and k are normalized, each as a whole."""

    def attention_shapes(self, i: int) -> dict[str, tuple[int, ...]]:
        shapes = super().attention_shapes(i)
        for name in ("q", "k"):
            shapes[f"self_attn.{name}_norm.weight"] = shapes[f"self_attn.{name}_proj.weight"][:1]
        return shapes

    def projections(self, x, layer, i):
        q, k, v = super().projections(x, layer, i)
        return self.norm(q, layer, "self_attn.q_norm"), self.norm(k, layer, "self_attn.k_norm"), v


class NormsAfter(Llama):
    """Norms behind attention and feed-forward, of what is added, and none before them."""

    gguf_names = (
        GGUF_NAMES
        | QK_NORM_NAMES
        | {
            "blk.{i}.post_attention_norm.weight": "model.layers.{i}.post_attention_layernorm.weight",
            "blk.{i}.post_ffw_norm.weight": "model.layers.{i}.post_feedforward_layernorm.weight",
        }
    )

    def norm_shapes(self, i: int) -> dict[str, tuple[int, ...]]:
        width = (self.config.hidden_size,)
        return {"post_attention_layernorm.weight": width, "post_feedforward_layernorm.weight": width}

    def block(self, x, layer, batch, i):
        x = ops.add(x, self.norm(self.attention(x, layer, batch, i), layer, "post_attention_layernorm"))
        return ops.add(x, self.norm(self.feed_forward(x, layer, i), layer, "post_feedforward_layernorm"))


class Olmo2(NormsAfter, WholeNorm):
    permuted_in_gguf = False
