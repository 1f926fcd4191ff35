"""What a model costs, against what is publicly known of the labs' models; cards are our own paraphrase."""

import json
import os
from pathlib import Path

import pytest

from freehold.inspection.artefacts import Artefacts
from freehold.inspection.card import parse_card
from freehold.inspection.cost import Rates, examine
from freehold.inspection.cost.measure import Energy, Measured, measure
from freehold.inspection.cost.prices import ListPrice, canonical, list_prices, prices_of
from freehold.inspection.cost.shapes import shape_of
from freehold.inspection.cost.training import Claim, training_of
from freehold.inspection.findings import Evidence, Status
from freehold.models.registry import model_class

COMMON = {"rms_norm_eps": 1e-6, "rope_theta": 500000.0, "hidden_act": "silu", "tie_word_embeddings": False}
DEEPSEEK = COMMON | {
    "model_type": "deepseek_v3", "hidden_size": 7168, "intermediate_size": 18432, "moe_intermediate_size": 2048,
    "num_hidden_layers": 61, "num_attention_heads": 128, "num_key_value_heads": 128, "n_shared_experts": 1,
    "n_routed_experts": 256, "num_experts_per_tok": 8, "n_group": 8, "topk_group": 4, "first_k_dense_replace": 3,
    "kv_lora_rank": 512, "q_lora_rank": 1536, "qk_rope_head_dim": 64, "qk_nope_head_dim": 128, "v_head_dim": 128,
    "vocab_size": 129280, "max_position_embeddings": 163840, "quantization_config": {"quant_method": "fp8"},
}  # fmt: skip
KIMI = DEEPSEEK | {
    "model_type": "kimi_k2", "num_attention_heads": 64, "n_routed_experts": 384, "n_group": 1, "topk_group": 1,
    "first_k_dense_replace": 1, "vocab_size": 163840,
}  # fmt: skip
LLAMA_405B = COMMON | {
    "model_type": "llama", "hidden_size": 16384, "intermediate_size": 53248, "num_hidden_layers": 126,
    "num_attention_heads": 128, "num_key_value_heads": 8, "vocab_size": 128256, "max_position_embeddings": 131072,
    "torch_dtype": "bfloat16",
}  # fmt: skip
GPT_OSS = COMMON | {
    "model_type": "gpt_oss", "hidden_size": 2880, "intermediate_size": 2880, "num_hidden_layers": 36,
    "num_attention_heads": 64, "num_key_value_heads": 8, "head_dim": 64, "num_local_experts": 128,
    "num_experts_per_tok": 4, "vocab_size": 201088, "max_position_embeddings": 131072, "attention_bias": True,
    "sliding_window": 128, "layer_types": ["sliding_attention", "full_attention"] * 18, "swiglu_limit": 7.0,
}  # fmt: skip
QWEN_235B = COMMON | {
    "model_type": "qwen3_moe", "hidden_size": 4096, "intermediate_size": 12288, "moe_intermediate_size": 1536,
    "num_hidden_layers": 94, "num_attention_heads": 64, "num_key_value_heads": 4, "head_dim": 128,
    "num_experts": 128, "num_experts_per_tok": 8, "norm_topk_prob": True, "vocab_size": 151936,
    "max_position_embeddings": 40960,
}  # fmt: skip
OLMO_7B = COMMON | {
    "model_type": "olmo2", "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 32, "vocab_size": 100352, "max_position_embeddings": 4096,
}  # fmt: skip
OLMO_13B = OLMO_7B | {
    "hidden_size": 5120,
    "intermediate_size": 13824,
    "num_hidden_layers": 40,
    "num_attention_heads": 40,
    "num_key_value_heads": 40,
}
QWEN_NEXT = COMMON | {
    "model_type": "qwen3_next", "hidden_size": 2048, "intermediate_size": 5120, "moe_intermediate_size": 512,
    "num_hidden_layers": 48, "num_attention_heads": 16, "num_key_value_heads": 2, "head_dim": 256, "num_experts": 512,
    "num_experts_per_tok": 10, "shared_expert_intermediate_size": 512, "norm_topk_prob": True, "vocab_size": 151936,
    "max_position_embeddings": 262144, "full_attention_interval": 4, "linear_num_value_heads": 32,
    "linear_num_key_heads": 16, "linear_key_head_dim": 128, "linear_value_head_dim": 128, "linear_conv_kernel_dim": 4,
}  # fmt: skip


