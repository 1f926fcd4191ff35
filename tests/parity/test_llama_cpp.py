"""What is converted to GGUF gives, in llama.cpp, the logits of transformers: names, values, metadata, tokens.

llama.cpp fixes some sizes that our cases choose otherwise; `CHANGES` says which. It differs from the published models in
two places that are left out here: it rounds the ends of YaRN's ramp (gpt-oss does not), and it scores DeepSeek-V2's
groups of experts by their two best, not by the best.
"""

import json
import unicodedata

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is needed for the reference")
transformers = pytest.importorskip("transformers", reason="transformers is the reference")

import freehold  # noqa: E402
from freehold.convert import convert  # noqa: E402
from freehold.errors import UnsupportedError  # noqa: E402
from parity.backends import BACKENDS, TEXTS  # noqa: E402
from parity.cases import YARN_ROPE  # noqa: E402
from parity.llama_cpp import LlamaCpp  # noqa: E402
from parity.reference import assert_close  # noqa: E402
from parity.test_folders import change, publish  # noqa: E402
from parity.test_quantized import publish as publish_quantized  # noqa: E402
from parity.test_quantized import quantize_mxfp4  # noqa: E402

FACTORS = {
    f"{part}_{which}_factor": value
    for part in ("full_attn", "linear_attn", "mlp")
    for which, value in (("alpha", 1.2), ("beta", 1.0))
}
LINEAR = dict(layer_types=["linear_attention", "full_attention", "linear_attention"])
WIDE = dict(head_dim=16)  # heads as wide as the hidden size together
DELTA = dict(linear_value_head_dim=12, rms_norm_eps=1e-6)  # values as wide as keys, one epsilon
LLAMA4 = dict(
    attention_chunk_size=8192, floor_scale=8192, attn_scale=0.1, use_qk_norm=True, attn_temperature_tuning=True
)
CHANGES = {
    "llama": {},
    "llama-tied": {},
    "llama-odd-heads": {},
    "llama3-rope": {},
    "linear-rope": {},
    "yarn-rope": {},
    "mistral": {},
    "olmo2": WIDE,
    "qwen2": WIDE,
    "qwen2-tied": WIDE,
    "qwen3": {},
    "glm": WIDE,
    "glm4": {},
    "phi3": WIDE,
    "phi3-window-partial-rope": WIDE | dict(sliding_window=None),
    "ernie4_5": {},
    "qwen2_moe": WIDE,
    "qwen3_moe": {},
    "ernie4_5_moe": {},
    "glm4_moe": {},
    "glm4_moe-one-group": {},
    "minimax_m2": {},
    "gpt_oss-limit-of-7": dict(rope_parameters=dict(rope_type="default", rope_theta=1e4)),
    "llama4": LLAMA4,
    "llama4-dense-layers": LLAMA4,
    "deepseek_v2-lite": dict(num_hidden_layers=27),  # by which llama.cpp knows that there is one query matrix
    "deepseek_v3": {},
    "deepseek_v3-biases-yarn": dict(
        attention_bias=False, rope_parameters=YARN_ROPE | dict(mscale=0.7, mscale_all_dim=0.7)
    ),
    "glm4_moe_lite": {},
    "deepseek_v32": dict(index_head_dim=64),
    "glm_moe_dsa": dict(index_head_dim=64),
    "glm_moe_dsa-shared": dict(index_head_dim=64),
    "qwen3_next": DELTA,
    "qwen3_5": DELTA,
    "qwen3_5_moe": DELTA,
    "minimax": FACTORS | LINEAR,
    "kimi_linear": dict(linear_num_heads=4, rms_norm_eps=1e-6),
}
COMPOSED = [unicodedata.normalize("NFC", text) for text in TEXTS]  # llama.cpp composes no characters
IDS = torch.randint(0, 720, (40,), generator=torch.Generator().manual_seed(1)).tolist()


@pytest.mark.parametrize("name", CHANGES)
def test_llama_cpp_gives_the_logits_of_what_is_converted(name, tmp_path):
    reference, tokenizer = publish(tmp_path, name, **CHANGES[name])
    with torch.no_grad():
        expected = reference(torch.tensor([IDS])).logits[0].numpy()
    made = convert(tmp_path, tmp_path / "model.gguf")
    assert made.lossless
    with LlamaCpp(made.path) as theirs:
        assert_close(theirs.logits(IDS), expected)
        for text in COMPOSED:
            assert theirs.tokenize(text, special=True, bos=True) == tokenizer(text).input_ids, text
    with freehold.load(made.path, dtype="float32", threads=1) as ours:
        assert_close(ours.logits(IDS), expected)


