"""A folder as transformers' save_pretrained writes it runs as it is: tokens, logits and ends of replies agree."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="torch is needed for the reference")
transformers = pytest.importorskip("transformers", reason="transformers is the reference")

import freehold  # noqa: E402
from freehold import _native  # noqa: E402
from freehold.errors import FreeholdError, UnsupportedError  # noqa: E402
from parity.backends import BACKENDS  # noqa: E402
from parity.cases import CASES, SIZES  # noqa: E402
from parity.reference import assert_close, randomize  # noqa: E402

NAMES = dict(bos_token="<s>", eos_token="<|im_end|>")
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
)
MESSAGES = [{"role": "user", "content": "Hello, world! 你好"}]
CASE = {"llama": 300_000, "qwen3-biases-tied": None, "gpt_oss": None, "deepseek_v3": None}


def publish(folder, name, *, dtype=torch.float32, shard_bytes=None, **overrides):
    """A tiny model and its tokenizer, saved by transformers; returns its model and tokenizer."""
    architecture, case = CASES[name]
    torch.manual_seed(3)
    config = transformers.AutoConfig.for_model(architecture, **(SIZES | case | {"vocab_size": 720} | overrides))
    reference = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()
    randomize(reference)
    reference.load_state_dict({name: value.to(dtype).float() for name, value in reference.state_dict().items()})
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=BACKENDS["byte-level-bos"](), **NAMES)
    tokenizer.chat_template = TEMPLATE
    reference.generation_config.eos_token_id = [tokenizer.eos_token_id, 5]
    state = {name: value.to(dtype) for name, value in reference.state_dict().items()}
    size = {"max_shard_size": shard_bytes} if shard_bytes else {}
    reference.save_pretrained(folder, state_dict=state, **size)
    tokenizer.save_pretrained(folder)
    return reference, tokenizer


@pytest.fixture(scope="module", params=CASE)
def published(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    return folder, *publish(folder, request.param, shard_bytes=CASE[request.param])


@pytest.mark.parametrize("executor", ["torch", "native"])
def test_logits_tokens_and_greedy_replies(published, executor):
    folder, reference, tokenizer = published
    options = {} if executor == "torch" else {"dtype": "float32"}
    try:
        model = freehold.load(folder, executor=executor, threads=2, **options)
    except UnsupportedError as error:
        pytest.skip(str(error))
    with model:
        ids = tokenizer.apply_chat_template(MESSAGES, return_dict=False)
        assert model.chat_tokens(MESSAGES) == ids
        assert model.tokenizer.eos_ids == {tokenizer.eos_token_id, 5}
        with torch.no_grad():
            expected = reference(torch.tensor([ids])).logits[0].numpy()
            generated = reference.generate(torch.tensor([ids]), do_sample=False, max_new_tokens=6)
        assert_close(model.logits(ids), expected)
        reply = model.chat(MESSAGES, temperature=0, max_tokens=6)
        continued = [token for token in generated[0, len(ids) :].tolist() if token not in model.tokenizer.eos_ids]
        assert reply.tokens[: len(continued)] == continued
        assert model.info["unused"] == {}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_used_where_it_lies(dtype, tmp_path):
    reference, tokenizer = publish(tmp_path, "llama", dtype=dtype, shard_bytes=200_000)
    ids = tokenizer("Hello 12345").input_ids
    with freehold.load(tmp_path, threads=2, kv_format="f32") as model, torch.no_grad():
        assert model.info["quantization"]["self_attn.q_proj"] == {"BF16" if dtype == torch.bfloat16 else "F16": 3}
        assert_close(model.logits(ids), reference(torch.tensor([ids])).logits[0].numpy())


def test_the_way_to_the_first_token_imports_no_numpy(tmp_path):
    """Its import takes longer than such a load: norms and biases of half precision are read without it."""
    publish(tmp_path, "llama-all-biases", dtype=torch.bfloat16)
    code = "import sys, freehold; m = freehold.load(sys.argv[1], threads=1); next(m.stream('Hello', max_tokens=1));"
    code += "print('numpy' in sys.modules); m.close()"
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr


PLACE = re.compile(r"^model\.(layers\.\d+\.)?|\.weight$")
QUANTIZED = {
    "q8_0": {"self_attn.v_proj": {"Q8_0": 3}, "mlp.down_proj": {"Q8_0": 3}, "lm_head": {"Q8_0": 1}},
    "q4_k_m": {
        "self_attn.q_proj": {"Q4_K": 3},
        "self_attn.v_proj": {"Q4_K": 2, "Q6_K": 1},
        "self_attn.o_proj": {"Q5_0": 3},
        "mlp.down_proj": {"Q5_0": 2, "Q8_0": 1},  # 96 columns make no super-block
        "lm_head": {"Q6_K": 1},
        "norm": {"F32": 1},
    },
}


@pytest.mark.parametrize("executor", ["torch", "native"])
@pytest.mark.parametrize("scheme", QUANTIZED)
def test_weights_are_quantized_while_they_load(scheme, executor, tmp_path):
    reference, tokenizer = publish(tmp_path, "llama", hidden_size=256, intermediate_size=96)
    ids = tokenizer("Hello, world! 12345").input_ids
    options = {} if executor == "torch" else {"dtype": "float32"}
    with freehold.load(tmp_path, quantize=scheme, executor=executor, threads=2, **options) as model, torch.no_grad():
        formats = model.info["quantization"]
        assert {place: formats[place] for place in QUANTIZED[scheme]} == QUANTIZED[scheme]
        for name, value in reference.named_parameters():
            form = QUANTIZED[scheme].get(PLACE.sub("", name), {"Q4_K" if scheme == "q4_k_m" else "Q8_0": 1})
            more = "model.layers.2." in name  # the last layer has more bits
            if value.dim() == 2:
                rows = value.numpy().ravel(), value.shape[1]
                blocks = _native.quantize(list(form)[more and len(form) - 1], *rows)
                values = _native.dequantize(list(form)[more and len(form) - 1], blocks)
                value.copy_(torch.tensor(values).reshape(value.shape))
        assert_close(model.logits(ids), reference(torch.tensor([ids])).logits[0].numpy())


def test_experts_are_quantized_one_by_one_and_their_router_is_not(tmp_path):
    publish(tmp_path, "qwen3_moe", hidden_size=256, moe_intermediate_size=64)
    with freehold.load(tmp_path, quantize="q4_k_m", threads=2) as model:
        formats = model.info["quantization"]
        assert formats["mlp.experts.up_proj"] == {"Q4_K": 3}
        assert formats["mlp.experts.down_proj"] == {"Q5_0": 2, "Q8_0": 1}
        assert formats["mlp.gate"] == {"F32": 3}
        assert model.generate("Hello", max_tokens=3, temperature=0).tokens


@pytest.mark.parametrize(
    ("scheme", "message"),
    [("q9", "quantize 'q9': unknown"), ("Q4_K", "quantize 'Q4_K': unknown")],
)
def test_a_scheme_that_is_none(llama, scheme, message):
    with pytest.raises(FreeholdError, match=message) as error:
        freehold.load(llama, quantize=scheme)
    assert error.value.hint.startswith("expected one of f32, f16")


def test_quantized_weights_are_not_quantized_again(qwen):
    with pytest.raises(UnsupportedError, match=r"quantize: the weights are quantized already \(Q"):
        freehold.load(qwen, quantize="q4_0")


def test_a_vision_model_loads_its_language_model_and_says_so(tmp_path):
    from safetensors.torch import load_file, save_file

    publish(tmp_path, "qwen3")
    config = json.loads((tmp_path / "config.json").read_text())
    wrapper = {"model_type": "wrapper", "text_config": config, "vision_config": {"depth": 2}, "architectures": ["Vlm"]}
    (tmp_path / "config.json").write_text(json.dumps(wrapper))
    tensors = load_file(tmp_path / "model.safetensors")
    with freehold.load(rename(tmp_path, tensors, save_file), dtype="float32", threads=1) as model:
        assert model.info["unused"] == {"model.visual": 2}
        assert model.generate("Hello", max_tokens=3, temperature=0).tokens
    out = subprocess.run(
        [Path(sys.executable).with_name("freehold"), "run", tmp_path, "Hello", "--max-tokens", "2"],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    assert out.returncode == 0
    assert "note: 2 tensors of model.visual are not used: the language model runs without them" in out.stderr


def rename(folder, tensors, save_file):
    wrapped = {name.replace("model.", "model.language_model.", 1): value for name, value in tensors.items()}
    vision = {f"model.visual.blocks.{i}.weight": torch.zeros(3) for i in range(2)}
    save_file(wrapped | vision, folder / "model.safetensors")
    return folder


def test_show_reads_no_weights(tmp_path):
    publish(tmp_path, "llama")
    info = freehold.describe(tmp_path)
    assert info["name"] == tmp_path.name
    assert info["tokenizer"] == {"model": "tokenizer.json", "pre": "TokenizersBackend"}
    assert info["file_bytes"] == (tmp_path / "model.safetensors").stat().st_size
    assert len(info["template_sha256"]) == 64


def change(folder, **values):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llama")
    publish(folder, "llama")
    return folder


@pytest.mark.parametrize(
    ("values", "message", "hint"),
    [
        ({"model_type": "mystery"}, "architecture 'mystery': not supported yet", "supported: "),
        (
            {"model_type": "mystery", "auto_map": {"AutoModel": "modeling_mystery.M"}},
            "architecture 'mystery': not supported yet",
            "config.json names Python code of the repository (auto_map): such code is never run",
        ),
        ({"vocab_size": 700}, "model.embed_tokens.weight: expected shape (700, 64), got (720, 64)", None),
        ({"num_hidden_layers": 5}, "model.layers.3.input_layernorm.weight: missing from the file's tensors", None),
    ],
)
def test_configurations_that_do_not_fit(llama, values, message, hint):
    original = (llama / "config.json").read_text()
    change(llama, **values)
    try:
        with pytest.raises(FreeholdError) as error:
            freehold.load(llama)
        assert str(error.value).startswith(message)
        assert hint is None or error.value.hint.startswith(hint)
    finally:
        (llama / "config.json").write_text(original)


def test_a_known_architecture_runs_whatever_code_lies_beside_it(llama):
    original = (llama / "config.json").read_text()
    change(llama, auto_map={"AutoModelForCausalLM": "modeling_evil.Evil"})
    (llama / "modeling_evil.py").write_text("raise SystemExit(3)\n")
    try:
        with freehold.load(llama, threads=1) as model:
            assert model.generate("a", max_tokens=1).tokens
    finally:
        (llama / "config.json").write_text(original)


def test_a_dtype_that_is_not_run(llama, tmp_path):
    from safetensors.torch import load_file, save_file

    for path in llama.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["model.norm.weight"] = tensors["model.norm.weight"].double()
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(UnsupportedError, match=r"model.norm.weight: F64 is not a format that runs"):
        freehold.load(tmp_path)