def shape(config):
    return shape_of(model_class(config["model_type"]).from_config(config))


# As the labs' cards and reports have them: total and active, in billions.
@pytest.mark.parametrize(
    ("config", "total", "active"),
    [
        (DEEPSEEK, 671, 37),
        (KIMI, 1026, 32),
        (LLAMA_405B, 406, 404),
        (GPT_OSS, 116.83, 5.13),  # the card's two decimals; it counts no input table either
        (QWEN_235B, 235, 22),
        (OLMO_7B, 7.3, 6.9),
        (QWEN_NEXT, 80, 3.6),
    ],
)
def test_parameters_are_those_that_the_labs_publish(config, total, active):
    assert shape(config).total / 1e9 == pytest.approx(total, rel=0.01)
    assert shape(config).active / 1e9 == pytest.approx(active, rel=0.02)


@pytest.mark.parametrize(
    ("config", "kilobytes"),
    [(DEEPSEEK, 70.272), (LLAMA_405B, 516.096), (QWEN_235B, 192.512)],  # DeepSeek-V3's own comparison, table 1
)
def test_cache_of_a_token(config, kilobytes):
    assert shape(config).cache_bytes_per_token == kilobytes * 1000


def test_windows_and_states_bound_the_cache():
    gpt_oss = shape(GPT_OSS)
    full, windowed = 18 * 1024 * 2 * 100_000, 18 * 1024 * 2 * 128
    assert gpt_oss.cache_bytes(100_000) == full + windowed
    qwen = shape(QWEN_NEXT)
    assert qwen.cache_bytes_per_token == 12 * 2 * 2 * 256 * 2  # one layer in four attends
    states = 36 * (32 * 128 * 128 + 3 * (2 * 16 * 128 + 32 * 128))
    assert qwen.state_bytes == 4 * states


def test_operations_grow_with_the_context_where_a_layer_sees_it():
    llama = shape(LLAMA_405B)
    assert llama.flops_per_token(0) == 2 * llama.active
    assert llama.flops_per_token(1000) - llama.flops_per_token(0) == 126 * 4 * 128 * 128 * 1000
    gpt_oss = shape(GPT_OSS)
    per_key = 4 * 64 * 64
    assert gpt_oss.flops_per_token(1000) - gpt_oss.flops_per_token(0) == 18 * per_key * (1000 + 128)


def folder(tmp_path, config, card="", name="m"):
    path = tmp_path / name
    path.mkdir()
    (path / "config.json").write_text(json.dumps(config))
    (path / "README.md").write_text(card)
    return Artefacts(path)


def rows(report):
    return {row.label: row for row in report.section().rows}


DEEPSEEK_CARD = """# DeepSeek-V3

A mixture of experts of 671B parameters, 37B of them activated for a token.
It was pre-trained on 14.8 trillion diverse and high-quality tokens.
The whole training took 2.788M H800 GPU hours, of which pre-training took 2.664M H800 GPU hours.
"""


def test_the_training_of_deepseek_v3(tmp_path):
    report = examine(folder(tmp_path, DEEPSEEK, DEEPSEEK_CARD))
    training = report.to_dict()["training"]
    assert training["flops"] == pytest.approx(3.3e24, rel=0.02)
    assert training["hours"] == {
        "value": 2.788e6, "file": "README.md", "place": "line 5",
        "quote": "The whole training took 2.788M H800 GPU hours, of which pre-training took 2.664M H800 GPU hours.",
    }  # fmt: skip
    assert training["usd"] == pytest.approx(5.576e6)  # the famous figure
    assert training["utilisation"] == pytest.approx(0.33, abs=0.01)
    assert rows(report)["Utilisation"].status is Status.GOOD
    notes = " ".join(report.section().notes)
    for left_out in ("failed", "ablations", "data", "people"):
        assert left_out in notes


