"""Weights that labs publish quantized: the values are those of the reference's dequantization, and the models run."""

import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is needed for the reference")
transformers = pytest.importorskip("transformers", reason="transformers is the reference")
from safetensors.torch import load_file, save_file  # noqa: E402
from transformers.integrations.finegrained_fp8 import Fp8Dequantize  # noqa: E402

import freehold  # noqa: E402
from freehold.errors import FreeholdError, UnsupportedError  # noqa: E402
from freehold.weights.open import open_checkpoint  # noqa: E402
from parity.cases import CASES, SIZES  # noqa: E402
from parity.reference import assert_close, make_pair, random_ids, randomize  # noqa: E402

INT4 = json.loads((Path(__file__).parent.parent / "data" / "int4.json").read_text())


def checkpoint(folder, tensors, quantization, **config):
    save_file({name: value.contiguous() for name, value in tensors.items()}, folder / "model.safetensors")
    config = {"model_type": "llama", "quantization_config": quantization} | config
    (folder / "config.json").write_text(json.dumps(config))
    return open_checkpoint(folder)


def weight(folder, tensors, quantization):
    """The one weight that the tensors make."""
    made = checkpoint(folder, {f"x.{name}": value for name, value in tensors.items()}, quantization)
    assert made.tensors.keys() == {"x.weight"}
    return made.tensors["x.weight"]


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# Values.


def fp8(values, rows, cols):
    """(codes, scales for blocks of rows x cols)."""
    height, width = values.shape[-2] // rows, values.shape[-1] // cols
    blocks = values.reshape(*values.shape[:-2], height, rows, width, cols)
    scales = blocks.abs().amax((-3, -1)) / 448
    codes = (blocks / scales[..., :, None, :, None]).reshape(values.shape).to(torch.float8_e4m3fn)
    return codes, scales


@pytest.mark.parametrize(
    ("shape", "block", "form"),
    [((256, 384), (128, 128), "FP8_128"), ((64, 96), (32, 32), "FP8_32"), ((48, 256), (1, 256), "FP8_128")],
)
@pytest.mark.parametrize("scale_type", [torch.float32, torch.bfloat16, torch.float8_e8m0fnu])
def test_fp8(shape, block, form, scale_type, tmp_path):
    codes, scales = fp8(random(*shape), *block)
    scales = scales.to(scale_type)
    expected = Fp8Dequantize(None)._dequantize_one(codes, scales.float(), torch.float32)
    ours = weight(tmp_path, {"weight": codes, "weight_scale_inv": scales}, {"weight_block_size": list(block)})
    assert (ours.format, ours.shape) == (form, shape)
    assert (ours.dequantize() == expected.numpy()).all()


def test_fp8_whose_last_blocks_are_not_whole(tmp_path):
    codes, scales = fp8(random(256, 256), 128, 128)
    ours = weight(tmp_path, {"weight": codes[:200], "weight_scale_inv": scales}, {"weight_block_size": [128, 128]})
    expected = codes.float() * scales.repeat_interleave(128, 0).repeat_interleave(128, 1)
    assert (ours.dequantize() == expected[:200].numpy()).all()


@pytest.mark.parametrize("scale_shape", [(), (1,), (48, 1)])
def test_fp8_with_a_scale_for_the_whole_or_for_each_row(scale_shape, tmp_path):
    codes = random(48, 96).to(torch.float8_e4m3fn)
    scales = random(*scale_shape, seed=1)
    ours = weight(tmp_path, {"weight": codes, "weight_scale": scales}, {})
    assert (ours.dequantize() == (codes.float() * scales).numpy()).all()


def test_stacked_fp8(tmp_path):
    codes, scales = fp8(random(3, 64, 128), 32, 64)
    tensors = {"experts.up_proj": codes, "experts.up_proj_scale_inv": scales}
    made = checkpoint(tmp_path, tensors, {"weight_block_size": [32, 64]}).tensors
    spread = scales.repeat_interleave(32, 1).repeat_interleave(64, 2)
    assert (made["experts.up_proj"].dequantize() == (codes.float() * spread).numpy()).all()


