"""Llama: a pre-norm decoder with grouped-query attention, rotary positions and a gated feed-forward.

Papers: Touvron et al. 2023 (Llama, Llama 2), Grattafiori et al. 2024 (Llama 3).
Checkpoints: Llama 2 and 3.x, SmolLM, DeepSeek-LLM, R1-Distill-Llama and others that publish `LlamaForCausalLM`.
Reference: transformers `models/llama/modeling_llama.py`.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Self

from freehold import ops
from freehold.models.config import DecoderConfig, decoder_values
from freehold.models.settings import Settings, gguf_settings

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
    "blk.{i}.attn_output.bias": "model.layers.{i}.self_attn.o_proj.bias",
    "blk.{i}.ffn_norm.weight": "model.layers.{i}.post_attention_layernorm.weight",
    "blk.{i}.ffn_gate.weight": "model.layers.{i}.mlp.gate_proj.weight",
    "blk.{i}.ffn_up.weight": "model.layers.{i}.mlp.up_proj.weight",
    "blk.{i}.ffn_down.weight": "model.layers.{i}.mlp.down_proj.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}


class Llama:
    config: Any  # a DecoderConfig, or what a family derives from it
    gguf_names: dict[str, str] = GGUF_NAMES
    # Published tensors that are taken apart: name in a layer -> how (see `models.parameters.Split`).
    splits: Mapping[str, Any] = {}
    # Other names under which a parameter is published: name in a layer -> the usual one.
    aliases: Mapping[str, str] = {}
    # Prefixes under which parameters are published: prefix -> the usual one.
    prefixes: Mapping[str, str] = {}
    # Values that llama.cpp's converter changes: name in a layer -> what makes the published value of the file's.
    gguf_values: Mapping[str, Any] = {}
    gguf_stored: Mapping[str, Any] = {}  # the reverse
    interleaved_rope = False  # as published
    dense = "mlp"  # what the feed-forward is called
    predicts_further = False  # checkpoints may have a layer for multi-token prediction (see `models.mtp`)
    further_norm = "model.layers.{i}.shared_head.norm"  # the norm behind that layer, before the output matrix
    permuted_in_gguf = True  # llama.cpp's converter permutes the rows of q and k so that rope's pairs lie side by side

    def __init__(self, config: DecoderConfig):
        self.config = config

    @classmethod
    def from_gguf(cls, metadata: Mapping[str, Any], tensors: Mapping[str, Any]) -> Self:
        return cls.from_settings(gguf_settings(metadata, tensors), cls.interleaved_rope or cls.permuted_in_gguf)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """From the values of a checkpoint's config.json."""
        return cls.from_settings(Settings(config), cls.interleaved_rope)

    @classmethod
    def from_settings(cls, settings: Settings, interleaved_rope: bool) -> Self:
        values = decoder_values(settings, interleaved_rope=interleaved_rope)
        values |= {"output_bias": values["qkv_bias"], "mlp_bias": settings.flag("mlp_bias")}
        return cls(DecoderConfig(**values))

    def further_config(self) -> Any:
        """The config with one layer more, that for multi-token prediction."""
        return dataclasses.replace(self.config, num_layers=self.config.num_layers + 1)

    # Parameters.

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """Every parameter that the forward reads, by the published checkpoint's name."""
        c = self.config
        shapes = {
            "model.embed_tokens.weight": (c.vocabulary_size, c.hidden_size),
            "model.norm.weight": (c.hidden_size,),
        }
        if not c.tied_embeddings:
            shapes["lm_head.weight"] = (c.vocabulary_size, c.hidden_size)
        for i in range(c.num_layers):
            layer = self.norm_shapes(i) | self.attention_shapes(i) | self.feed_forward_shapes(i)
            shapes |= {f"model.layers.{i}.{name}": shape for name, shape in layer.items()}
        return shapes

    def norm_shapes(self, i: int) -> dict[str, tuple[int, ...]]:
        width = (self.config.hidden_size,)
        return {"input_layernorm.weight": width, "post_attention_layernorm.weight": width}

    def attention_shapes(self, i: int) -> dict[str, tuple[int, ...]]:
        c = self.config
        d, q, kv = c.hidden_size, c.num_heads * c.head_dim, c.num_kv_heads * c.head_dim
        shapes: dict[str, tuple[int, ...]] = {
            "self_attn.q_proj.weight": (q, d),
            "self_attn.k_proj.weight": (kv, d),
            "self_attn.v_proj.weight": (kv, d),
            "self_attn.o_proj.weight": (d, q),
        }
        if c.qkv_bias:
            shapes |= {"self_attn.q_proj.bias": (q,), "self_attn.k_proj.bias": (kv,), "self_attn.v_proj.bias": (kv,)}
        if c.output_bias:
            shapes["self_attn.o_proj.bias"] = (d,)
        return shapes

    def feed_forward_shapes(self, i: int) -> dict[str, tuple[int, ...]]:
        return self.mlp_shapes(self.dense, self.config.intermediate_size)

    def mlp_shapes(self, place: str, width: int) -> dict[str, tuple[int, ...]]:
        """Those of a gated feed-forward of `width` inner channels."""
        d = self.config.hidden_size
        matrices = {"gate_proj": (width, d), "up_proj": (width, d), "down_proj": (d, width)}
        shapes: dict[str, tuple[int, ...]] = {f"{place}.{name}.weight": shape for name, shape in matrices.items()}
        if self.config.mlp_bias:
            shapes |= {f"{place}.{name}.bias": shape[:1] for name, shape in matrices.items()}
        return shapes

    def caches(self) -> list[ops.CacheSpec]:
        """What each layer keeps of the past."""
        width = self.config.num_kv_heads * self.config.head_dim
        return [ops.CacheSpec({"keys": width, "values": width})] * self.config.num_layers

    # The forward. `layer` holds the parameters of layer i.

    def forward(self, parameters, batch):
        """Hidden states (T, D) of the step's tokens, before the final norm."""
        x = ops.embedding(batch.tokens, parameters["model.embed_tokens.weight"])
        for i in range(self.config.num_layers):
            x = self.block(x, parameters.scope(f"model.layers.{i}."), batch, i)
        return x

    def block(self, x, layer, batch, i):
        h = self.norm(x, layer, "input_layernorm")
        x = ops.add(x, self.attention(h, layer, batch, i))
        h = self.norm(x, layer, "post_attention_layernorm")
        return ops.add(x, self.feed_forward(h, layer, i))

    def norm(self, x, layer, name, num_heads=1):
        return ops.rms_norm(x, layer[f"{name}.weight"], self.config.norm_eps, num_heads, self.config.norm_offset)

    def linear(self, x, layer, name):
        return ops.linear(x, layer[f"{name}.weight"], layer.get(f"{name}.bias"))

    def attention(self, x, layer, batch, i):
        return self.linear(self.mix(x, layer, batch, i), layer, "self_attn.o_proj")

    def mix(self, x, layer, batch, i):
        """What the queries gather: (T, N * H)."""
        c = self.config
        q, k, v = self.projections(x, layer, i)
        q = ops.rope(q, batch.positions, c.rope, c.num_heads)
        k = ops.rope(k, batch.positions, c.rope, c.num_kv_heads)
        heads = {"num_heads": c.num_heads, "num_kv_heads": c.num_kv_heads}
        more = {"scale": c.head_dim**-0.5, "window": c.window(i), "sinks_N": self.sinks(layer)}
        return ops.attention(q, k, v, batch.caches[i], **heads, **more)

    def projections(self, x, layer, i):
        """Queries, keys and values before rope."""
        q = self.linear(x, layer, "self_attn.q_proj")
        k = self.linear(x, layer, "self_attn.k_proj")
        return q, k, self.linear(x, layer, "self_attn.v_proj")

    def sinks(self, layer):
        return None

    def feed_forward(self, x, layer, i):
        return self.mlp(x, layer, self.dense)

    def mlp(self, x, layer, place):
        gate = self.linear(x, layer, f"{place}.gate_proj")
        up = self.linear(x, layer, f"{place}.up_proj")
        return self.linear(ops.swiglu(gate, up), layer, f"{place}.down_proj")

    def logits(self, parameters, hidden):
        """Logits (rows, V) of some rows of hidden states."""
        head = "model.embed_tokens.weight" if self.config.tied_embeddings else "lm_head.weight"
        return ops.linear(self.final(parameters, hidden), parameters[head], parameters.get("lm_head.bias"))

    def final(self, parameters, hidden):
        """Some rows of hidden states after the final norm: what the output matrix reads, and embeddings are made of."""
        return self.norm(hidden, parameters, "model.norm")
