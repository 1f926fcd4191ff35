"""A model's own description of itself, under the names of a lab's config.json whichever file it comes from."""

import math
from collections.abc import Mapping
from typing import Any

from freehold.errors import ModelFileError, UnsupportedError

# Other spellings of one thing in config.json files.
ALIASES = {
    "num_experts": ("n_routed_experts", "num_local_experts", "moe_num_experts"),
    "num_experts_per_tok": ("moe_k", "moe_topk", "num_experts_per_token"),
    "norm_topk_prob": ("moe_renormalize",),
    "first_k_dense_replace": ("moe_layer_start_index",),
    "interleave_moe_layer_step": ("moe_layer_interval",),
    "n_group": ("num_expert_group",),
    "max_position_embeddings": ("model_max_length",),
    "num_shared_experts": ("n_shared_experts", "moe_num_shared_experts"),
    "rms_norm_eps": ("norm_eps",),
}
# Name in a GGUF file, under its architecture's prefix -> name in config.json.
GGUF_KEYS = {
    "block_count": "num_hidden_layers",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "context_length": "max_position_embeddings",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "attention.sliding_window": "sliding_window",
    "attention.sliding_window_pattern": "sliding_window_pattern",
    "rope.dimension_count": "rotary_dim",
    "expert_count": "num_experts",
    "expert_used_count": "num_experts_per_tok",
    "expert_feed_forward_length": "moe_intermediate_size",
    "expert_shared_feed_forward_length": "shared_expert_intermediate_size",
    "expert_shared_count": "num_shared_experts",
    "expert_group_count": "n_group",
    "expert_group_used_count": "topk_group",
    "expert_weights_scale": "routed_scaling_factor",
    "expert_weights_norm": "norm_topk_prob",
    "leading_dense_block_count": "first_k_dense_replace",
    "interleave_moe_layer_step": "interleave_moe_layer_step",
    "nextn_predict_layers": "num_nextn_predict_layers",
    "attention.q_lora_rank": "q_lora_rank",
    "attention.kv_lora_rank": "kv_lora_rank",
    "attention.key_length_mla": "qk_head_dim",
    "attention.value_length_mla": "v_head_dim",
    "attention.indexer.head_count": "index_n_heads",
    "attention.indexer.key_length": "index_head_dim",
    "attention.indexer.top_k": "index_topk",
    "attention.indexer.types": "indexer_types",
    "ssm.conv_kernel": "linear_conv_kernel_dim",
    "ssm.state_size": "linear_key_head_dim",
    "ssm.group_count": "linear_num_key_heads",
    "ssm.time_step_rank": "linear_num_value_heads",
    "ssm.inner_size": "linear_value_size",
    "full_attention_interval": "full_attention_interval",
    "residual_scale": "residual_scale",
    "kda.head_dim": "linear_head_dim",
}