def test_the_row_of_the_same_size_counts(tmp_path):
    card = """Pre-trained on some 15.6 trillion tokens. In all 39.3M GPU hours were spent on H100-80GB hardware.

| Model | Training time (GPU hours) | Power (W) |
| --- | --- | --- |
| Llama 3.1 8B | 1.46M | 700 |
| Llama 3.1 405B | 30.84M | 700 |
"""
    training = examine(folder(tmp_path, LLAMA_405B, card)).to_dict()["training"]
    assert training["flops"] == pytest.approx(3.8e25, rel=0.02)  # as its report says
    assert (training["hours"]["value"], training["hours"]["place"]) == (30.84e6, "line 6")
    assert training["is_plausible"]


@pytest.mark.parametrize(("config", "tokens", "flops"), [(OLMO_7B, 4.05, 1.8e23), (OLMO_13B, 5.6, 4.6e23)])
def test_olmo_2_without_hours(tmp_path, config, tokens, flops):
    card = """Two models trained on up to 5.6T tokens.

| Size | Training Tokens | Layers |
| --- | --- | --- |
| OLMo 2 7B | 4.05 Trillion | 32 |
| OLMo 2 13B | 5.6 Trillion | 40 |
"""
    report = examine(folder(tmp_path, config, card))
    training = report.to_dict()["training"]
    assert training["tokens"]["value"] == tokens * 1e12
    assert training["flops"] == pytest.approx(flops, rel=0.09)  # its report counts the table of inputs too
    assert training["utilisation"] is None
    assert "an estimate" in rows(report)["Training hours"].value
    assert rows(report)["Training hours"].status is Status.UNKNOWN


@pytest.mark.parametrize(
    ("hours", "why"), [("40M", "hold more than this training"), ("200K", "more than trainings reach")]
)
def test_figures_that_do_not_fit_are_flagged(tmp_path, hours, why):
    card = f"Trained on 14.8T tokens in {hours} H800 GPU hours."
    row = rows(examine(folder(tmp_path, DEEPSEEK, card)))["Utilisation"]
    assert row.status is Status.BAD
    assert why in row.value


@pytest.mark.parametrize(
    ("said", "hours", "machine"),
    [
        ("It was trained on 256 H100 GPUs for 14 days.", 256 * 14 * 24, "H100"),
        ("Training ran for 3 weeks on 1,024 A100-80GB.", 1024 * 21 * 24, "A100"),
        ("We trained it within 921,600 A100 hours.", 921600, "A100"),
        ("Training: 1.7 million TPU v4 chip-hours.", 1.7e6, "TPU v4"),
        ("We used 10,000 hours of speech to train.", None, None),
    ],
)
def test_hours_as_cards_state_them(said, hours, machine):
    training = training_of(parse_card("README.md", said), None)
    assert (training.hours.value if training.hours else None) == hours
    assert (training.accelerator.name if training.accelerator else None) == machine


@pytest.mark.parametrize(
    ("said", "parameters", "tokens"),
    [
        ("The model has 32B activated parameters and was trained on 15.5T tokens.", 32e9, 15.5e12),
        ("Activated parameters: 3.3B. Pre-training used 36 trillion tokens.", 3.3e9, 36e12),
        ("A model of 1.7 billion parameters, trained on 11T+ tokens of text.", 1.7e9, 11e12),
        ("A context of 128K tokens.", None, None),
    ],
)
def test_what_a_card_says_where_shapes_do_not(said, parameters, tokens):
    training = training_of(parse_card("README.md", said), None)
    assert (training.parameters.value if training.parameters else None) == parameters
    assert (training.tokens.value if training.tokens else None) == tokens


def test_shapes_count_more_than_the_card():
    known = Claim(7e9, Evidence("config.json", "architecture"))
    assert training_of(parse_card("README.md", "A model of 70 billion parameters."), known).parameters == known


def test_a_hostile_card_takes_no_time():
    training_of(parse_card("README.md", "1," * 60000 + " hours\n" + "train 1 b " * 10000 + "|" * 20000), None)


