"""DeepSeek-V3.2 and GLM-5: DeepSeek-V3 whose queries see the keys that a small indexer ranks first.

Papers: DeepSeek-AI 2025 (DeepSeek-V3.2), GLM-5 team 2026. Checkpoints: DeepSeek-V3.2-Exp, V3.2, Math-V2; GLM-5 to 5.3.
The indexer's rope pairs channel i with i + half in DeepSeek's, 2i with 2i + 1 in GLM's, where also some layers take
over the choice of the layer before them. The layer for multi-token prediction (see `mtp.py`) has an indexer of its own.
Reference: transformers `models/deepseek_v32` and `models/glm_moe_dsa`.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any, Self

from freehold import ops
from freehold.models.deepseek import DeepSeek, LatentConfig, dense_first, latent_values
from freehold.models.experts import bias_corrected_router, experts_values
from freehold.models.settings import Settings

INDEX_NORM_EPS = 1e-6
INDEX_GGUF_NAMES = {
    f"blk.{{i}}.indexer.{gguf}": f"model.layers.{{i}}.self_attn.indexer.{ours}"
    for gguf, ours in {
        "attn_q_b.weight": "wq_b.weight",
        "attn_k.weight": "wk.weight",
        "k_norm.weight": "k_norm.weight",
        "k_norm.bias": "k_norm.bias",
        "proj.weight": "weights_proj.weight",
    }.items()
}


@dataclass(frozen=True, kw_only=True)
class SparseConfig(LatentConfig):
    index_heads: int
    index_dim: int
    index_top_k: int
    index_rope: ops.Rope
    index_layers: frozenset[int]  # those with an indexer; the others take over the choice of the layer before


class DeepSeekSparse(DeepSeek):
    gguf_names = DeepSeek.gguf_names | INDEX_GGUF_NAMES
    index_rope_interleaved = False

    @classmethod
    def from_settings(cls, settings: Settings, interleaved_rope: bool) -> Self:
        values = latent_values(settings, interleaved_rope)
        experts = experts_values(settings, bias_corrected_router(settings), dense_first(settings, 3))
        index = {
            "index_heads": settings.size("index_n_heads"),
            "index_dim": settings.size("index_head_dim"),
            "index_top_k": settings.size("index_topk"),
            "index_rope": dataclasses.replace(values["rope"], interleaved=cls.index_rope_interleaved),
            "index_layers": frozenset(cls.layers_with_indexer(settings)),
        }
        return cls(SparseConfig(**values, **experts, **index))

    @classmethod
    def layers_with_indexer(cls, settings: Settings) -> Any:
        return range(settings.size("num_hidden_layers"))

    def further_config(self) -> Any:
        config = super().further_config()
        return dataclasses.replace(config, index_layers=config.index_layers | {self.config.num_layers})

    def attention_shapes(self, i: int) -> dict[str, tuple[int, ...]]:
        c = self.config
        shapes = super().attention_shapes(i)
        if i in c.index_layers:
            shapes |= {
                "self_attn.indexer.wq_b.weight": (c.index_heads * c.index_dim, c.query_rank),
                "self_attn.indexer.wk.weight": (c.index_dim, c.hidden_size),
                "self_attn.indexer.k_norm.weight": (c.index_dim,),
                "self_attn.indexer.k_norm.bias": (c.index_dim,),
                "self_attn.indexer.weights_proj.weight": (c.index_heads, c.hidden_size),
            }
        return shapes

    def caches(self) -> list[ops.CacheSpec]:
        index = {"index_keys": self.config.index_dim}
        return [
            ops.CacheSpec({**spec.tokens, **(index if i in self.config.index_layers else {})})
            for i, spec in enumerate(super().caches())
        ]

    def forward(self, parameters, batch):
        x, selected = ops.embedding(batch.tokens, parameters["model.embed_tokens.weight"]), None
        for i in range(self.config.num_layers):
            x, selected = self.sparse_block(x, parameters.scope(f"model.layers.{i}."), batch, i, selected)
        return x

    def block(self, x, layer, batch, i):
        """That of a layer with an indexer."""
        return self.sparse_block(x, layer, batch, i, None)[0]

    def sparse_block(self, x, layer, batch, i, selected):
        """What the block gives, and the positions that its queries saw: `selected` where it has no indexer."""
        h = self.norm(x, layer, "input_layernorm")
        residual = self.query_residual(h, layer)
        if i in self.config.index_layers:
            selected = self.select(h, residual, layer, batch, i)
        x = ops.add(x, self.attend(h, residual, layer, batch, i, selected))
        h = self.norm(x, layer, "post_attention_layernorm")
        return ops.add(x, self.feed_forward(h, layer, i)), selected

    def select(self, x, residual, layer, batch, i):
        """The positions whose keys this layer's queries see."""
        c = self.config
        q = self.linear(residual, layer, "self_attn.indexer.wq_b")
        k = ops.layer_norm(
            self.linear(x, layer, "self_attn.indexer.wk"),
            layer["self_attn.indexer.k_norm.weight"],
            layer["self_attn.indexer.k_norm.bias"],
            INDEX_NORM_EPS,
        )
        q = ops.rope(q, batch.positions, c.index_rope, c.index_heads)
        k = ops.rope(k, batch.positions, c.index_rope, 1)
        weights = self.linear(x, layer, "self_attn.indexer.weights_proj")
        return ops.select_keys(q, k, weights, batch.caches[i], top_k=c.index_top_k)


class GlmSparse(DeepSeekSparse):
    index_rope_interleaved = True

    @classmethod
    def layers_with_indexer(cls, settings: Settings) -> Any:
        num_layers = settings.size("num_hidden_layers")
        kinds = settings.layers("indexer_types", num_layers) or settings.get("index_topk_pattern")
        if kinds is not None:
            return [i for i, kind in enumerate(kinds) if kind in ("full", "F", True)]
        # GGUF files without the list: llama.cpp knows GLM-5.2 and later by their context.
        shared = settings.is_gguf and settings.size("max_position_embeddings") >= 1 << 20
        every = settings.size("index_topk_freq", 4 if shared else 1)
        offset = settings.count("index_skip_topk_offset", 3 if shared else 2)
        return [i for i in range(num_layers) if max(i - offset + 1, 0) % every == 0]
