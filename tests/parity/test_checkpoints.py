"""Models from a lab's config.json and from GGUF metadata: the same model, whichever file it comes from."""

import json
import re
from typing import Any

import gguf
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is needed for the reference")
pytest.importorskip("transformers", reason="transformers is the reference")

from freehold.errors import FreeholdError  # noqa: E402
from freehold.executors.torch import TorchExecutor  # noqa: E402
from freehold.models.deepseek_sparse import GlmSparse  # noqa: E402
from freehold.models.parameters import named_parameters  # noqa: E402
from freehold.models.registry import (  # noqa: E402
    GGUF_ARCHITECTURES,
    MODELS,
    model_class,
    model_for,
    model_from_config,
    unused_tensors,
)
from freehold.models.settings import ALIASES, GGUF_KEYS, Settings  # noqa: E402
from freehold.weights.checkpoint import Checkpoint  # noqa: E402
from freehold.weights.gguf import open_gguf  # noqa: E402
from parity.cases import CASES, SIZES  # noqa: E402
from parity.reference import Pair, assert_close, make_pair, random_ids, run  # noqa: E402

# Of the same class and shape as another model_type that has a case.
ALIKE = {"kimi_k2": "deepseek_v3", "minimax_m1": "minimax", "minimax_text_01": "minimax"}


def test_every_architecture_has_a_case():
    tested = {architecture for architecture, _ in CASES.values()}
    assert MODELS.keys() == tested | ALIKE.keys()
    assert {MODELS[name] for name in ALIKE} == {MODELS[name] for name in ALIKE.values()}
    assert set(GGUF_ARCHITECTURES.values()) <= MODELS.keys()


# A lab's folder.