def test_bytes_are_as_config_declares_them(tmp_path):
    fp8, bf16, silent = (
        examine(folder(tmp_path, config, name=name))
        for name, config in (("a", DEEPSEEK), ("b", LLAMA_405B), ("c", QWEN_235B))
    )
    assert fp8.sizes.weights_bytes == fp8.sizes.shape.total
    assert bf16.sizes.weights_bytes == 2 * bf16.sizes.shape.total
    assert "config.json does not say" in " ".join(silent.section().notes)
    assert "671 B, of which 36.63 B for each token (8 of 256 experts)" in rows(fp8)["Parameters"].value


def test_weights_of_a_real_file(real_model):
    report = examine(Artefacts(real_model), context=1024)
    sizes = report.sizes
    assert sizes.bytes_assumed == ""
    assert 0.9 * real_model.stat().st_size < sizes.weights_bytes < real_model.stat().st_size
    assert sizes.read_bytes_per_token <= sizes.weights_bytes
    assert sizes.stored_values == sizes.shape.total
    from freehold.loading import describe

    told = describe(str(real_model), context=1024)
    assert told["parameters"] == sizes.stored_values
    # The report has 16 bits for each value; this executor keeps a scale of four bytes beside 64 of them.
    assert told["memory"]["kv_bytes_at_context"] == sizes.shape.cache_bytes(1024) * 33 // 32


def test_chosen_experts_alone_are_read(tmp_path):
    import numpy as np
    from safetensors.numpy import save_file

    config = COMMON | {
        "model_type": "qwen3_moe", "hidden_size": 32, "intermediate_size": 64, "moe_intermediate_size": 16,
        "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16, "num_experts": 8,
        "num_experts_per_tok": 2, "norm_topk_prob": True, "vocab_size": 100, "max_position_embeddings": 64,
    }  # fmt: skip
    artefacts = folder(tmp_path, config)
    shapes = dict(model_class("qwen3_moe").from_config(config).parameter_shapes())
    tensors = {}
    for name, size in shapes.items():
        if ".experts." in name:
            place, matrix = name.split(".experts.")
            tensors |= {f"{place}.experts.{e}.{matrix}": np.ones(size[1:], np.float16) for e in range(8)}
        else:
            tensors[name] = np.ones(size, np.float16)
    tensors["mtp.layers.0.weight"] = np.ones((32, 32), np.float16)
    save_file(tensors, artefacts.path / "model.safetensors")
    report = examine(Artefacts(artefacts.path))
    assert report.sizes.read_bytes_per_token == 2 * report.sizes.shape.active
    assert report.sizes.stored_values == report.sizes.shape.total + 32 * 32
    assert "1.024 k more are stored beside the language model" in rows(report)["Parameters"].value


def test_a_family_that_is_not_here_is_not_guessed(tmp_path):
    report = examine(folder(tmp_path, {"model_type": "mamba9000"}))
    assert rows(report)["Shapes"].status is Status.UNKNOWN
    assert "mamba9000" in report.verdict
    assert report.to_dict()["parameters"]["total"] is None


@pytest.mark.parametrize(
    "config", [{"model_type": []}, {"model_type": "llama"}, {"model_type": "llama", "text_config": 7}]
)
def test_a_damaged_config_is_said(tmp_path, config):
    assert rows(examine(folder(tmp_path, config)))["Shapes"].status is Status.UNKNOWN


def test_neither_config_nor_gguf(tmp_path):
    (tmp_path / "README.md").write_text("Hello.")
    assert rows(examine(Artefacts(tmp_path)))["Parameters"].status is Status.UNKNOWN


# Speed, energy, money.


def test_a_million_tokens_at_stated_rates(tmp_path):
    measured = Measured(100.0, 10.0, watts=36.0, is_estimate=True, threads=2, isa="avx2")
    rates = Rates(power_usd_per_kwh=0.5, machine_usd_per_hour=0.1)
    report = examine(folder(tmp_path, LLAMA_405B), measured=measured, rates=rates)
    hours = 1e6 / 10 / 3600
    assert report.running.hours == pytest.approx(hours)
    assert report.running.kwh == pytest.approx(1.0)
    assert report.running.usd == pytest.approx(0.5 + 0.1 * hours)
    assert "3.60 J a token at 36 W (an estimate)" in rows(report)["Energy"].value
    assert "at 0.50 $/kWh and 0.10 $/h" in rows(report)["A million tokens here"].value