class Settings:
    """Values by their names in config.json; errors name them as the file at hand does.

    `spelled`: a GGUF file's own names for them; None: the file is a config.json.
    """

    def __init__(self, values: Mapping[str, Any], spelled: Mapping[str, str] | None = None):
        self._values, self._spelled = values, spelled or {}
        self.is_gguf = spelled is not None

    @property
    def values(self) -> Mapping[str, Any]:
        return self._values

    def _name(self, key: str) -> str:
        return self._spelled.get(key, key)

    def get(self, key: str, default: Any = None) -> Any:
        """The value, or `default` where the file has none or null."""
        for name in (key, *ALIASES.get(key, ())):
            if self._values.get(name) is not None:
                return self._values[name]
        return default

    def require(self, key: str) -> Any:
        value = self.get(key)
        if value is None:
            file = "the file's metadata" if self.is_gguf else "config.json"
            file = "the file's metadata" if self.is_gguf else "config.json"
            raise ModelFileError(f"{self._name(key)}: missing from {file}")
        return value

    def size(self, key: str, default: int | None = None) -> int:
        """A positive integer; without a default it must be there."""
        value = self.get(key, default)
        value = self.require(key) if value is None else value
        if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 1 << 31:
            raise ModelFileError(f"{self._name(key)}: expected a positive integer, got {value!r}")
        return value

    def count(self, key: str, default: int = 0) -> int:
        """An integer that may be zero."""
        return 0 if self.get(key, default) == 0 else self.size(key, default)

    def number(self, key: str, default: float | None = None) -> float:
        value = self.get(key, default)
        value = self.require(key) if value is None else value
        if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
            raise ModelFileError(f"{self._name(key)}: expected a number, got {value!r}")
        return float(value)

    def flag(self, key: str, default: bool = False) -> bool:
        value = self.get(key, default)
        if not isinstance(value, bool):
            raise ModelFileError(f"{self._name(key)}: expected true or false, got {value!r}")
        return value

    def layers(self, key: str, num_layers: int) -> list[Any] | None:
        """A list with an entry for each layer, or None where the file has none."""
        values = self.get(key)
        if values is None:
            return None
        if not isinstance(values, list | tuple) or len(values) < num_layers:
            raise ModelFileError(
                f"{self._name(key)}: expected {num_layers} entries, one for each layer, got {values!r}"
            )
        return list(values[:num_layers])

    def only(self, key: str, expected: Any, default: Any = None) -> None:
        """Refuse another value than the one that this code is for."""
        value = self.get(key, expected if default is None else default)
        if value != expected:
            raise UnsupportedError(f"{self._name(key)}: expected {expected!r}, got {value!r}")


def gguf_settings(metadata: Mapping[str, Any], tensors: Mapping[str, Any]) -> Settings:
    """What a GGUF file declares under its architecture's prefix, and what its tensors show."""
    architecture = metadata["general.architecture"]
    values: dict[str, Any] = {"model_type": architecture}
    spelled = {name: f"{architecture}.{key}" for key, name in GGUF_KEYS.items()}
    for key, name in GGUF_KEYS.items():
        if f"{architecture}.{key}" in metadata:
            values[name] = metadata[f"{architecture}.{key}"]
    layers, speculative = values.get("num_hidden_layers"), values.get("num_nextn_predict_layers")
    if isinstance(layers, int) and isinstance(speculative, int):  # the file counts layers for speculation too
        values["num_hidden_layers"] = layers - speculative
    values |= {
        "vocab_size": tensors["token_embd.weight"].shape[0],
        "tie_word_embeddings": "output.weight" not in tensors,
        "attention_bias": "blk.0.attn_q.bias" in tensors,
        "has_qk_norm_weights": "blk.0.attn_q_norm.weight" in tensors,
        "rope_parameters": _gguf_rope(lambda key: metadata.get(f"{architecture}.rope.{key}"), tensors),
    }
    return Settings(values, spelled)


def _gguf_rope(get: Any, tensors: Mapping[str, Any]) -> dict[str, Any]:
    kind = get("scaling.type") or "none"
    if kind not in ("none", "linear", "yarn"):
        raise UnsupportedError(f"rope scaling {kind!r}: not supported yet")
    rope = {
        "rope_type": "default" if kind == "none" else kind,
        "rope_theta": get("freq_base"),
        "factor": get("scaling.factor"),
        "original_max_position_embeddings": get("scaling.original_context_length"),
        "beta_fast": get("scaling.yarn_beta_fast"),
        "beta_slow": get("scaling.yarn_beta_slow"),
    }
    if get("scaling.yarn_log_multiplier"):  # DeepSeek: 0.1 * mscale_all_dim, which equals mscale
        rope["mscale"] = rope["mscale_all_dim"] = 10 * get("scaling.yarn_log_multiplier")
    if "rope_freqs.weight" in tensors:  # Llama 3.1's scaling, one divisor for each frequency
        rope["divisors"] = [float(d) for d in tensors["rope_freqs.weight"].dequantize()]
    return {name: value for name, value in rope.items() if value is not None}