def test_mxfp4(tmp_path):
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    generator = torch.Generator().manual_seed(1)
    blocks = torch.randint(0, 256, (3, 24, 4, 16), dtype=torch.uint8, generator=generator)
    scales = torch.randint(100, 140, (3, 24, 4), dtype=torch.uint8, generator=generator)
    expected = convert_moe_packed_tensors(blocks, scales, dtype=torch.float32)
    made = checkpoint(tmp_path, {"e.up_blocks": blocks, "e.up_scales": scales}, {}).tensors
    ours = made["e.up"]
    assert (ours.dequantize() == expected.numpy()).all()
    assert [part.format for part in ours.transpose().parts] == ["MXFP4"] * 3
    assert (ours.transpose().dequantize() == expected.numpy().swapaxes(1, 2)).all()


@pytest.mark.parametrize("scale_type", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("group", [32, 128])
def test_compressed_tensors(group, scale_type, tmp_path):
    packing = pytest.importorskip(
        "compressed_tensors.compressors.pack_quantized.helpers", reason="compressed-tensors is the reference"
    )
    codes = torch.randint(-8, 8, (24, 256), generator=torch.Generator().manual_seed(2)).to(torch.int8)
    scales = (random(24, 256 // group) * 1e-6).to(scale_type)  # so small that half precision could not hold it
    packed = packing.pack_to_int32(codes, 4)
    unpacked = packing.unpack_from_int32(packed, 4, torch.Size((24, 256)))
    expected = unpacked.float() * scales.float().repeat_interleave(group, 1)
    tensors = {"weight_packed": packed, "weight_scale": scales, "weight_shape": torch.tensor([24, 256])}
    ours = weight(tmp_path, tensors, {"quant_method": "compressed-tensors"})
    assert ours.format == ("INT4_BF16" if scale_type == torch.bfloat16 else "INT4_F16")
    assert (ours.dequantize() == expected.numpy()).all()


def words(name):
    """AWQ's or GPTQ's tensors of the matrix that tests/data/make_int4.py has written, and its values."""
    tensors = {key: torch.tensor(value, dtype=torch.int32) for key, value in INT4[name].items()}
    return tensors | {"scales": torch.tensor(INT4["scales"]).half()}, np.array(INT4["values"], np.float16)


CONFIGS = {
    "awq": {"quant_method": "awq", "bits": 4, "group_size": 64, "version": "gemm"},
    "gptq": {"quant_method": "gptq", "bits": 4, "group_size": 64, "desc_act": False},
}


@pytest.mark.parametrize("name", CONFIGS)
def test_awq_and_gptq(name, tmp_path):
    tensors, expected = words(name)
    ours = weight(tmp_path, tensors, CONFIGS[name])
    assert ours.format == "INT4_F16"
    assert (ours.dequantize().astype(np.float16) == expected).all()  # the reference rounds to half precision


def test_gptq_of_the_second_kind(tmp_path):
    """Zero points as they are: each of the eight in a word is one more."""
    tensors, expected = words("gptq")
    tensors["qzeros"] = tensors["qzeros"] + 0x11111111
    ours = weight(tmp_path, tensors, CONFIGS["gptq"] | {"checkpoint_format": "gptq_v2"})
    assert (ours.dequantize().astype(np.float16) == expected).all()


@pytest.mark.parametrize("shuffled", [False, True])
def test_gptq_with_an_order_of_columns(shuffled, tmp_path):
    tensors, expected = words("gptq")
    columns = torch.arange(128)
    if shuffled:  # column c of the file belongs to group g_idx[c]: the groups' columns lie anywhere
        columns = torch.randperm(128, generator=torch.Generator().manual_seed(4))
    tensors["g_idx"] = (columns // 64).int()
    codes = unpack(tensors["qweight"])[columns]
    tensors["qweight"] = pack(codes)
    ours = weight(tmp_path, tensors, CONFIGS["gptq"] | {"desc_act": True})
    assert ours.format == ("F16" if shuffled else "INT4_F16")
    assert (ours.dequantize().astype(np.float16) == expected[:, columns]).all()


def unpack(rows):
    """Codes (columns, rows) of GPTQ's words."""
    shifts = 4 * torch.arange(8)
    return ((rows[:, None, :] >> shifts[None, :, None]) & 15).reshape(-1, rows.shape[1])


def pack(codes):
    shifts = 4 * torch.arange(8)
    total = (codes.reshape(-1, 8, codes.shape[1]).long() << shifts[None, :, None]).sum(1)
    return torch.where(total >= 2**31, total - 2**32, total).int()


def test_gptq_of_8_bits(tmp_path):
    generator = torch.Generator().manual_seed(3)
    codes = torch.randint(-(2**31), 2**31, (32, 16), dtype=torch.int64, generator=generator).int()
    zeros = torch.full((2, 4), 0x7F7F7F7F, dtype=torch.int32)
    scales = random(2, 16).half()
    ours = weight(tmp_path, {"qweight": codes, "qzeros": zeros, "scales": scales}, {"quant_method": "gptq", "bits": 8})
    columns = torch.stack([(codes >> 8 * i) & 255 for i in range(4)], 1).reshape(128, 16) - 128
    assert ours.format == "Q8_0"
    assert (ours.dequantize() == (columns * scales.float().repeat_interleave(64, 0)).T.numpy()).all()


# What does not fit.

GPTQ = CONFIGS["gptq"]


@pytest.mark.parametrize(
    ("change", "quantization", "message"),
    [
        ({"qzeros": None}, GPTQ, "x.qzeros: missing beside the other tensors of its weight"),
        (
            {"scales": torch.zeros(3, 16).half()},
            GPTQ,
            "x.qzeros: expected I32 (3, 2) by the tensors beside it, got I32 (2",
        ),
        ({"scales": torch.zeros(2, 16)}, GPTQ, "x.weight: scales of F32: expected F16 or BF16"),
        ({"g_idx": torch.full((128,), 7, dtype=torch.int32)}, GPTQ, "x.g_idx: expected groups of 2 scales in F16"),
        ({"scales": torch.zeros(16).half()}, GPTQ, "x.scales: expected a matrix, got shape (16,)"),
        ({"qzeros": torch.zeros(0, 2).int()}, GPTQ, "x.qzeros: expected a matrix, got shape (0, 2)"),
        ({}, GPTQ | {"bits": 3}, "x.weight: quantized by gptq with 3 bits (None): not supported"),
        ({}, CONFIGS["awq"] | {"version": "gemv"}, "x.weight: quantized by awq with 4 bits (gemv): not supported"),
        ({}, {}, "x.weight: quantized by None with 4 bits (None): not supported"),
        ({}, GPTQ | {"bits": 8}, "x.qzeros: expected I32 (2, 4)"),
    ],
)
def test_int4_that_does_not_fit(change, quantization, message, tmp_path):
    tensors = {name: value for name, value in (words("gptq")[0] | change).items() if value is not None}
    with pytest.raises(FreeholdError) as error:
        weight(tmp_path, tensors, quantization)
    assert str(error.value).startswith(message)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"weight": (32, 32)}, "x.weight: F8_E4M3 without a tensor of scales beside it"),
        ({"weight": (32, 40), "weight_scale": (1,)}, "x.weight: 40 columns with a scale for 40: expected multiples"),
        (
            {"weight": (64, 64), "weight_scale_inv": (3, 2)},
            "x.weight_scale_inv: (3, 2) does not fit blocks of 32 x",
        ),
        ({"weight": (2, 2, 32), "weight_scale": (1,)}, "x.weight: expected a matrix and a matrix of scales"),
    ],
)
def test_fp8_that_does_not_fit(tensors, message, tmp_path):
    made = {
        f"x.{name}": torch.zeros(shape).to(torch.float8_e4m3fn if name == "weight" else torch.float32)
        for name, shape in tensors.items()
    }
    with pytest.raises(FreeholdError) as error:
        checkpoint(tmp_path, made, {"weight_block_size": [32, 32]})
    assert str(error.value).startswith(message)


