"""freehold convert: what goes along, what is kept to the bit, what is refused; nothing half written."""

import resource
import subprocess
import sys
import unicodedata
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is needed for the reference")
transformers = pytest.importorskip("transformers", reason="transformers is the reference")

import gguf  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

import freehold  # noqa: E402
from freehold.convert import convert  # noqa: E402
from freehold.errors import FreeholdError, UnsupportedError  # noqa: E402
from freehold.models.gguf_export import gguf_architecture  # noqa: E402
from parity.backends import TEXTS  # noqa: E402
from parity.cases import LLAMA3_ROPE  # noqa: E402
from parity.reference import assert_close  # noqa: E402
from parity.test_folders import MESSAGES, TEMPLATE, change, publish  # noqa: E402

FREEHOLD = Path(sys.executable).with_name("freehold")
WIDE = dict(hidden_size=256, intermediate_size=256)


def run(*arguments, **options):
    command = [str(argument) for argument in (FREEHOLD, *arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL, **options)


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    folder = tmp_path_factory.mktemp("published")
    reference, tokenizer = publish(folder, "llama", dtype=torch.bfloat16, **WIDE)
    tokenizer.chat_template = "{{ bos_token }}" + TEMPLATE  # GGUF says that BOS comes first, not where
    tokenizer.save_pretrained(folder)
    return folder, reference, tokenizer


@pytest.fixture(scope="module")
def f16(llama, tmp_path_factory):
    return convert(llama[0], tmp_path_factory.mktemp("f16") / "f16.gguf", quantize="f16").path


def test_tokens_template_and_ends_of_replies_go_along(llama, f16):
    _, _, tokenizer = llama
    with freehold.load(f16, threads=1) as model:
        assert model.chat_tokens(MESSAGES) == tokenizer.apply_chat_template(MESSAGES, return_dict=False)
        assert tokenizer.eos_token_id in model.tokenizer.eos_ids


@pytest.mark.parametrize("source", ["folder", "f16"])
def test_a_model_is_quantized_while_it_is_loaded_to_run(source, llama, f16):
    path = {"folder": llama[0], "f16": f16}[source]
    done = run("run", path, "Hello", "--quantize", "q4_k_m", "--max-tokens", 4, "--json")
    assert done.returncode == 0, done.stderr
    with freehold.load(path, quantize="q4_k_m", threads=1) as model:
        assert model.info["quantization"]["mlp.gate_proj"] == {"Q4_K": 3}


def test_quantized_to_a_file_is_quantized_at_load(llama, tmp_path):
    folder, _, _ = llama
    done = run("convert", folder, tmp_path / "small.gguf", "--quantize", "q4_k_m")
    assert done.returncode == 0, done.stderr
    assert "values rounded: " in done.stdout
    assert "BF16 → Q4_K" in done.stdout
    with (
        freehold.load(tmp_path / "small.gguf", threads=1) as file,
        freehold.load(folder, quantize="q4_k_m", threads=1) as loaded,
    ):
        ids = file.tokenizer.encode("Hello, world! 12345")
        assert_close(file.logits(ids), loaded.logits(ids))


def test_an_importance_matrix_lessens_the_error_where_it_weighs(llama, tmp_path):
    folder, _, _ = llama
    weights = np.where(np.arange(256) % 8 == 0, 100, 0.01).astype(np.float32)
    writer = gguf.GGUFWriter(tmp_path / "imatrix.gguf", "")
    writer.add_type("imatrix")
    for i in range(3):
        writer.add_tensor(f"blk.{i}.ffn_gate.weight.in_sum2", 7 * weights.reshape(1, -1))
        writer.add_tensor(f"blk.{i}.ffn_gate.weight.counts", np.array([[7.0]], np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    published = load_file(folder / "model.safetensors")["model.layers.0.mlp.gate_proj.weight"].float().numpy()
    errors = []
    for importance in (None, tmp_path / "imatrix.gguf"):
        made = convert(folder, tmp_path / f"{importance is None}.gguf", quantize="q4_k_s", importance=importance)
        tensor = next(t for t in gguf.GGUFReader(made.path).tensors if t.name == "blk.0.ffn_gate.weight")
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        errors.append((weights * (values - published) ** 2).sum())
    assert errors[1] < 0.9 * errors[0]


def test_an_importance_matrix_without_sums_is_refused(llama, f16, tmp_path):
    with pytest.raises(FreeholdError, match="holds no importance matrix"):
        convert(llama[0], tmp_path / "out.gguf", quantize="q4_0", importance=f16)


def test_a_folder_keeps_every_bit(llama, tmp_path):
    folder, reference, tokenizer = llama
    done = run("convert", folder, tmp_path / "copy")
    assert done.returncode == 0, done.stderr
    assert "every value as it was: 30 tensors BF16" in done.stdout
    ours, theirs = load_file(tmp_path / "copy" / "model.safetensors"), load_file(folder / "model.safetensors")
    assert ours.keys() == theirs.keys()
    assert all(ours[name].dtype == torch.bfloat16 and torch.equal(ours[name], theirs[name]) for name in theirs)
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "copy", dtype=torch.float32)
    ids = transformers.AutoTokenizer.from_pretrained(tmp_path / "copy")("Hello", return_tensors="pt").input_ids
    assert ids.tolist()[0] == tokenizer("Hello").input_ids
    with torch.no_grad():
        assert_close(again(ids).logits[0].numpy(), reference(ids).logits[0].numpy())


def test_fp8_becomes_bfloat16_and_says_so(llama, tmp_path):
    folder, _, _ = llama
    fp8 = tmp_path / "fp8"
    fp8.mkdir()
    for path in folder.glob("*.json"):
        (fp8 / path.name).write_bytes(path.read_bytes())
    tensors = load_file(folder / "model.safetensors")
    name = "model.layers.0.mlp.up_proj.weight"
    tensors[name] = (tensors[name] / 0.25).to(torch.float8_e4m3fn)
    tensors[name + "_scale_inv"] = torch.full((2, 2), 0.25)
    save_file(tensors, fp8 / "model.safetensors")
    change(fp8, quantization_config=dict(quant_method="fp8", weight_block_size=[128, 128]))
    made = convert(fp8, tmp_path / "plain")
    assert made.formats["FP8_128", "BF16"] == 1
    written = load_file(tmp_path / "plain" / "model.safetensors")
    assert torch.equal(written[name].float(), tensors[name].float() * 0.25)
    assert "quantization_config" not in (tmp_path / "plain" / "config.json").read_text()


CHAIN = {
    "llama": {},
    "llama3-rope": dict(rope_parameters=LLAMA3_ROPE | dict(original_max_position_embeddings=8192)),
    "qwen2-tied": dict(head_dim=16),
    "qwen3_moe": {},
    "qwen2_moe": {},
    "glm4": {},
    "phi3": dict(head_dim=16),
}


@pytest.mark.parametrize("name", CHAIN)
def test_a_gguf_file_becomes_a_folder_that_transformers_loads(name, tmp_path):
    reference, tokenizer = publish(tmp_path / "first", name, **CHAIN[name])
    made = convert(tmp_path / "first", tmp_path / "model.gguf")
    made = convert(made.path, tmp_path / "again")
    assert made.lossless
    again = transformers.AutoModelForCausalLM.from_pretrained(made.path, dtype=torch.float32)
    assert type(again) is type(reference)
    tokens = transformers.PreTrainedTokenizerFast.from_pretrained(made.path)
    for text in TEXTS:
        text = unicodedata.normalize("NFC", text)
        assert tokens(text).input_ids == tokenizer(text).input_ids, text
        assert tokens.decode(tokens(text).input_ids) == tokenizer.decode(tokenizer(text).input_ids)
    chat = [t.apply_chat_template(MESSAGES, tokenize=False) for t in (tokens, tokenizer)]
    assert chat[0] == chat[1]
    ids = torch.tensor([tokenizer("Hello, world! 12345").input_ids])
    with torch.no_grad():
        assert_close(again(ids).logits[0].numpy(), reference(ids).logits[0].numpy())
    with freehold.load(made.path, dtype="float32", threads=1) as ours, torch.no_grad():
        assert_close(ours.logits(ids[0].tolist()), reference(ids).logits[0].numpy())


def test_a_quantized_gguf_file_becomes_a_folder_in_bfloat16(smollm, tmp_path):
    made = convert(smollm, tmp_path / "plain")
    assert not made.lossless and made.formats["Q4_1", "BF16"]
    with freehold.load(smollm, dtype="float32") as file, freehold.load(made.path, dtype="float32") as folder:
        ids = file.tokenizer.encode("The capital of France is")
        assert folder.tokenizer.encode("The capital of France is") == ids
        ours, theirs = folder.logits(ids), file.logits(ids)
        assert np.linalg.norm(ours - theirs) < 0.02 * np.linalg.norm(theirs)
        assert folder.chat_tokens(MESSAGES) == file.chat_tokens(MESSAGES)


def test_a_gguf_file_whose_tensors_would_have_to_be_joined(tmp_path):
    publish(tmp_path / "first", "deepseek_v3")
    made = convert(tmp_path / "first", tmp_path / "model.gguf")
    with pytest.raises(UnsupportedError, match="deepseek2: a folder is not written of a GGUF file of this"):
        convert(made.path, tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_a_full_disk_leaves_nothing(llama, tmp_path):
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))  # noqa: E731
    for out in ("out.gguf", "out"):
        done = run("convert", llama[0], tmp_path / out, preexec_fn=limit)
        assert done.returncode == 2
        assert f"{out}: cannot be written: File too large" in done.stderr
        assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("out", "options", "message"),
    [
        ("out.gguf", {"quantize": "q9"}, "quantize 'q9': unknown"),
        ("out", {"quantize": "q4_0"}, "quantize 'q4_0': a folder of safetensors holds bf16, f16 or f32"),
        ("out.safetensors", {}, "out.safetensors: a file of safetensors does not say what model it is"),
        (".", {}, "exists already"),
        ("missing/out.gguf", {}, "missing/out.gguf: cannot be written: No such file or directory"),
    ],
)
def test_mistakes(out, options, message, llama, tmp_path):
    with pytest.raises(FreeholdError) as error:
        convert(llama[0], tmp_path / out, **options)
    assert message in str(error.value)
    assert not list(tmp_path.iterdir())


def test_what_is_quantized_is_not_quantized_again(qwen, tmp_path):
    with pytest.raises(UnsupportedError, match="quantize: the weights are quantized already"):
        convert(qwen, tmp_path / "out.gguf", quantize="q4_0")


def test_an_architecture_that_llama_cpp_does_not_have():
    with pytest.raises(UnsupportedError, match="mystery: GGUF has no architecture for it that is known here"):
        gguf_architecture(SimpleNamespace(config=SimpleNamespace(architecture="mystery")))
