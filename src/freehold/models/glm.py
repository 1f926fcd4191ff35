"""GLM-4: Llama with rope on interleaved pairs of the first half of each head; GLM-4-0414 adds norms behind each part.

Papers: GLM team 2024 (ChatGLM: from GLM-130B to GLM-4). Checkpoints: glm-4-9b-chat-hf (`glm`); GLM-4-9B/32B-0414,
GLM-Z1-9B/32B (`glm4`). Reference: transformers `models/glm/modeling_glm.py`, `models/glm4/modeling_glm4.py`.
"""

from typing import Self

from freehold import ops
from freehold.models.config import DecoderConfig, decoder_values
from freehold.models.llama import GGUF_NAMES, Llama
from freehold.models.parameters import Split
from freehold.models.settings import Settings


class Glm(Llama):
    # ffn_up holds gate and up, as the published tensor does.
    gguf_names = {name: ours for name, ours in GGUF_NAMES.items() if "ffn_gate" not in name} | {
        "blk.{i}.ffn_up.weight": "model.layers.{i}.mlp.gate_up_proj.weight",
        "blk.{i}.attn_qkv.weight": "model.layers.{i}.self_attn.query_key_value.weight",
        "blk.{i}.attn_qkv.bias": "model.layers.{i}.self_attn.query_key_value.bias",
    }
    splits = {"mlp.gate_up_proj.weight": Split(("mlp.gate_proj.weight", "mlp.up_proj.weight"))} | {
        f"self_attn.query_key_value.{part}": Split(tuple(f"self_attn.{name}_proj.{part}" for name in "qkv"))
        for part in ("weight", "bias")
    }

    interleaved_rope = True
    permuted_in_gguf = False

    @classmethod
    def from_settings(cls, settings: Settings, interleaved_rope: bool) -> Self:
        return cls(DecoderConfig(**decoder_values(settings, interleaved_rope=interleaved_rope)))


class Glm4(Glm):
    gguf_names = Glm.gguf_names | {
        "blk.{i}.post_attention_norm.weight": "model.layers.{i}.post_self_attn_layernorm.weight",
        "blk.{i}.post_ffw_norm.weight": "model.layers.{i}.post_mlp_layernorm.weight",
    }

    def norm_shapes(self, i: int) -> dict[str, tuple[int, ...]]:
        width = (self.config.hidden_size,)
        after = {"post_self_attn_layernorm.weight": width, "post_mlp_layernorm.weight": width}
        return super().norm_shapes(i) | after

    def block(self, x, layer, batch, i):
        h = self.norm(x, layer, "input_layernorm")
        x = ops.add(x, self.norm(self.attention(h, layer, batch, i), layer, "post_self_attn_layernorm"))
        h = self.norm(x, layer, "post_attention_layernorm")
        return ops.add(x, self.norm(self.feed_forward(h, layer, i), layer, "post_mlp_layernorm"))