def test_a_scheme_that_is_not_here(tmp_path):
    make_pair("llama", tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    name = "model.layers.0.mlp.up_proj.weight"
    tensors[name] = torch.zeros(tensors[name].shape, dtype=torch.uint8)  # as bitsandbytes keeps its codes
    save_file(tensors, tmp_path / "model.safetensors")
    from freehold.models.registry import model_for

    with pytest.raises(UnsupportedError, match=rf"{name}: U8 is not a format that runs"):
        model_for(open_checkpoint(tmp_path))


# Whole models.

WIDE = dict(hidden_size=128, intermediate_size=256, num_hidden_layers=2)


def publish(folder, name, quantize, quantization, **overrides):
    """A tiny model with its matrices quantized by `quantize(name, values)` -> tensors."""
    from parity.backends import BACKENDS

    architecture, case = CASES[name]
    torch.manual_seed(3)
    config = transformers.AutoConfig.for_model(architecture, **(SIZES | case | {"vocab_size": 720} | overrides))
    reference = transformers.AutoModelForCausalLM.from_config(config).eval()
    randomize(reference)
    reference.save_pretrained(folder)
    transformers.PreTrainedTokenizerFast(tokenizer_object=BACKENDS["byte-level"]()).save_pretrained(folder)
    tensors = {}
    for key, value in load_file(folder / "model.safetensors").items():
        tensors |= quantize(key, value) or {key: value}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    saved = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(saved | {"quantization_config": quantization}))
    return reference