@pytest.fixture(scope="module")
def qwen(tmp_path_factory) -> tuple[Pair, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("qwen3_5")
    pair = make_pair("qwen3_5", folder)
    return pair, json.loads((folder / "config.json").read_text())


def logits(model: Any, checkpoint: Checkpoint, ids: list[int]) -> Any:
    return run(TorchExecutor(model, checkpoint, num_blocks=8), [(ids, 0, [2, 1])])


@pytest.mark.parametrize("name", ["llama", "gpt_oss", "deepseek_v3", "kimi_linear", "minimax", "qwen3_next"])
def test_from_config_json_as_it_is_saved(name, tmp_path):
    pair, ids = make_pair(name, tmp_path), random_ids(20)
    model = model_from_config(json.loads((tmp_path / "config.json").read_text()), pair.checkpoint.tensors)
    assert model.config == pair.model.config
    assert_close(logits(model, pair.checkpoint, ids), pair.logits(ids))


@pytest.mark.parametrize("prefix", ["model.language_model.", "language_model.model."])
def test_the_language_model_of_a_wrapper(qwen, prefix):
    pair, config = qwen
    tensors = {name.replace("model.", prefix, 1): tensor for name, tensor in pair.checkpoint.tensors.items()}
    if prefix.startswith("language"):
        tensors["language_model.lm_head.weight"] = tensors.pop("lm_head.weight")
    tensors["model.visual.patch_embed.weight"] = tensors["mtp.layers.0.weight"] = next(iter(tensors.values()))
    wrapper = {"model_type": "qwen3_5", "vision_config": {"hidden_size": 7}, "text_config": config}
    model = model_from_config(wrapper, tensors)
    assert unused_tensors(model, tensors) == ["model.visual.patch_embed.weight", "mtp.layers.0.weight"]
    ids = random_ids(20)
    assert_close(logits(model, Checkpoint((), {}, tensors), ids), pair.logits(ids))


def test_a_missing_tie_is_read_from_the_tensors(tmp_path):
    pair = make_pair("llama-tied", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["tie_word_embeddings"]
    assert model_from_config(config, pair.checkpoint.tensors).config.tied_embeddings


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"model_type": None}, "model_type: expected a name in config.json, got None"),
        ({"model_type": "gpt2"}, "architecture 'gpt2': not supported yet"),
        ({"hidden_size": None}, "hidden_size: missing from config.json"),
        ({"num_hidden_layers": -1}, "num_hidden_layers: expected a positive integer, got -1"),
        ({"rms_norm_eps": "small"}, "rms_norm_eps: expected a number, got 'small'"),
        ({"attention_bias": "no"}, "attention_bias: expected true or false, got 'no'"),
        ({"hidden_act": "gelu"}, "hidden_act: expected 'silu', got 'gelu'"),
        (
            {"layer_types": ["full_attention"]},
            "layer_types: expected 3 entries, one for each layer, got",
        ),
        ({"rope_parameters": {"rope_type": "spiral"}}, "rope scaling 'spiral': not supported yet"),
        ({"rope_parameters": {"rope_type": "linear"}}, "rope_parameters.factor: missing from a linear rope"),
        ({"rope_parameters": ["default"]}, "rope_parameters: expected values by name, got ['default']"),
        (
            {"rope_parameters": {"rope_theta": "far"}},
            "rope_parameters: expected numbers that make a rope, got {'rope_theta'",
        ),
        (
            {"rope_parameters": {"rope_type": "linear", "factor": 0}},
            "rope_parameters: expected numbers that make a rope",
        ),
        ({"rope_parameters": {"partial_rotary_factor": 2}}, "partial_rotary_factor: expected a share of a head, got 2"),
        ({"rotary_dim": 40}, "rope: expected an even number of channels, 32 at most, got 40"),
        ({"head_dim": 28}, "model.layers.1.self_attn."),
        (
            {"num_hidden_layers": 4, "layer_types": None},
            "model.layers.1.linear_attn.in_proj_q.weight: missing from the file's",
        ),
    ],
)
def test_a_config_that_does_not_fit(qwen, change, text):
    pair, config = qwen
    with pytest.raises(FreeholdError) as error:
        model_from_config(config | change, pair.checkpoint.tensors)
    assert str(error.value).startswith(text)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"num_experts_per_tok": 12}, "num_experts_per_tok: 12 are more than there are to choose from"),
        ({"n_group": 5}, "16 experts: expected 5 equal groups, 2 of them chosen"),
    ],
)
def test_experts_that_do_not_fit(change, text, tmp_path):
    pair = make_pair("glm4_moe", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    with pytest.raises(FreeholdError) as error:
        model_from_config(config | change, pair.checkpoint.tensors)
    assert str(error.value) == text


def test_a_missing_expert_is_named(tmp_path):
    pair = make_pair("qwen3_moe", tmp_path)
    tensors = dict(pair.checkpoint.tensors)
    del tensors["model.layers.2.mlp.experts.5.up_proj.weight"]
    with pytest.raises(FreeholdError) as error:
        named_parameters(pair.model, tensors)
    assert str(error.value) == "model.layers.2.mlp.experts.up_proj.weight: expert 5 is missing from the file's tensors"


# GGUF. The names are those of the gguf package, the values' changes those that llama.cpp's converter makes.

ARCHITECTURES = {ours: name for name, ours in GGUF_ARCHITECTURES.items()}
ARCHITECTURES |= {"deepseek_v3": "deepseek2", "glm4_moe_lite": "deepseek2"}
KNOWN = {name: key for key, name in gguf.MODEL_ARCH_NAMES.items()}


@pytest.mark.parametrize("name", sorted(MODELS.keys() - ALIKE.keys()))
def test_gguf_names_are_those_of_the_gguf_package(name):
    architecture = ARCHITECTURES.get(name, name)
    if architecture not in KNOWN:
        pytest.skip(f"{architecture} is newer than the gguf package, or called llama there")
    known = gguf.get_tensor_name_map(KNOWN[architecture], 2)
    ours: dict[str, set[str]] = {}
    for gguf_name, published in model_class(name).gguf_names.items():
        stems = (re.sub(r"\.(weight|bias)$", "", text.format(i=1)) for text in (published, gguf_name))
        ours.setdefault(next(stems), set()).update(stems)
    theirs = {published: known.get_name(published) for published in ours}
    assert {published: stem for published, stem in theirs.items() if stem and stem not in ours[published]} == {}
    assert sum(stem is not None for stem in theirs.values()) >= 10


def write_gguf(pair: Pair, config: dict[str, Any], path: Any, **keys: Any) -> None:
    """A GGUF file of the model as llama.cpp's converter would make it, of float32 tensors."""
    architecture = ARCHITECTURES.get(config["model_type"], config["model_type"])
    writer = gguf.GGUFWriter(path, architecture)
    values = {
        key: config.get(name, next((config[a] for a in ALIASES.get(name, ()) if a in config), None))
        for key, name in GGUF_KEYS.items()
    }
    values["rope.freq_base"] = config["rope_parameters"]["rope_theta"]
    for key, value in (values | keys).items():
        add = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
        add[list] = writer.add_array
        if value is not None:
            add[type(value)](f"{architecture}.{key}", value)
    for name, array in gguf_arrays(pair).items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def gguf_arrays(pair: Pair) -> dict[str, Any]:
    """Published tensors, or those taken apart where GGUF has them so, by their GGUF names."""
    model, published = pair.model, {}
    for name, tensor in named_parameters(model, pair.checkpoint.tensors).items():
        published[name] = tensor.dequantize()
    for name, tensor in pair.checkpoint.tensors.items():
        published.setdefault(name, tensor.dequantize())
    names = {ours.format(i=i): name.format(i=i) for name, ours in model.gguf_names.items() for i in range(9)}
    arrays = {names[name]: array for name, array in published.items() if name in names}
    if model.permuted_in_gguf:  # rows i and i + half of a head come to lie side by side
        for name in [name for name in arrays if ".attn_q." in name or ".attn_k." in name]:
            rows = arrays[name]
            arrays[name] = (
                rows.reshape(-1, 2, model.config.head_dim // 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)
            )
    if getattr(model.config, "norm_offset", 0):
        for name in [name for name in arrays if "norm" in name and "ssm_norm" not in name]:
            arrays[name] = arrays[name] + 1
    for name in [name for name in arrays if name.endswith("ssm_a")]:
        arrays[name] = -np.exp(arrays[name])
    return {name: np.ascontiguousarray(array.squeeze() if "shexp" in name else array) for name, array in arrays.items()}


GGUF_CASES = {
    "llama": {},
    "llama-tied": {},
    "qwen2": {},
    "qwen3": {},
    "olmo2": {},
    "exaone4": {"attention.sliding_window_pattern": [True, False, True]},
    "glm4": {"rope.dimension_count": 16},
    "ernie4_5": {},
    "qwen2_moe": {},
    "qwen3_moe": {},
    "ernie4_5_moe": {},
    "glm4_moe": {"rope.dimension_count": 16, "nextn_predict_layers": 0},
    "gpt_oss-limit-of-7": {
        "rope.scaling.type": "yarn",
        "rope.scaling.factor": 4.0,
        "rope.scaling.original_context_length": 64,
        "expert_feed_forward_length": 112,
    },
    "minimax_m2": {"rope.dimension_count": 16, "expert_feed_forward_length": 48},
    "deepseek_v2": {"rope.dimension_count": 16, "attention.key_length_mla": 40, "expert_gating_func": 1},
    "deepseek_v3": {
        "rope.dimension_count": 16,
        "attention.key_length_mla": 40,
        "expert_gating_func": 2,
        "nextn_predict_layers": 0,
    },
    "glm_moe_dsa-shared": {
        "rope.dimension_count": 16,
        "attention.key_length_mla": 40,
        "attention.indexer.types": [True, False, True],
    },
}


@pytest.mark.parametrize("name", GGUF_CASES)
def test_a_gguf_file_gives_the_same_logits(name, tmp_path):
    pair = make_pair(name, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    write_gguf(pair, config, tmp_path / "m.gguf", **GGUF_CASES[name])
    checkpoint, ids = open_gguf(tmp_path / "m.gguf"), random_ids(40)
    assert_close(logits(model_for(checkpoint), checkpoint, ids), pair.logits(ids))


def test_a_gguf_file_that_says_nothing_of_indexers_has_those_of_llama_cpps_table():
    values = {"num_hidden_layers": 12, "max_position_embeddings": 1 << 20}
    assert list(GlmSparse.layers_with_indexer(Settings(values, {}))) == [0, 1, 2, 6, 10]
    assert list(GlmSparse.layers_with_indexer(Settings(values))) == list(range(12))
    values["max_position_embeddings"] = 202752
    assert list(GlmSparse.layers_with_indexer(Settings(values, {}))) == list(range(12))


def test_sizes_are_named_as_the_gguf_file_does(tmp_path):
    pair = make_pair("llama", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    write_gguf(pair, {**config, "num_hidden_layers": None}, tmp_path / "m.gguf")
    with pytest.raises(FreeholdError) as error:
        model_for(open_gguf(tmp_path / "m.gguf"))
    assert str(error.value) == "llama.block_count: missing from the file's metadata"
    assert SIZES["num_hidden_layers"] == 3
