"""Llama: a pre-norm decoder with grouped-query attention, rotary positions and a gated feed-forward.

Papers: Touvron et al. 2023 (Llama, Llama 2), Grattafiori et al. 2024 (Llama 3).
Checkpoints: Llama 2 and 3.x, SmolLM, DeepSeek-LLM, R1-Distill-Llama and others that publish `LlamaForCausalLM`.
Reference: transformers `models/llama/modeling_llama.py`.
"""

from collections.abc import Mapping
from typing import Any

from freehold import ops
from freehold.models.config import DecoderConfig, gguf_config, huggingface_config

# Name in a GGUF file -> name in the published checkpoint; {i} is the layer.
GGUF_NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "blk.{i}.attn_norm.weight": "model.layers.{i}.input_layernorm.weight",
    "blk.{i}.attn_q.weight": "model.layers.{i}.self_attn.q_proj.weight",
    "blk.{i}.attn_k.weight": "model.layers.{i}.self_attn.k_proj.weight",
    "blk.{i}.attn_v.weight": "model.layers.{i}.self_attn.v_proj.weight",
    "blk.{i}.attn_q.bias": "model.layers.{i}.self_attn.q_proj.bias",
    "blk.{i}.attn_k.bias": "model.layers.{i}.self_attn.k_proj.bias",
    "blk.{i}.attn_v.bias": "model.layers.{i}.self_attn.v_proj.bias",
    "blk.{i}.attn_output.weight": "model.layers.{i}.self_attn.o_proj.weight",
    "blk.{i}.ffn_norm.weight": "model.layers.{i}.post_attention_layernorm.weight",
    "blk.{i}.ffn_gate.weight": "model.layers.{i}.mlp.gate_proj.weight",
    "blk.{i}.ffn_up.weight": "model.layers.{i}.mlp.up_proj.weight",
    "blk.{i}.ffn_down.weight": "model.layers.{i}.mlp.down_proj.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}


class Llama:
    gguf_names = GGUF_NAMES

    def __init__(self, config: DecoderConfig):
        self.config = config

    @classmethod
    def from_gguf(cls, metadata: Mapping[str, Any], tensors: Mapping[str, Any]) -> "Llama":
        # llama.cpp's converter permutes the rows of q and k so that rope's pairs lie side by side.
        return cls(gguf_config(metadata, tensors, interleaved_rope=True))

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "Llama":
        return cls(huggingface_config(config))

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """Every parameter that the forward reads, by the published checkpoint's name."""
        c = self.config
        d, q, kv, f = c.hidden_size, c.num_heads * c.head_dim, c.num_kv_heads * c.head_dim, c.intermediate_size
        shapes = {"model.embed_tokens.weight": (c.vocabulary_size, d), "model.norm.weight": (d,)}
        if not c.tied_embeddings:
            shapes["lm_head.weight"] = (c.vocabulary_size, d)
        layer = {
            "input_layernorm.weight": (d,),
            "self_attn.q_proj.weight": (q, d),
            "self_attn.k_proj.weight": (kv, d),
            "self_attn.v_proj.weight": (kv, d),
            "self_attn.o_proj.weight": (d, q),
            "post_attention_layernorm.weight": (d,),
            "mlp.gate_proj.weight": (f, d),
            "mlp.up_proj.weight": (f, d),
            "mlp.down_proj.weight": (d, f),
        }
        if c.attention_bias:
            layer |= {"self_attn.q_proj.bias": (q,), "self_attn.k_proj.bias": (kv,), "self_attn.v_proj.bias": (kv,)}
        for i in range(c.num_layers):
            shapes |= {f"model.layers.{i}.{name}": shape for name, shape in layer.items()}
        return shapes

    def caches(self) -> list[ops.CacheSpec]:
        """What each layer keeps of the past."""
        width = self.config.num_kv_heads * self.config.head_dim
        return [ops.CacheSpec({"keys": width, "values": width})] * self.config.num_layers

    def attention(self, x, layer, batch, cache):
        c = self.config
        q = ops.linear(x, layer["self_attn.q_proj.weight"], layer.get("self_attn.q_proj.bias"))
        k = ops.linear(x, layer["self_attn.k_proj.weight"], layer.get("self_attn.k_proj.bias"))
        v = ops.linear(x, layer["self_attn.v_proj.weight"], layer.get("self_attn.v_proj.bias"))
        q = ops.rope(q, batch.positions, c.rope, c.num_heads)
        k = ops.rope(k, batch.positions, c.rope, c.num_kv_heads)
        heads = {"num_heads": c.num_heads, "num_kv_heads": c.num_kv_heads}
        out = ops.attention(q, k, v, cache, **heads, scale=c.head_dim**-0.5)
        return ops.linear(out, layer["self_attn.o_proj.weight"])

    def feed_forward(self, x, layer):
        gate = ops.linear(x, layer["mlp.gate_proj.weight"])
        up = ops.linear(x, layer["mlp.up_proj.weight"])
        return ops.linear(ops.swiglu(gate, up), layer["mlp.down_proj.weight"])

    def block(self, x, layer, batch, cache):
        eps = self.config.norm_eps
        h = ops.rms_norm(x, layer["input_layernorm.weight"], eps)
        x = ops.add(x, self.attention(h, layer, batch, cache))
        h = ops.rms_norm(x, layer["post_attention_layernorm.weight"], eps)
        return ops.add(x, self.feed_forward(h, layer))

    def forward(self, parameters, batch):
        """Hidden states (T, D) of the step's tokens, before the final norm."""
        x = ops.embedding(batch.tokens, parameters["model.embed_tokens.weight"])
        for i in range(self.config.num_layers):
            x = self.block(x, parameters.scope(f"model.layers.{i}."), batch, batch.caches[i])
        return x

    def logits(self, parameters, hidden):
        """Logits (rows, V) of some rows of hidden states."""
        head = "model.embed_tokens.weight" if self.config.tied_embeddings else "lm_head.weight"
        hidden = ops.rms_norm(hidden, parameters["model.norm.weight"], self.config.norm_eps)
        return ops.linear(hidden, parameters[head])
