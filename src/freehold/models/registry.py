"""Which class runs which architecture."""

from collections.abc import Mapping
from typing import Any

from freehold.errors import ModelFileError, UnsupportedError
from freehold.models.llama import Llama
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


def named_parameters(model: Llama, tensors: Mapping[str, Any]) -> dict[str, Any]:
    """A checkpoint's tensors by their published names; those of a GGUF file are renamed."""
    names = {}
    for gguf_name, name in model.gguf_names.items():
        for i in range(model.config.num_layers) if "{i}" in name else (0,):
            names[gguf_name.format(i=i)] = name.format(i=i)
    return {names.get(name, name): tensor for name, tensor in tensors.items()}


def check_parameters(model: Llama, parameters: Mapping[str, Any]) -> None:
    for name, shape in model.parameter_shapes().items():
        if name not in parameters:
            raise ModelFileError(f"{name}: missing from the file's tensors")
        if parameters[name].shape != shape:
            raise ModelFileError(f"{name}: expected shape {shape}, got {parameters[name].shape}")