def test_minimax_rotates_the_channels_that_its_config_names(tmp_path):
    """transformers turns all of a head's; llama.cpp, and we, the first `rotary_dim`."""
    reference, _ = publish(tmp_path, "minimax", **FACTORS, **LINEAR)
    change(tmp_path, rotary_dim=16)
    made = convert(tmp_path, tmp_path / "model.gguf")
    with LlamaCpp(made.path) as theirs, freehold.load(tmp_path, dtype="float32", threads=1) as ours, torch.no_grad():
        logits = theirs.logits(IDS)
        assert_close(ours.logits(IDS), logits)
        whole = reference(torch.tensor([IDS])).logits[0].numpy()
        assert abs(whole - logits).max() > 0.1 * abs(whole).max()


@pytest.mark.parametrize("backend", ["llama2", "byte-level"])
def test_llama_cpp_and_a_folder_made_of_the_file_have_the_tokens(backend, tmp_path):
    publish(tmp_path / "first", "llama", vocab_size=1000)
    names = dict(bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=BACKENDS[backend](), **names)
    tokenizer.save_pretrained(tmp_path / "first")
    made = convert(tmp_path / "first", tmp_path / "model.gguf")
    convert(made.path, tmp_path / "again")
    again = transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path / "again")
    with LlamaCpp(made.path) as theirs:
        for text in COMPOSED:
            ids = tokenizer(text).input_ids
            if "\0" not in text:  # in llama.cpp a token's text ends there
                assert theirs.tokenize(text, special=True, bos=True) == ids, text
            assert again(text).input_ids == ids, text
            assert again.decode(ids) == tokenizer.decode(ids)


@pytest.mark.parametrize("scheme", ["q8_0", "q4_k_m", "iq4_xs"])
def test_llama_cpp_reads_what_is_quantized(scheme, tmp_path):
    publish(tmp_path, "qwen3", hidden_size=256, intermediate_size=256)
    made = convert(tmp_path, tmp_path / "model.gguf", quantize=scheme)
    assert not made.lossless
    with LlamaCpp(made.path) as theirs, freehold.load(made.path, dtype="float32", threads=1) as ours:
        expected = ours.logits(IDS)  # llama.cpp rounds what it multiplies with quantized weights to eight bits
        assert np.linalg.norm(theirs.logits(IDS) - expected) < 0.06 * np.linalg.norm(expected)


def test_mxfp4_keeps_its_blocks(tmp_path):
    sizes = dict(intermediate_size=96, num_hidden_layers=2, rope_parameters=dict(rope_type="default", rope_theta=1e4))
    publish_quantized(tmp_path, "gpt_oss-limit-of-7", quantize_mxfp4, {"quant_method": "mxfp4"}, **sizes)
    made = convert(tmp_path, tmp_path / "model.gguf")
    assert made.lossless and made.formats["MXFP4", "MXFP4"] == 6
    with freehold.load(tmp_path, dtype="float32", threads=1) as folder:
        expected = folder.logits(IDS)
    with freehold.load(made.path, dtype="float32", threads=1) as ours:
        assert_close(ours.logits(IDS), expected)
    with LlamaCpp(made.path) as theirs:
        assert np.linalg.norm(theirs.logits(IDS) - expected) < 0.1 * np.linalg.norm(expected)
    plain = convert(tmp_path, tmp_path / "plain")
    assert plain.lossless
    with freehold.load(plain.path, dtype="float32", threads=1) as ours:
        assert_close(ours.logits(IDS), expected)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mistral-window", "windows: (9, 9, 9): a GGUF file of this architecture cannot say so"),
        ("gpt_oss", "glu: Glu(alpha=1.702, limit=0.5, offset=1.0): a GGUF file"),
        ("deepseek_v3-half-split", "rope: Rope("),
        ("llama-all-biases", "model.layers.0.mlp.down_proj.bias: GGUF has no name for it in llama"),
        ("qwen3_moe-mlp-only", "model.layers.1.mlp.gate.weight: missing from the file's tensors: a GGUF file"),
    ],
)
def test_what_a_gguf_file_cannot_say_is_refused(name, message, tmp_path):
    publish(tmp_path, name)
    with pytest.raises(UnsupportedError) as error:
        convert(tmp_path, tmp_path / "model.gguf")
    assert str(error.value).startswith(message)
    assert not list(tmp_path.glob("*.gguf*"))


def test_layers_for_speculation_are_left_out_and_named(tmp_path):
    from safetensors.torch import load_file, save_file

    publish(tmp_path, "deepseek_v3")
    tensors = load_file(tmp_path / "model.safetensors")
    save_file(tensors | {"model.layers.3.eh_proj.weight": torch.ones(4, 4)}, tmp_path / "model.safetensors")
    assert json.loads((tmp_path / "config.json").read_text())["num_hidden_layers"] == 3
    assert convert(tmp_path, tmp_path / "model.gguf").left_out == ["model.layers.3.eh_proj.weight"]
