"""A GGUF file's model as transformers would publish it: names and values of tensors, and config.json.

The reverse of `models.gguf_export`, for the architectures whose tensors need no joining.
"""

from collections.abc import Mapping
from typing import Any

from freehold.errors import UnsupportedError
from freehold.models.registry import GGUF_ARCHITECTURES
from freehold.models.rope import llama3_frequencies, rope_frequencies
from freehold.models.settings import gguf_settings

# model_type -> the class that config.json names.
CLASSES = {
    "ernie4_5": "Ernie4_5ForCausalLM",
    "glm4": "Glm4ForCausalLM",
    "llama": "LlamaForCausalLM",
    "olmo2": "Olmo2ForCausalLM",
    "phi3": "Phi3ForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen2_moe": "Qwen2MoeForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "qwen3_moe": "Qwen3MoeForCausalLM",
}
_TOKENS = {"bos": "bos", "eos": "eos", "pad": "padding"}
_OURS = ("has_qk_norm_weights", "rotary_dim", "num_nextn_predict_layers")  # settings that no config.json has
_ROPE_DIVISORS = "rope_freqs.weight"


def published_tensors(model: Any, tensors: Mapping[str, Any]) -> dict[str, Any]:
    """A GGUF file's tensors by the names that labs publish, experts one by one. Raises UnsupportedError."""
    names = {
        name.format(i=i): ours.format(i=i)
        for name, ours in model.gguf_names.items()
        for i in range(model.config.num_layers)
    }
    made: dict[str, Any] = {}
    shapes = model.parameter_shapes()
    for name, tensor in tensors.items():
        if name == _ROPE_DIVISORS:
            continue
        if name not in names:
            raise UnsupportedError(f"{name}: not a tensor that {model.config.architecture} is published with")
        if model.permuted_in_gguf and not model.interleaved_rope and any(f".attn_{part}." in name for part in "qk"):
            tensor = _unpermuted(tensor, model.config.head_dim)
        place, expert, matrix = names[name].partition(".experts.")
        if expert:
            made |= {f"{place}.experts.{i}.{matrix}": part for i, part in enumerate(tensor.parts)}
        else:
            shape = shapes.get(names[name], tensor.shape)  # a matrix of one row is a vector in some files
            made[names[name]] = tensor if shape == tensor.shape or len(shape) != 2 else tensor.reshape(shape)
    return made


def _unpermuted(tensor: Any, head_dim: int) -> Any:
    """Rows of pairs apart again: the first of each pair, then the second."""

    def make() -> Any:
        import numpy

        data = numpy.frombuffer(tensor.data, numpy.uint8)
        return data.reshape(-1, head_dim // 2, 2, len(data) // tensor.shape[0]).swapaxes(1, 2)

    return tensor.derived(tensor.shape, make)


def published_config(model: Any, metadata: Mapping[str, Any], tensors: Mapping[str, Any]) -> dict[str, Any]:
    """The config.json of a GGUF file. Raises UnsupportedError for an architecture or a rope that is not written."""
    architecture, config = metadata["general.architecture"], model.config
    model_type = GGUF_ARCHITECTURES.get(architecture, architecture)
    if model_type not in CLASSES:
        hint = f"those are {', '.join(CLASSES)}; OUT.gguf is written of every one"
        raise UnsupportedError(f"{architecture}: a folder is not written of a GGUF file of this architecture", hint)
    values = {name: _round(value) for name, value in gguf_settings(metadata, tensors).values.items()}
    rope = {name: _round(value) for name, value in values["rope_parameters"].items()}
    if "divisors" in rope:
        rope = _llama3(rope, config)
    if config.rope.rotary_dim != config.head_dim:
        rope["partial_rotary_factor"] = config.rope.rotary_dim / config.head_dim
    values |= {
        "architectures": [CLASSES[model_type]],
        "model_type": model_type,
        "head_dim": config.head_dim,
        "num_key_value_heads": config.num_kv_heads,
        "hidden_act": "silu",
        "use_bias": config.mlp_bias,
        "rope_parameters": rope,
    }
    # Those of no token too: transformers would put some family's own in their place.
    values |= {f"{key}_token_id": metadata.get(f"tokenizer.ggml.{name}_token_id") for key, name in _TOKENS.items()}
    if hasattr(config, "router"):
        values["norm_topk_prob"] = config.router.normalize
    return {name: value for name, value in values.items() if name not in _OURS}


def _round(value: Any) -> Any:
    """A GGUF file's float32 as it was written in decimals."""
    return float(f"{value:.7g}") if isinstance(value, float) else value


def _llama3(rope: Mapping[str, Any], config: Any) -> dict[str, Any]:
    """The scaling whose divisors a file holds, with the bounds that all of Meta's models have."""
    scaling = {"factor": _round(max(rope["divisors"])), "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    scaling |= {"original_max_position_embeddings": 8192, "rope_theta": rope["rope_theta"], "rope_type": "llama3"}
    plain = rope_frequencies(config.rope.rotary_dim, rope["rope_theta"])
    pairs = zip(llama3_frequencies(plain, scaling), config.rope.inverse_frequencies, strict=True)
    if any(abs(made - wanted) > 1e-5 * wanted for made, wanted in pairs):
        raise UnsupportedError(f"{_ROPE_DIVISORS}: other divisors than those of Llama 3's scaling")
    return scaling
