"""Llama 4, text: experts in every layer or every other; attention in chunks, but for layers without rope.

Paper: Meta AI 2025 (The Llama 4 herd). Checkpoints: Llama 4 Scout (17B-16E), Maverick (17B-128E), their text part.
Layers without rope see all keys, their queries scaled up with the position (Nakanishi 2025).
Reference: transformers `models/llama4/modeling_llama4.py`, `Llama4ForCausalLM`.
"""

from dataclasses import dataclass
from typing import Self

from freehold import ops
from freehold.models.config import decoder_values
from freehold.models.experts import EXPERTS_GGUF_NAMES, Experts, ExpertsConfig, experts_values
from freehold.models.llama import GGUF_NAMES
from freehold.models.parameters import Split
from freehold.models.settings import Settings


def in_llama4(name: str) -> str:
    """The name as Llama 4 has it: its feed-forwards are called so."""
    return (
        name.replace(".mlp.gate.", ".mlp.router.")
        .replace("shared_experts", "shared_expert")
        .replace(".mlp.", ".feed_forward.")
    )


LLAMA4_GGUF_NAMES = {name: in_llama4(ours) for name, ours in (GGUF_NAMES | EXPERTS_GGUF_NAMES).items()}
SPLITS = {
    "feed_forward.experts.gate_up_proj": Split(
        ("feed_forward.experts.gate_proj.weight", "feed_forward.experts.up_proj.weight"), transposed=True
    ),
    "feed_forward.experts.down_proj": Split(("feed_forward.experts.down_proj.weight",), transposed=True),
}


@dataclass(frozen=True, kw_only=True)
class Llama4Config(ExpertsConfig):
    rope_layers: frozenset[int]
    chunk: int | None
    qk_norm: bool
    temperature: tuple[float, float] | None  # (scale, tokens between two steps) of queries without rope


class Llama4(Experts):
    interleaved_rope = True
    permuted_in_gguf = False
    dense = "feed_forward"
    routing = "feed_forward.router"
    routed = "feed_forward.experts"
    shared = "feed_forward.shared_expert"
    splits = SPLITS
    gguf_names = LLAMA4_GGUF_NAMES

    @classmethod
    def from_settings(cls, settings: Settings, interleaved_rope: bool) -> Self:
        # The dense layers of a file have a width of their own; `intermediate_size` is that of the experts.
        dense = settings.size("intermediate_size" if settings.is_gguf else "intermediate_size_mlp")
        size = settings.size("moe_intermediate_size" if settings.is_gguf else "intermediate_size")
        values = decoder_values(settings, interleaved_rope=interleaved_rope)
        values |= {"intermediate_size": dense, "output_bias": values["qkv_bias"]}
        num_layers, every = values["num_layers"], settings.size("no_rope_layer_interval", 4)
        with_rope = settings.layers("no_rope_layers", num_layers) or [(i + 1) % every for i in range(num_layers)]
        step = settings.size("interleave_moe_layer_step", 1)
        router = ops.Router(
            settings.size("num_experts_per_tok", 1), scoring="sigmoid", normalize=False, scales_inputs=True
        )
        sparse = settings.get("moe_layers") or range(step - 1, num_layers, step)
        experts = experts_values(settings, router, sparse, expert_size=size)
        experts["shared_size"] = size
        scale = settings.number("attn_scale", 0.1), settings.number("floor_scale", 8192)
        return cls(
            Llama4Config(
                **values,
                **experts,
                rope_layers=frozenset(i for i in range(num_layers) if with_rope[i]),
                chunk=settings.get("attention_chunk_size", 8192 if settings.is_gguf else None),
                # Maverick, of 128 experts, has no such norm; GGUF files do not say so.
                qk_norm=settings.flag("use_qk_norm", not (settings.is_gguf and experts["num_experts"] == 128)),
                temperature=scale if settings.flag("attn_temperature_tuning", True) else None,
            )
        )

    def mix(self, x, layer, batch, i):
        c = self.config
        q, k, v = self.projections(x, layer, i)
        if i in c.rope_layers:
            q = ops.rope(q, batch.positions, c.rope, c.num_heads)
            k = ops.rope(k, batch.positions, c.rope, c.num_kv_heads)
            if c.qk_norm:
                q = ops.rms_norm(q, None, c.norm_eps, c.num_heads)
                k = ops.rms_norm(k, None, c.norm_eps, c.num_kv_heads)
        elif c.temperature:
            q = ops.scale_by_position(q, batch.positions, *c.temperature)
        heads = {"num_heads": c.num_heads, "num_kv_heads": c.num_kv_heads}
        chunk = c.chunk if i in c.rope_layers else None
        return ops.attention(q, k, v, batch.caches[i], **heads, scale=c.head_dim**-0.5, chunk=chunk)
