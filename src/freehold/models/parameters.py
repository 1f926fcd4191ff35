"""A model's parameters by their published names, whatever file they come from."""

from collections.abc import Mapping
from typing import Any

from freehold.errors import ModelFileError


class Parameters:
    """What a forward reads by name; `scope(prefix)` is the parameters of one layer."""

    def __init__(self, values: Mapping[str, Any], prefix: str = ""):
        self._values, self._prefix = values, prefix

    def __getitem__(self, name: str) -> Any:
        return self._values[self._prefix + name]

    def get(self, name: str) -> Any | None:
        return self._values.get(self._prefix + name)

    def scope(self, prefix: str) -> "Parameters":
        return Parameters(self._values, self._prefix + prefix)


def named_parameters(model: Any, tensors: Mapping[str, Any]) -> dict[str, Any]:
    """A checkpoint's tensors by their published names; those of a GGUF file are renamed."""
    names = {}
    for gguf_name, name in model.gguf_names.items():
        for i in range(model.config.num_layers) if "{i}" in name else (0,):
            names[gguf_name.format(i=i)] = name.format(i=i)
    return {names.get(name, name): tensor for name, tensor in tensors.items()}


def check_parameters(model: Any, parameters: Mapping[str, Any]) -> None:
    """Raises ModelFileError where a parameter that the forward reads is missing or misshapen."""
    for name, shape in model.parameter_shapes().items():
        if name not in parameters:
            raise ModelFileError(f"{name}: missing from the file's tensors")
        if parameters[name].shape != shape:
            raise ModelFileError(f"{name}: expected shape {shape}, got {parameters[name].shape}")
