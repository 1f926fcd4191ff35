"""Which class runs which architecture."""

from typing import Any

from freehold.errors import ModelFileError, UnsupportedError
from freehold.models.llama import Llama
from freehold.models.parameters import check_parameters, named_parameters
from freehold.models.qwen2 import Qwen2

# general.architecture of a GGUF file, and model_type of a config.json.
MODELS: dict[str, type[Llama]] = {"llama": Llama, "qwen2": Qwen2}


def model_class(architecture: Any) -> type[Llama]:
    if architecture not in MODELS:
        raise UnsupportedError(f"architecture {architecture!r}: not supported yet", f"supported: {', '.join(MODELS)}")
    return MODELS[architecture]


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
