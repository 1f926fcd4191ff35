"""Configs and vocabularies of any values at all: an examination says what it can and never falls over."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from freehold.inspection.artefacts import Artefacts
from freehold.inspection.cost import examine as cost
from freehold.inspection.trust import examine as trust
from freehold.inspection.trust.bom import bill_of_materials

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 70), 1 << 70) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
KEYS = {
    "config.json": ["architectures", "auto_map", "model_type", "text_config", "num_hidden_layers", "rope_scaling",
                    "quantization_config", "torch_dtype", "vocab_size", "layer_types", "_name_or_path"],
    "tokenizer.json": ["model", "added_tokens"],
    "tokenizer_config.json": ["chat_template", "added_tokens_decoder", "eos_token", "bos_token", "auto_map"],
    "model.safetensors.index.json": ["weight_map"],
    "chat_template.json": ["chat_template"],
}  # fmt: skip
LLAMA = {
    "model_type": "llama", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "vocab_size": 100,
    "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 64, "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0, "hidden_act": "silu", "tie_word_embeddings": True,
}  # fmt: skip


@pytest.mark.parametrize("name", KEYS)
@given(data=st.data())
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_values_are_survived(tmp_path, monkeypatch, name, data):
    monkeypatch.setenv("FREEHOLD_HOME", str(tmp_path / "home"))
    folder = tmp_path / "m"
    folder.mkdir(exist_ok=True)
    base = LLAMA if name == "config.json" else {}
    changes = data.draw(st.dictionaries(st.sampled_from(KEYS[name]), VALUES, min_size=1))
    (folder / name).write_text(json.dumps(base | changes))
    artefacts = Artefacts(folder)
    json.dumps(trust(artefacts, hash_files=False).to_dict())
    report = cost(artefacts)
    report.section()
    json.dumps(report.to_dict())
    bill_of_materials(artefacts, "cyclonedx")


def test_a_billion_layers(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(LLAMA | {"num_hidden_layers": 1 << 30}))
    assert cost(Artefacts(tmp_path)).verdict == "not known: 1073741824 layers: expected at most 4096"
