"""A model's parameters by name, whatever file they come from.

The names are those of the published checkpoint, with two exceptions that a file's layout asks for: experts, which most
labs publish one by one (`experts.7.up_proj.weight`), are one parameter (`experts.up_proj.weight`, (E, F, D)); and
tensors that hold several matrices are taken apart as the model's `splits` declare.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from freehold.errors import ModelFileError

_EXPERT = re.compile(r"(?P<place>.*\.experts)\.(?P<number>\d+)\.(?P<name>.*)")
_LAYER = re.compile(r"^model\.layers\.\d+\.")
_WRAPPERS = {"model.language_model.": "model.", "language_model.model.": "model.", "language_model.": ""}


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


@dataclass(frozen=True)
class Split:
    """A tensor that holds the rows of several: `groups` times some rows of the first, of the second and so on.

    `groups` is a number or the name of a size in the model's config (heads, say). `transposed`: it is published as
    (inputs, outputs). `stacked`: each part becomes a tensor (groups, rows, columns), those of `transposed_parts` one of
    (groups, columns, rows).
    """

    names: tuple[str, ...]
    groups: int | str = 1
    transposed: bool = False
    stacked: bool = False
    transposed_parts: tuple[bool, ...] = ()

    def apply(self, tensor: Any, shapes: list[tuple[int, ...]], config: Any) -> list[Any]:
        """The tensors of `names`, of `shapes`. Raises ModelFileError when the rows do not add up."""
        groups = getattr(config, self.groups) if isinstance(self.groups, str) else self.groups
        if not self.stacked:
            return _take_apart(tensor.transpose() if self.transposed else tensor, shapes, groups)
        straight = [(s[0], s[2], s[1]) if t else s for s, t in zip(shapes, self.transposed_parts, strict=True)]
        parts = _take_apart(tensor, [(count * rows, columns) for count, rows, columns in straight], groups)
        parts = [part.reshape(shape) for part, shape in zip(parts, straight, strict=True)]
        return [part.transpose() if t else part for part, t in zip(parts, self.transposed_parts, strict=True)]


def _take_apart(tensor: Any, shapes: list[tuple[int, ...]], groups: int) -> list[Any]:
    """Rows are the last axis but one of matrices, the last of biases."""
    if len(tensor.shape) > len(shapes[0]):
        tensor = tensor.reshape(_without_ones(tensor.shape))
    axis = len(shapes[0]) - (1 if len(shapes[0]) == 1 or tensor.name.endswith("bias") else 2)
    rows = [shape[axis] for shape in shapes]
    if len(tensor.shape) != len(shapes[0]) or sum(rows) != tensor.shape[axis]:
        raise ModelFileError(f"{tensor.name}: expected {sum(rows)} rows, got shape {tensor.shape}")
    return tensor.split(axis, groups, [count // groups for count in rows])


def published_tensors(model: Any, tensors: Mapping[str, Any]) -> dict[str, Any]:
    """A checkpoint's tensors by the names that the model goes by, those of experts stacked, none taken apart."""
    return _stack_experts({_published(model, name): tensor for name, tensor in tensors.items()})


def named_parameters(model: Any, tensors: Mapping[str, Any]) -> dict[str, Any]:
    """A checkpoint's tensors by the model's names."""
    names = dict(_gguf_names(model))
    renamed = {}
    for name, tensor in tensors.items():
        change = model.gguf_values.get(_LAYER.sub("", names[name])) if name in names else None
        renamed[names.get(name, name)] = tensor.map(change) if change else tensor
    stacked = _stack_experts({_published(model, name): tensor for name, tensor in renamed.items()})
    parts = _split(model, stacked)
    for name, shape in model.parameter_shapes().items():
        if name in parts and parts[name].shape != shape and _without_ones(parts[name].shape) == _without_ones(shape):
            parts[name] = parts[name].reshape(shape)
    return parts


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(length for length in shape if length != 1)


def _gguf_names(model: Any) -> Iterator[tuple[str, str]]:
    for gguf_name, name in model.gguf_names.items():
        for i in range(model.config.num_layers) if "{i}" in name else (0,):
            yield gguf_name.format(i=i), name.format(i=i)


def _published(model: Any, name: str) -> str:
    """The name that the model goes by: that in the language model of a checkpoint which wraps one, its usual form."""
    for wrapper, usual in {**_WRAPPERS, **model.prefixes}.items():
        if name.startswith(wrapper):
            name = usual + name.removeprefix(wrapper)
            break
    layer = _LAYER.match(name)
    return layer[0] + model.aliases.get(name[layer.end() :], name[layer.end() :]) if layer else name


def _stack_experts(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Experts that stand one by one become one tensor each."""
    stacked: dict[str, Any] = {}
    experts: dict[str, dict[int, Any]] = {}
    for name, tensor in tensors.items():
        if found := _EXPERT.fullmatch(name):
            experts.setdefault(f"{found['place']}.{found['name']}", {})[int(found["number"])] = tensor
        else:
            stacked[name] = tensor
    for name, parts in experts.items():
        if missing := set(range(len(parts))) - parts.keys():
            raise ModelFileError(f"{name}: expert {min(missing)} is missing from the file's tensors")
        first, *others = (parts[i] for i in range(len(parts)))
        stacked[name] = first.stack(name, others)
    return stacked


def _split(model: Any, tensors: dict[str, Any]) -> dict[str, Any]:
    shapes = model.parameter_shapes()
    for published, split in model.splits.items():
        for i in range(model.config.num_layers):
            layer = f"model.layers.{i}."
            tensor = tensors.get(layer + published)
            names = [layer + name for name in split.names]
            if tensor is not None and all(name in shapes for name in names):
                parts = split.apply(tensor, [shapes[name] for name in names], model.config)
                del tensors[layer + published]
                tensors |= dict(zip(names, parts, strict=True))
    return tensors


def check_parameters(model: Any, parameters: Mapping[str, Any]) -> None:
    """Raises ModelFileError where a parameter that the forward reads is missing or misshapen.

    Raises UnsupportedError where its format is not run.
    """
    for name, shape in model.parameter_shapes().items():
        if name not in parameters:
            raise ModelFileError(f"{name}: missing from the file's tensors")
        if parameters[name].shape != shape:
            raise ModelFileError(f"{name}: expected shape {shape}, got {parameters[name].shape}")
        parameters[name].check()
