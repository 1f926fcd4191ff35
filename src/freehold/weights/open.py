"""Opens whatever path a model is: a GGUF file, or a folder as a lab publishes it. Files that hold code are refused."""

from pathlib import Path

from freehold.errors import ModelNotFoundError, UnsupportedError
from freehold.files import read_json
from freehold.weights.checkpoint import Checkpoint
from freehold.weights.gguf import open_gguf
from freehold.weights.quantized import assemble
from freehold.weights.safetensors import INDEX, open_shards

# Endings of files that Python unpickles, which runs whatever code their author has put in.
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
SAFE_ALTERNATIVE = (
    "look for the same weights as .safetensors or .gguf; or convert them once where nothing can be harmed: "
    "transformers' AutoModelForCausalLM.from_pretrained(FOLDER).save_pretrained(OUT) writes .safetensors"
)


def open_checkpoint(path: Path) -> Checkpoint:
    """The checkpoint at `path`: a .gguf file, a folder with config.json and .safetensors, or one of its files.

    Raises ModelNotFoundError, ModelFileError for what is damaged, UnsupportedError for what is not run.
    """
    if path.is_dir():
        return _open_folder(path)
    if path.suffix.lower() in PICKLES:
        raise UnsupportedError(f"{path}: refused: a pickle can run any code when it is opened", SAFE_ALTERNATIVE)
    if path.suffix.lower() == ".safetensors" or path.name in (INDEX, "config.json"):
        return _open_folder(path.parent)
    return open_gguf(path)


def _open_folder(folder: Path) -> Checkpoint:
    has_weights = (folder / INDEX).exists() or any(folder.glob("*.safetensors"))
    if has_weights and (folder / "config.json").exists():
        config = read_json(folder / "config.json")
        paths, tensors = open_shards(folder)
        return Checkpoint(paths, {}, assemble(tensors, config), config, folder)
    if has_weights:
        raise ModelNotFoundError(f"{folder / 'config.json'}: missing; the weights alone do not say what model they are")
    return open_gguf(_only_gguf(folder))


def _only_gguf(folder: Path) -> Path:
    """The one model among a folder's GGUF files; the other files of a split set are not models."""
    files = sorted(folder.glob("*.gguf"))
    whole = [path for path in files if "-of-" not in path.name or "-00001-of-" in path.name]
    if len(whole) == 1:
        return whole[0]
    if whole:
        names = ", ".join(path.name for path in whole[:4])
        raise ModelNotFoundError(f"{folder}: holds {len(whole)} models", f"name one of its files: {names}")
    if pickles := sorted(path.name for path in folder.iterdir() if path.suffix.lower() in PICKLES):
        raise UnsupportedError(
            f"{folder / pickles[0]}: refused: a pickle can run any code when it is opened", SAFE_ALTERNATIVE
        )
    raise ModelNotFoundError(
        f"{folder}: no model in this folder", "expected config.json with .safetensors files, or a .gguf file"
    )
