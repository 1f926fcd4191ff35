"""Which class runs which architecture."""

from typing import Any

from freehold.errors import ModelFileError, UnsupportedError
from freehold.models.deepseek import DeepSeek, DeepSeekV2
from freehold.models.deepseek_sparse import DeepSeekSparse, GlmSparse
from freehold.models.ernie import Ernie
from freehold.models.ernie_moe import ErnieMoe
from freehold.models.glm import Glm, Glm4
from freehold.models.glm_moe import GlmMoe
from freehold.models.gpt_oss import GptOss
from freehold.models.kimi_linear import KimiLinear
from freehold.models.llama import Llama
from freehold.models.llama4 import Llama4
from freehold.models.minimax import MiniMax
from freehold.models.minimax_m2 import MiniMaxM2
from freehold.models.mistral import Mistral
from freehold.models.olmo2 import Olmo2
from freehold.models.parameters import check_parameters, named_parameters
from freehold.models.qwen2 import Qwen2
from freehold.models.qwen3 import Qwen3
from freehold.models.qwen_moe import Qwen2Moe, Qwen3Moe
from freehold.models.qwen_next import GatedDelta, GatedDeltaExperts, QwenNext

# By the model_type of a config.json.
MODELS: dict[str, type[Llama]] = {
    "deepseek_v2": DeepSeekV2,
    "deepseek_v3": DeepSeek,
    "deepseek_v32": DeepSeekSparse,
    "ernie4_5": Ernie,
    "ernie4_5_moe": ErnieMoe,
    "glm": Glm,
    "glm4": Glm4,
    "glm4_moe": GlmMoe,
    "glm4_moe_lite": DeepSeek,
    "glm_moe_dsa": GlmSparse,
    "gpt_oss": GptOss,
    "kimi_k2": DeepSeek,
    "kimi_linear": KimiLinear,
    "llama": Llama,
    "llama4_text": Llama4,
    "minimax": MiniMax,
    "minimax_m1": MiniMax,
    "minimax_m2": MiniMaxM2,
    "minimax_text_01": MiniMax,
    "mistral": Mistral,
    "olmo2": Olmo2,
    "qwen2": Qwen2,
    "qwen2_moe": Qwen2Moe,
    "qwen3": Qwen3,
    "qwen3_5_moe_text": GatedDeltaExperts,
    "qwen3_5_text": GatedDelta,
    "qwen3_moe": Qwen3Moe,
    "qwen3_next": QwenNext,
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


def model_class(architecture: Any) -> type[Llama]:
    """The class of a model_type or of a GGUF architecture. Raises UnsupportedError when there is none."""
    name = GGUF_ARCHITECTURES.get(architecture, architecture)
    if name not in MODELS:
        raise UnsupportedError(f"architecture {architecture!r}: not supported yet", f"supported: {', '.join(MODELS)}")
    return MODELS[name]


def model_for(checkpoint: Any) -> Llama:
    """The model that a GGUF checkpoint describes.

    Raises UnsupportedError for an architecture that is not here, ModelFileError when tensors are missing or misshapen.
    """
    metadata, tensors = checkpoint.metadata, checkpoint.tensors
    if "general.architecture" not in metadata:
        raise ModelFileError("general.architecture: missing from the file's metadata")
    cls = model_class(metadata["general.architecture"])
    if "token_embd.weight" not in tensors:
        raise ModelFileError("token_embd.weight: missing from the file's tensors")
    model = cls.from_gguf(metadata, tensors)
    check_parameters(model, named_parameters(model, tensors))
    return model
