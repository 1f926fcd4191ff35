"""A lab's checkpoint as llama.cpp's converter would write it: names, values and metadata of a GGUF file.

The reverse of what `models.parameters` and `models.settings` read. Reference: llama.cpp `conversion/`, gguf-py
`constants.py`.
"""

from collections.abc import Mapping
from typing import Any

from freehold.errors import UnsupportedError
from freehold.models.parameters import named_parameters, published_tensors
from freehold.models.registry import GGUF_ARCHITECTURES
from freehold.models.rope import rope_frequencies, rope_parameters
from freehold.models.settings import GGUF_KEYS, Settings

# model_type -> general.architecture, where neither is the other's only name.
_NAMES: dict[str, str] = {ours: name for name, ours in GGUF_ARCHITECTURES.items()} | {
    "deepseek_v3": "deepseek2",
    "glm4_moe_lite": "deepseek2",
    "kimi_k2": "deepseek2",
    "minimax_m1": "minimax-01",
    "minimax_text_01": "minimax-01",
    "mistral": "llama",
}
# What llama.cpp calls as transformers does.
_SAME = {"ernie4_5", "glm4", "llama", "olmo2", "phi3", "qwen2", "qwen3"}
_GATING = {"softmax": 1, "sigmoid": 2}
# Formats of vectors and of what is read as numbers: llama.cpp wants them in float32.
_NUMBERS = ("norm", "bias", "ssm_a", "ssm_dt", "conv1d", "ffn_gate_inp", "attn_sinks")

# What llama.cpp broadcasts along the heads in delta attention with a decay for each channel.
_COLUMNS = ("ssm_a", "ssm_conv1d_q.weight", "ssm_conv1d_k.weight", "ssm_conv1d_v.weight")


def gguf_architecture(model: Any) -> str:
    """Raises UnsupportedError where llama.cpp has none for the model."""
    name: str = model.config.architecture
    if name not in _NAMES and name not in _SAME:
        raise UnsupportedError(f"{name}: GGUF has no architecture for it that is known here", "name a folder instead")
    return _NAMES.get(name, name)


def gguf_tensors(model: Any, tensors: Mapping[str, Any], settings: Settings) -> dict[str, Any]:
    """The model's tensors by their GGUF names. Raises UnsupportedError where one has none."""
    parts, published = named_parameters(model, tensors), published_tensors(model, tensors)
    names = {
        ours.format(i=i): name.format(i=i)
        for name, ours in model.gguf_names.items()
        for i in range(model.config.num_layers)
    }
    wanted = {name: parts[name] for name in model.parameter_shapes()}
    wholes = {name: parts for name, parts in _wholes(model).items() if name in published and name in names}
    covered = {part for parts in wholes.values() for part in parts}
    chosen = {name: tensor for name, tensor in wanted.items() if name in names and name not in covered}
    chosen |= {name: published[name] for name in wholes}
    if missing := wanted.keys() - chosen.keys() - covered:
        raise UnsupportedError(f"{min(missing)}: GGUF has no name for it in {gguf_architecture(model)}")
    made = {names[name]: _stored(model, name, names[name], tensor) for name, tensor in chosen.items()}
    if divisors := _rope_divisors(settings, model.config.rope):
        made["rope_freqs.weight"] = next(iter(made.values())).derived(
            (len(divisors),), lambda: _float32(divisors), "F32"
        )
    return made


def _wholes(model: Any) -> dict[str, set[str]]:
    """Published tensors that hold the rows of several parameters -> those."""
    return {
        f"model.layers.{i}.{whole}": {f"model.layers.{i}.{name}" for name in split.names}
        for whole, split in model.splits.items()
        for i in range(model.config.num_layers)
        if not split.stacked  # latent attention's, which newer files hold apart
    }


