"""From a model in any form that runs to a GGUF file, or to a folder of safetensors without quantization.

What need not change does not: rows keep their blocks, and a GGUF file's tensors that keep their format are copied.
"""

import json
import math
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from freehold.errors import ModelFileError, RequestError, UnsupportedError
from freehold.models.gguf_export import gguf_metadata, gguf_tensors
from freehold.models.published_export import published_config, published_tensors
from freehold.models.registry import language_values, model_for, model_from_config, unused_tensors
from freehold.models.settings import Settings
from freehold.text.gguf_export import gguf_text_metadata
from freehold.text.published_export import published_text_files
from freehold.weights.checkpoint import Checkpoint
from freehold.weights.gguf import open_gguf
from freehold.weights.gguf_writer import TYPES, write_gguf
from freehold.weights.open import open_checkpoint
from freehold.weights.quantize import quantize_tensors, quantized, scheme_of
from freehold.weights.safetensors import BITS
from freehold.weights.safetensors_writer import write_safetensors
from freehold.weights.tensors import RUN

# Where a GGUF file cannot hold a format as it is: the one that holds its values without loss, or nearest.
_NEAREST = {"FP8_32": "BF16", "FP8_128": "BF16", "INT4_F16": "F16", "INT4_BF16": "BF16"}
# What tells how values lie in one form or the other, not which model it is.
_FORM = ("architecture", "norm_offset", "tiled_heads")
_EXACT = {("MXFP4", "BF16")}  # a power of two times few bits


@dataclass(frozen=True)
class Converted:
    """`formats`: how many tensors, by their formats before and after; `left_out`: names of those not written."""

    path: Path
    num_bytes: int
    formats: Mapping[tuple[str, str], int]
    left_out: Sequence[str]

    @property
    def lossless(self) -> bool:
        """Every value is what it was."""
        return all(before == after or after == "F32" or (before, after) in _EXACT for before, after in self.formats)


def convert(source: Path, out: Path, *, quantize: str | None = None, importance: Path | None = None) -> Converted:
    """Write the model at `source` to `out`: a .gguf file, or a folder of safetensors.

    `quantize` names a scheme (see `weights.quantize`); `importance` is an importance matrix in GGUF, as llama-imatrix
    writes it. Raises RequestError, UnsupportedError for what the form cannot hold, ModelFileError.
    """
    try:
        if out.exists():
            raise RequestError(f"{out}: exists already", "name another, or delete it first")
    except OSError as error:
        raise RequestError(f"{out}: cannot be written: {error.strerror}") from None
    if importance is not None and quantize is None:
        raise RequestError(
            "importance: an importance matrix weighs what quantization rounds", "name a --quantize FORMAT"
        )
    checkpoint = open_checkpoint(source)
    if out.suffix.lower() == ".safetensors":
        raise RequestError(f"{out}: a file of safetensors does not say what model it is", f"name a folder: {out.stem}")
    if out.suffix.lower() == ".gguf":
        return _to_gguf(checkpoint, out, quantize, importance)
    if quantize is not None and quantize.lower() not in ("bf16", "f16", "f32"):
        raise RequestError(f"quantize {quantize!r}: a folder of safetensors holds bf16, f16 or f32", "name OUT.gguf")
    if importance is not None:
        raise RequestError("importance: rounding to 16 bits does not need an importance matrix", "name OUT.gguf")
    return _to_folder(checkpoint, out, (quantize or "").upper() or None)


# GGUF -----------------------------------------------------------------------------------------------------------------


def _to_gguf(checkpoint: Checkpoint, out: Path, quantize: str | None, importance: Path | None) -> Converted:
    model = model_for(checkpoint)
    if checkpoint.config is None:
        stale = ("split.", "general.file_type") if quantize else ("split.",)
        metadata = {key: value for key, value in checkpoint.metadata.items() if not key.startswith(stale)}
        tensors, names = dict(checkpoint.tensors), _published_names(model)
    else:
        settings = Settings(language_values(checkpoint.config, checkpoint.tensors))
        tensors, names = gguf_tensors(model, checkpoint.tensors, settings), _published_names(model)
        assert checkpoint.folder is not None
        metadata = gguf_metadata(model, settings) | {"general.name": checkpoint.folder.resolve().name}
        metadata |= gguf_text_metadata(checkpoint.folder, model.config.vocabulary_size)
        _check_written(model, metadata, tensors)
    before = _formats(tensors)
    if quantize is not None:
        tensors = _quantize(model, tensors, names, quantize, importance)
    tensors = {name: _writable(tensor) for name, tensor in tensors.items()}
    write_gguf(out, metadata, tensors)
    left_out = [] if checkpoint.config is None else unused_tensors(model, checkpoint.tensors)
    return Converted(out, out.stat().st_size, _changes(before, tensors), left_out)


def _formats(tensors: Mapping[str, Any]) -> dict[str, str]:
    return {name: tensor.format for name, tensor in tensors.items()}


def _changes(before: Mapping[str, str], tensors: Mapping[str, Any]) -> Mapping[tuple[str, str], int]:
    return Counter((before[name], tensor.format) for name, tensor in tensors.items())


def _check_written(model: Any, metadata: Mapping[str, Any], tensors: Mapping[str, Any]) -> None:
    """Raises UnsupportedError where the file would describe another model than the folder does."""
    try:
        written = model_for(Checkpoint((), metadata, tensors))
    except ModelFileError as error:
        raise UnsupportedError(f"{error}: a GGUF file of this architecture cannot describe the model") from None
    _check_same(model, written, model.config.rope.interleaved or model.permuted_in_gguf, "GGUF file")