def test_measured_on_a_real_model(smollm):
    measured = measure(smollm)
    assert measured.prefill_tokens_per_s > 0
    assert measured.decode_tokens_per_s > 0
    assert measured.joules_per_token > 0
    assert measured.threads >= 1
    assert measured.is_estimate == (
        not any(os.access(p, os.R_OK) for p in Path("/sys/class/powercap").glob("*/energy_uj"))
    )


def counter(root, name, value):
    package = root / name
    package.mkdir(exist_ok=True, parents=True)
    (package / "energy_uj").write_text(str(value))
    (package / "max_energy_range_uj").write_text("1000000000")
    return package


def test_energy_counters_add_up_and_wrap(tmp_path):
    times = iter([0.0, 2.0])
    counter(tmp_path, "intel-rapl:0", 5_000_000)
    counter(tmp_path, "intel-rapl:1", 999_000_000)
    counter(tmp_path, "intel-rapl:0:0", 1)  # a part of a package, counted in it already
    watch = Energy(tmp_path, lambda: next(times))
    begin = watch.read()
    counter(tmp_path, "intel-rapl:0", 35_000_000)
    counter(tmp_path, "intel-rapl:1", 9_000_000)
    counter(tmp_path, "intel-rapl:0:0", 900_000_000)
    assert watch.watts_since(begin) == pytest.approx((30 + 10) / 2)


def test_no_counter_is_no_measurement(tmp_path):
    watch = Energy(tmp_path)
    assert watch.watts_since(watch.read()) is None


# List prices.


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("deepseek-ai/DeepSeek-V3", "deepseek-v3"),
        ("meta-llama/Llama-3.1-405B-Instruct", "Meta-Llama-3.1-405B-Instruct-Turbo"),
        ("Kimi-K2.5", "accounts/fireworks/models/kimi-k2p5"),
        ("Qwen2.5-7B-Instruct-Q4_K_M", "qwen-2.5-7b-instruct"),
    ],
)
def test_one_name_however_written(ours, theirs):
    assert canonical(ours) == canonical(theirs)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Kimi-K2-Thinking", "kimi-k2"),
        ("DeepSeek-V3", "deepseek-v3.1"),
        ("Llama-3.1-8B", "llama-3.1-70b"),
        ("GLM-4.6", "glm-4.6v"),
    ],
)
def test_other_models_stay_others(one, other):
    assert canonical(one) != canonical(other)


def test_offers_of_a_model_are_listed(tmp_path):
    report = examine(folder(tmp_path, LLAMA_405B, name="Llama-3.1-405B-Instruct"))
    assert len({price.provider for price in report.hosted}) >= 2
    assert all(price.input > 0 and price.output > 0 for price in report.hosted)
    assert f"{len(report.hosted)} offers" in rows(report)["Hosted"].value
    assert rows(examine(folder(tmp_path, LLAMA_405B, name="my-own")))["Hosted"].status is Status.UNKNOWN


def test_free_and_batch_offers_do_not_count():
    offers = [
        ListPrice("P", "kimi-k2:free", 0.1, 0.1),
        ListPrice("P", "kimi-k2", 1, 2),
        ListPrice("Q", "x/kimi-k2", 1, 1),
    ]
    assert [price.provider for price in prices_of(["moonshotai/Kimi-K2-Instruct"], offers)] == ["Q", "P"]


def test_prices_are_those_of_the_published_list():
    data = Path(__file__).parents[2].parent / "shared" / "data" / "prices" / "genai_prices_data_slim.json"
    if not data.exists():
        pytest.skip(f"{data} is not here")
    published = {
        (provider["name"], model["id"]): (model["prices"]["input_mtok"], model["prices"]["output_mtok"])
        for provider in json.loads(data.read_text())
        for model in provider["models"]
        if isinstance(model["prices"], dict)
        and all(isinstance(model["prices"].get(k), int | float) for k in ("input_mtok", "output_mtok"))
    }
    ours = {(price.provider, price.model): (price.input, price.output) for price in list_prices()}
    both = published.keys() & ours.keys()
    assert len(both) > 300
    same = sum(published[key] == pytest.approx(ours[key]) for key in both)
    assert same > 0.85 * len(both)  # the package is newer than the list
