"""`freehold new-architecture`: what it writes runs at once, and says what the model still lacks."""

import importlib.util
import runpy
import shutil
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

pytest.importorskip("torch", reason="torch is needed for the reference")
pytest.importorskip("transformers", reason="transformers is the reference")

from freehold.cli.new_architecture import command
from freehold.errors import FreeholdError
from freehold.models.registry import MODELS
from parity.cases import CASES
from parity.reference import assert_close, make_pair, random_ids, run

ROOT = Path(__file__).parents[2]
REGISTRY, TABLE = "src/freehold/models/registry.py", "tests/parity/cases.py"


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    for name in (REGISTRY, TABLE):
        (tmp_path / name).parent.mkdir(parents=True)
        shutil.copy(ROOT / name, tmp_path / name)
    monkeypatch.chdir(tmp_path / "tests")
    return tmp_path


def call(*arguments):
    return CliRunner().invoke(command, arguments, catch_exceptions=False).output


def begun(name, checkout, monkeypatch):
    """The pair of the case that was written, of the model file that was written."""
    registry, cases = (runpy.run_path(str(checkout / path)) for path in (REGISTRY, TABLE))
    monkeypatch.setitem(CASES, name, cases["CASES"][name])
    monkeypatch.setitem(MODELS, name, registry["MODELS"][name])
    spec = importlib.util.spec_from_file_location(
        f"freehold.models.{name}", checkout / f"src/freehold/models/{name}.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setitem(sys.modules, spec.name, module)
    return make_pair(name, checkout / name)


def test_one_that_is_its_sibling_passes_as_it_is(checkout, monkeypatch):
    output = call("seed_oss")
    assert "src/freehold/models/seed_oss.py: llama so far; write what differs\n" in output
    assert "a case that sets attention_bias, attention_out_bias, mlp_bias\n" in output
    assert output.endswith("next: pytest tests/parity -k seed_oss\n")
    pair, ids = begun("seed_oss", checkout, monkeypatch), random_ids(20)
    for kind in ("native", "torch"):
        assert_close(run(pair.executor(kind), [(ids, 0, [5, 3])]), pair.logits(ids))


def test_one_that_is_not_fails_by_its_logits(checkout, monkeypatch):
    call("granite")
    pair, ids = begun("granite", checkout, monkeypatch), random_ids(20)
    with pytest.raises(AssertionError):
        assert_close(run(pair.executor("torch"), [(ids, 0, [5, 3])]), pair.logits(ids))


def test_one_that_is_not_fails_by_its_parameters(checkout, monkeypatch):
    output = call("olmo3", "--like", "qwen3")
    assert "a case that sets sliding_window, attention_bias, layer_types\n" in output
    with pytest.raises(FreeholdError) as error:
        begun("olmo3", checkout, monkeypatch)
    assert str(error.value) == "model.layers.0.input_layernorm.weight: missing from the file's tensors"


def test_rows_stand_in_their_places_and_fields_that_matter_are_named(checkout):
    assert "leaves alone: norm_epsilon\n" in call("starcoder2")
    rows = list(runpy.run_path(str(checkout / REGISTRY))["MODELS"])
    assert rows == sorted(rows)
    assert rows == sorted([*MODELS, "starcoder2"])


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (("Granite-4",), "'Granite-4': expected small letters, digits and underscores", "a name is a model_type"),
        (("olmo2",), "olmo2: is here already", "see src/freehold/models/olmo2.py"),
        (("qwen2_moe",), "qwen2_moe: is here already", "see src/freehold/models/qwen_moe.py"),
        (("rope",), "rope: is here already", "see src/freehold/models/rope.py"),
        (("granite", "--like", "lama"), "--like lama: no such architecture", "there are: deepseek_v2, deepseek_v3, "),
        (("clip",), "clip: transformers has no language model of this model_type", "without a reference there is"),
        (("gpt9",), "gpt9: transformers has no language model of this model_type", "without a reference there is"),
    ],
)
def test_what_cannot_be_begun(checkout, arguments, message, hint):
    if arguments == ("rope",):
        shutil.copy(ROOT / "src/freehold/models/rope.py", checkout / "src/freehold/models/rope.py")
    before = sorted(path.read_bytes() for path in checkout.rglob("*.py"))
    with pytest.raises(FreeholdError) as error:
        call(*arguments)
    assert error.value.message == message
    assert error.value.hint.startswith(hint)
    assert sorted(path.read_bytes() for path in checkout.rglob("*.py")) == before


def test_outside_a_checkout(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FreeholdError) as error:
        call("granite")
    assert error.value.message == f"{tmp_path}: expected a checkout of Freehold ({REGISTRY}, {TABLE})"
    assert error.value.hint == "clone the repository and run this in it"