def _stored(model: Any, name: str, gguf_name: str, tensor: Any) -> Any:
    """The tensor with the values that a GGUF file has."""
    place = name.split(".", 3)[-1]
    if model.permuted_in_gguf and not model.interleaved_rope and any(f".attn_{part}." in gguf_name for part in "qk"):
        tensor = _permuted(tensor, model.config.head_dim)
    if getattr(model, "tiled_in_gguf", False) and place.startswith("linear_attn."):
        tensor = _tiled(tensor, place.removeprefix("linear_attn."), model.config)
    if place in model.gguf_values:
        tensor = tensor.map(model.gguf_stored[place])
    elif getattr(model.config, "norm_offset", 0) and "norm" in gguf_name and "ssm_norm" not in gguf_name:
        tensor = tensor.map(lambda values: values + model.config.norm_offset)
    if len(tensor.shape) > 1 and 1 in tensor.shape:
        tensor = tensor.reshape(tuple(length for length in tensor.shape if length != 1))
    if hasattr(model.config, "linear_dim") and gguf_name.endswith(_COLUMNS):
        rows, *columns = tensor.shape
        tensor = tensor.reshape((rows, 1, *columns))
    if len(tensor.shape) == 1 or any(part in gguf_name for part in _NUMBERS):
        tensor = tensor.map(lambda values: values)
    return tensor