FP8_MODELS = {  # sides of a block, sizes that are multiples of it
    "qwen3": (128, WIDE),
    "qwen3_moe": (32, dict(num_hidden_layers=2, intermediate_size=96, moe_intermediate_size=64)),
    "minimax_m2": (32, dict(num_hidden_layers=2, intermediate_size=64)),
    "deepseek_v3": (
        32,
        dict(
            intermediate_size=96,
            moe_intermediate_size=64,
            q_lora_rank=64,
            kv_lora_rank=64,
            qk_nope_head_dim=32,
            v_head_dim=32,
        ),
    ),
}


@pytest.mark.parametrize("name", FP8_MODELS)
def test_a_model_in_fp8(name, tmp_path):
    side, sizes = FP8_MODELS[name]
    dequantized = {}

    def quantize(name, value):
        if value.dim() < 2 or "embed" in name or "lm_head" in name or name.endswith("gate.weight"):
            return None
        padded = torch.zeros([-(-length // side) * side for length in value.shape])
        padded[: value.shape[0], : value.shape[1]] = value
        codes, scales = fp8(padded, side, side)
        values = Fp8Dequantize(None)._dequantize_one(codes, scales, torch.float32)
        dequantized[name] = values[: value.shape[0], : value.shape[1]].contiguous()
        return {name: codes[: value.shape[0]].contiguous(), name.replace("weight", "weight_scale_inv"): scales}

    quantization = {"quant_method": "fp8", "weight_block_size": [side, side], "activation_scheme": "dynamic"}
    publish(tmp_path, name, quantize, quantization, **sizes)
    reference = dequantized_reference(tmp_path, dequantized)
    ids = random_ids(40)
    with torch.no_grad():
        expected = reference(torch.tensor([ids])).logits[0].numpy()
    for options in ({"kv_format": "f32"}, {"executor": "torch"}):
        with freehold.load(tmp_path, threads=2, **options) as model:
            assert model.info["quantization"]["self_attn.o_proj"].keys() == {f"FP8_{side}"}
            assert_close(model.logits(ids), expected)


def dequantized_reference(folder, values):
    """The model that transformers loads when the quantized weights of the folder are `values`."""
    plain = folder / "plain"
    plain.mkdir()
    tensors = load_file(folder / "model.safetensors")
    kept = {name: value for name, value in tensors.items() if "_scale" not in name} | values
    save_file(kept, plain / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    del config["quantization_config"]
    (plain / "config.json").write_text(json.dumps(config))
    return transformers.AutoModelForCausalLM.from_pretrained(plain, dtype=torch.float32).eval()


def quantize_mxfp4(name, value):
    if not name.endswith(("gate_up_proj", "down_proj")):
        return None
    generator = torch.Generator().manual_seed(len(name))
    experts, inputs, outputs = value.shape
    blocks = torch.randint(0, 256, (experts, outputs, inputs // 32, 16), dtype=torch.uint8, generator=generator)
    scales = torch.randint(121, 125, blocks.shape[:3], dtype=torch.uint8, generator=generator)
    return {f"{name}_blocks": blocks, f"{name}_scales": scales}


def test_a_model_in_mxfp4(tmp_path):
    sizes = dict(hidden_size=64, intermediate_size=96, num_hidden_layers=2)
    publish(tmp_path, "gpt_oss", quantize_mxfp4, {"quant_method": "mxfp4"}, **sizes)
    reference = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, quantization_config=transformers.Mxfp4Config(dequantize=True), dtype=torch.float32
    ).eval()
    ids = random_ids(40)
    with torch.no_grad():
        expected = reference(torch.tensor([ids])).logits[0].numpy()
    for options in ({"executor": "torch"}, {"dtype": "float32"}):
        try:
            model = freehold.load(tmp_path, threads=2, **options)
        except UnsupportedError as error:
            assert options != {"executor": "torch"}
            pytest.skip(str(error))
        with model:
            assert model.info["quantization"]["mlp.experts.up_proj"] == {"MXFP4": 2}
            assert_close(model.logits(ids), expected)


def quantize_gptq(name, value):
    if "_proj." not in name:
        return None
    groups = value.reshape(value.shape[0], -1, 32)
    scales = (groups.amax(-1) - groups.amin(-1)).div(15).half()
    zeros = (-groups.amin(-1) / scales).round().clamp(1, 15)
    codes = (groups / scales[..., None] + zeros[..., None]).round().clamp(0, 15).reshape(value.shape)
    place = name.removesuffix("weight")
    points = pack(zeros.long() - 1).T if zeros.shape[0] % 8 == 0 else None
    return {f"{place}qweight": pack(codes.T.long()), f"{place}qzeros": points, f"{place}scales": scales.T}


def test_a_model_in_int4(tmp_path):
    """All three ways to run it agree: int8 rows by integer products, float32, torch."""
    publish(
        tmp_path,
        "llama",
        lambda name, value: {k: v.contiguous() for k, v in (quantize_gptq(name, value) or {name: value}).items()},
        {"quant_method": "gptq", "bits": 4, "group_size": 32},
        **WIDE,
    )
    ids = random_ids(40)
    logits = {}
    for name, options in {
        "torch": {"executor": "torch"},
        "float32": {"dtype": "float32"},
        "native": {},
    }.items():
        with freehold.load(tmp_path, threads=2, **options) as model:
            assert model.info["quantization"]["mlp.up_proj"] == {"INT4_F16": 2}
            logits[name] = model.logits(ids)
    assert_close(logits["float32"], logits["torch"])
    difference = logits["native"] - logits["torch"]
    assert (difference**2).mean() <= 5e-3 * (logits["torch"] ** 2).mean()
