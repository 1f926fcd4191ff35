"""Which class runs which architecture."""

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from freehold.errors import ModelFileError, UnsupportedError
from freehold.models.parameters import check_parameters, named_parameters

if TYPE_CHECKING:
    from freehold.models.llama import Llama

# By the model_type of a config.json: the module and class, which are loaded when they are needed.
MODELS = {
    "deepseek_v2": "deepseek.DeepSeekV2",
    "deepseek_v3": "deepseek.DeepSeek",
    "deepseek_v32": "deepseek_sparse.DeepSeekSparse",
    "ernie4_5": "ernie.Ernie",
    "ernie4_5_moe": "ernie_moe.ErnieMoe",
    "exaone4": "exaone4.Exaone4",
    "glm": "glm.Glm",
    "glm4": "glm.Glm4",
    "glm4_moe": "glm_moe.GlmMoe",
    "glm4_moe_lite": "deepseek.DeepSeek",
    "glm_moe_dsa": "deepseek_sparse.GlmSparse",
    "gpt_oss": "gpt_oss.GptOss",
    "kimi_k2": "deepseek.DeepSeek",
    "kimi_linear": "kimi_linear.KimiLinear",
    "llama": "llama.Llama",
    "llama4_text": "llama4.Llama4",
    "minimax": "minimax.MiniMax",
    "minimax_m1": "minimax.MiniMax",
    "minimax_m2": "minimax_m2.MiniMaxM2",
    "minimax_text_01": "minimax.MiniMax",
    "mistral": "mistral.Mistral",
    "olmo2": "olmo2.Olmo2",
    "phi3": "phi3.Phi3",
    "qwen2": "qwen2.Qwen2",
    "qwen2_moe": "qwen_moe.Qwen2Moe",
    "qwen3": "qwen3.Qwen3",
    "qwen3_5_moe_text": "qwen_next.GatedDeltaExperts",
    "qwen3_5_text": "qwen_next.GatedDelta",
    "qwen3_moe": "qwen_moe.Qwen3Moe",
    "qwen3_next": "qwen_next.QwenNext",
}
# By the general.architecture of a GGUF file, where it is spelled otherwise.
GGUF_ARCHITECTURES = {
    "chatglm": "glm",
    "deepseek2": "deepseek_v2",
    "deepseek32": "deepseek_v32",
    "ernie4_5-moe": "ernie4_5_moe",
    "glm-dsa": "glm_moe_dsa",
    "glm4moe": "glm4_moe",
    "gpt-oss": "gpt_oss",
    "kimi-linear": "kimi_linear",
    "llama4": "llama4_text",
    "minimax-01": "minimax",
    "minimax-m2": "minimax_m2",
    "qwen2moe": "qwen2_moe",
    "qwen35": "qwen3_5_text",
    "qwen35moe": "qwen3_5_moe_text",
    "qwen3moe": "qwen3_moe",
    "qwen3next": "qwen3_next",
}


def model_class(architecture: Any) -> "type[Llama]":
    """The class of a model_type or of a GGUF architecture. Raises UnsupportedError when there is none."""
    name = GGUF_ARCHITECTURES.get(architecture, architecture) if isinstance(architecture, str) else ""
    if name not in MODELS:
        raise UnsupportedError(f"architecture {architecture!r}: not supported yet", f"supported: {', '.join(MODELS)}")
    module, cls = MODELS[name].split(".")
    return getattr(importlib.import_module(f"freehold.models.{module}"), cls)


def model_for(checkpoint: Any) -> "Llama":
    """The model that a checkpoint describes, a GGUF file or a lab's folder.

    Raises UnsupportedError for an architecture that is not here, ModelFileError when tensors are missing or misshapen.
    """
    metadata, tensors = checkpoint.metadata, checkpoint.tensors
    if checkpoint.config is not None:
        return model_from_config(checkpoint.config, tensors)
    if "general.architecture" not in metadata:
        raise ModelFileError("general.architecture: missing from the file's metadata")
    cls = model_class(metadata["general.architecture"])
    if "token_embd.weight" not in tensors:
        raise ModelFileError("token_embd.weight: missing from the file's tensors")
    model = cls.from_gguf(metadata, tensors)
    check_parameters(model, named_parameters(model, tensors))
    return model


def model_from_config(config: Mapping[str, Any], tensors: Mapping[str, Any]) -> "Llama":
    """The model that a lab's config.json and tensors describe; of one that wraps others, the language model.

    Raises as `model_for`.
    """
    values = language_values(config, tensors)
    try:
        cls = model_class(values["model_type"])
    except UnsupportedError as error:
        if "auto_map" in config:
            hint = "config.json names Python code of the repository (auto_map): such code is never run"
            raise UnsupportedError(error.message, hint) from None
        raise
    model = cls.from_config(values)
    check_parameters(model, named_parameters(model, tensors))
    return model


def language_values(config: Mapping[str, Any], tensors: Mapping[str, Any]) -> dict[str, Any]:
    """What a config.json says of its language model. Raises ModelFileError when it does not name one."""
    if not isinstance(config.get("model_type"), str):
        raise ModelFileError(f"model_type: expected a name in config.json, got {config.get('model_type')!r}")
    text = config.get("text_config")
    values = {**config, **text} if isinstance(text, Mapping) else dict(config)
    if values.get("tie_word_embeddings") is None:  # what it means when it is left out depends on who wrote the file
        values["tie_word_embeddings"] = not any(name.endswith("lm_head.weight") for name in tensors)
    return values


def unused_tensors(model: "Llama", tensors: Mapping[str, Any], next_token: Any = None) -> list[str]:
    """Names of tensors that neither the model nor its layer for speculation reads: other models that the checkpoint
    wraps, layers for speculation that are not run."""
    unused = named_parameters(model, tensors).keys() - model.parameter_shapes().keys()
    if next_token is not None:
        unused &= named_parameters(next_token, tensors).keys() - next_token.parameter_shapes().keys()
    return sorted(unused)