def _permuted(tensor: Any, head_dim: int) -> Any:
    """Rows i and i + half of each head side by side, as rope on pairs wants them; rows keep their blocks."""

    def make() -> Any:
        import numpy

        data = numpy.frombuffer(tensor.data, numpy.uint8)
        rows = data.reshape(-1, 2, head_dim // 2, len(data) // tensor.shape[0])
        return rows.swapaxes(1, 2)

    return tensor.derived(tensor.shape, make)


def _tiled(tensor: Any, place: str, config: Any) -> Any:
    """Value heads not beside those of their key head, but one of each key head in turn."""
    heads = (config.key_heads, config.value_heads // config.key_heads)

    def rows() -> Any:
        import numpy

        data = numpy.frombuffer(tensor.data, numpy.uint8).reshape(tensor.shape[0], -1)
        first = 2 * config.key_heads * config.key_dim if place in ("in_proj_qkv.weight", "conv1d.weight") else 0
        values = data[first:].reshape(*heads, -1).swapaxes(0, 1)
        return numpy.concatenate([data[:first].reshape(-1), values.reshape(-1)])

    def columns(values: Any) -> Any:
        return values.reshape(len(values), *heads, -1).swapaxes(1, 2).reshape(values.shape)

    if place == "norm.weight":  # one for all heads
        return tensor
    return tensor.map(columns) if place == "out_proj.weight" else tensor.derived(tensor.shape, rows)


def _rope_divisors(settings: Settings, rope: Any) -> list[float]:
    """What Llama 3.1's scaling divides each frequency by."""
    parameters = rope_parameters(settings)
    if parameters["rope_type"] != "llama3":
        return []
    plain = rope_frequencies(rope.rotary_dim, parameters["rope_theta"])
    return [before / after for before, after in zip(plain, rope.inverse_frequencies, strict=True)]


def _float32(values: list[float]) -> Any:
    import numpy

    return numpy.array(values, numpy.float32)


def gguf_metadata(model: Any, settings: Settings) -> dict[str, Any]:
    """What llama.cpp reads of a model, under its architecture's prefix. Raises UnsupportedError for a rope that GGUF
    cannot describe."""
    architecture, config = gguf_architecture(model), model.config
    values: dict[str, Any] = {key: settings.get(name) for key, name in GGUF_KEYS.items()}
    values |= {
        "vocab_size": config.vocabulary_size,
        "block_count": config.num_layers,
        "feed_forward_length": config.intermediate_size,
        "nextn_predict_layers": None,  # layers for speculation are not written
        "attention.head_count": config.num_heads,
        "attention.head_count_kv": config.num_kv_heads,
        "attention.key_length": config.head_dim,
        "attention.value_length": config.head_dim,
        "attention.layer_norm_rms_epsilon": config.norm_eps,
        "rope.dimension_count": 2 * len(config.rope.inverse_frequencies),
        "attention.sliding_window": next((window for window in config.windows if window), None),
    }
    values |= _rope(settings) | _experts(config) | _latent(config) | _linear(config)
    general = {"general.architecture": architecture, "general.quantization_version": 2}
    return general | {f"{architecture}.{key}": value for key, value in values.items() if value is not None}


def _rope(settings: Settings) -> dict[str, Any]:
    rope = rope_parameters(settings)
    values: dict[str, Any] = {"rope.freq_base": float(rope["rope_theta"])}
    kind = rope["rope_type"]
    if rope.get("mrope_section"):  # text alone has one position for all of them
        values["rope.dimension_sections"] = [*rope["mrope_section"], 0]
    if kind in ("linear", "yarn"):
        values |= {"rope.scaling.type": kind, "rope.scaling.factor": float(rope["factor"])}
    elif kind not in ("default", "llama3"):
        raise UnsupportedError(f"rope of type {kind!r}: not written to GGUF")
    if kind == "yarn":
        values["rope.scaling.original_context_length"] = rope.get("original_max_position_embeddings")
        values["rope.scaling.yarn_beta_fast"] = rope.get("beta_fast")
        values["rope.scaling.yarn_beta_slow"] = rope.get("beta_slow")
        if rope.get("mscale_all_dim"):
            values["rope.scaling.yarn_log_multiplier"] = 0.1 * rope["mscale_all_dim"]
    return values


def _experts(config: Any) -> dict[str, Any]:
    router = getattr(config, "router", None)
    if router is None:
        return {}
    layers, groups = sorted(config.sparse_layers), router.num_groups if router.num_groups > 1 else None
    values: dict[str, Any] = {
        "leading_dense_block_count": layers[0],
        "interleave_moe_layer_step": layers[1] - layers[0] if len(layers) > 1 else 1,
        "expert_group_count": groups,
        "expert_group_used_count": groups and router.top_groups,
        "expert_count": config.num_experts,
        "expert_used_count": router.top_k,
        "expert_feed_forward_length": config.expert_size,
        "expert_gating_func": _GATING[router.scoring],
        "expert_weights_norm": router.normalize,
        "expert_weights_scale": float(router.scale),
    }
    if config.shared_size:
        values["expert_shared_feed_forward_length"] = config.shared_size
        values["expert_shared_count"] = config.shared_size // config.expert_size or None
    return values


def _latent(config: Any) -> dict[str, Any]:
    """Latent attention as llama.cpp has it: one key and value head of latents, and the heads' own widths beside."""
    if not hasattr(config, "latent_size"):
        return {}
    return {
        "attention.q_lora_rank": config.query_rank or None,
        "attention.kv_lora_rank": config.latent_size,
        "attention.key_length": config.head_dim,
        "attention.value_length": config.latent_size,
        "attention.key_length_mla": config.query_dim,
        "attention.value_length_mla": config.value_dim,
        "attention.indexer.types": _indexers(config),
    }


def _indexers(config: Any) -> list[bool] | None:
    """For each layer whether it has an indexer, or takes over the choice of the layer before."""
    layers = getattr(config, "index_layers", None)
    return None if layers is None else [i in layers for i in range(config.num_layers)]


def _linear(config: Any) -> dict[str, Any]:
    """Layers that keep a state, in the ways of the families that have them."""
    if not hasattr(config, "linear_layers"):
        return {}
    others = sorted(set(range(config.num_layers)) - config.linear_layers)
    values: dict[str, Any] = {"full_attention_interval": others[0] + 1 if others else config.num_layers + 1}
    if hasattr(config, "key_heads"):
        values |= {
            "ssm.conv_kernel": config.convolution,
            "ssm.state_size": config.key_dim,
            "ssm.group_count": config.key_heads,
            "ssm.time_step_rank": config.value_heads,
            "ssm.inner_size": config.value_heads * config.value_dim,
        }
    elif hasattr(config, "linear_dim"):
        heads = [0 if i in config.linear_layers else 1 for i in range(config.num_layers)]
        values |= {
            "ssm.conv_kernel": config.convolution,
            "kda.head_dim": config.linear_dim,
            "attention.head_count_kv": heads,
            "full_attention_interval": None,
        }
    else:
        values["residual_scale"] = config.weights["experts"][0]
    return values