def _check_same(model: Any, written: Any, interleaved: bool, form: str) -> None:
    """Raises UnsupportedError where `written`, whose rope is to be `interleaved`, is another model."""
    config = replace(model.config, rope=replace(model.config.rope, interleaved=interleaved))
    for field in fields(config):
        ours, theirs = getattr(config, field.name), getattr(written.config, field.name, None)
        if field.name not in _FORM and not _is_same(ours, theirs):
            raise UnsupportedError(f"{field.name}: {ours!r:.120}: a {form} of this architecture cannot say so")


def _is_same(ours: Any, theirs: Any) -> bool:
    if isinstance(ours, float):
        return math.isclose(ours, theirs, rel_tol=1e-5, abs_tol=1e-12)
    if isinstance(ours, tuple) and isinstance(theirs, tuple):
        return len(ours) == len(theirs) and all(map(_is_same, ours, theirs))
    if isinstance(ours, dict):
        return ours.keys() == theirs.keys() and all(_is_same(ours[name], theirs[name]) for name in ours)
    if is_dataclass(ours) and not isinstance(ours, type):
        return all(_is_same(getattr(ours, f.name), getattr(theirs, f.name, None)) for f in fields(ours))
    return ours == theirs


def _published_names(model: Any) -> dict[str, str]:
    """GGUF name -> published name."""
    return {
        name.format(i=i): ours.format(i=i)
        for name, ours in model.gguf_names.items()
        for i in range(model.config.num_layers)
    }


def _quantize(
    model: Any, tensors: Mapping[str, Any], names: Mapping[str, str], scheme: str, importance: Path | None
) -> dict[str, Any]:
    published = {names.get(name, name): tensor for name, tensor in tensors.items()}
    made = quantize_tensors(
        published,
        scheme_of(scheme),
        num_layers=model.config.num_layers,
        router=getattr(model, "routing", None),
        tied=model.config.tied_embeddings,
        importance=_importance(importance, names) if importance else None,
    )
    return {name: made[names.get(name, name)] for name in tensors}


def _importance(path: Path, names: Mapping[str, str]) -> dict[str, Any]:
    """Mean squares of each matrix's inputs, by its published name."""
    tensors = open_gguf(path).tensors
    found = {}
    for name, tensor in tensors.items():
        if name.endswith(".in_sum2"):
            matrix = name.removesuffix(".in_sum2")
            counts = tensors.get(matrix + ".counts")
            if counts is None:
                raise ModelFileError(f"{path}: {matrix}.counts: missing beside its sums")
            sums, count = tensor.dequantize(), counts.dequantize().reshape(-1, 1)
            found[names.get(matrix, matrix)] = (sums.reshape(len(count), -1) / count.clip(1)).reshape(-1)
    if not found:
        raise ModelFileError(f"{path}: holds no importance matrix", "llama-imatrix writes one in GGUF")
    return found


def _writable(tensor: Any) -> Any:
    return tensor if tensor.format in TYPES else quantized(tensor, _NEAREST[tensor.format])


# Safetensors ----------------------------------------------------------------------------------------------------------

_COPIED = ("tokenizer", "special_tokens", "added_tokens", "chat_template", "generation_config", "vocab", "merges")
_TEXTS = (".json", ".jinja", ".model", ".tiktoken", ".txt")


def _to_folder(checkpoint: Checkpoint, out: Path, form: str | None) -> Converted:
    model = model_for(checkpoint)  # what cannot run is not worth writing
    if checkpoint.config is None:
        source = published_tensors(model, checkpoint.tensors)
        config = published_config(model, checkpoint.metadata, checkpoint.tensors)
        texts = published_text_files(checkpoint.metadata, model.config.context_length)
    else:
        assert checkpoint.folder is not None
        source, config = checkpoint.tensors, checkpoint.config
        texts = {path.name: path for path in sorted(checkpoint.folder.iterdir()) if _is_text(path)}
    tensors = {name: _plain(tensor, form) for name, tensor in source.items()}
    if checkpoint.config is None:
        _check_same(model, model_from_config(config, tensors), model.interleaved_rope, "config.json")
    _write_folder(out, config, tensors, texts)
    size = sum(path.stat().st_size for path in out.iterdir())
    return Converted(out, size, _changes(_formats(source), tensors), [])


def _plain(tensor: Any, form: str | None) -> Any:
    """Without quantization: matrices in `form`; None: as they are, or nearest."""
    if form and len(tensor.shape) > 1 and tensor.format in RUN:
        return quantized(tensor, form)
    return quantized(tensor, _NEAREST.get(tensor.format, "BF16")) if tensor.format not in BITS else tensor


def _is_text(path: Path) -> bool:
    return path.name.startswith(_COPIED) and path.suffix in _TEXTS


def _write_folder(
    out: Path, config: Mapping[str, Any], tensors: Mapping[str, Any], texts: Mapping[str, Path | str]
) -> None:
    """Under a name of its own until it is whole; `texts`: files to copy, or what is to stand in them."""
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        write_safetensors(partial, tensors)
        published = {key: value for key, value in config.items() if key != "quantization_config"}
        (partial / "config.json").write_text(json.dumps(published, indent=2) + "\n")
        for name, text in texts.items():
            if isinstance(text, Path):
                shutil.copyfile(text, partial / name)
            else:
                (partial / name).write_text(text)
        partial.rename(out)
    except OSError as error:
        raise ModelFileError(f"{out}: cannot be written: {error.strerror}") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
