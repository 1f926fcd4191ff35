"""The torch executor through `load`, beside the native one; and what it refuses."""

import pytest

import freehold
from freehold.errors import FreeholdError
from freehold.executors.choice import choose

torch = pytest.importorskip("torch", reason="torch is the extra")


def test_gives_the_native_executors_logits(smollm):
    with freehold.load(str(smollm), dtype="float32", context=256) as native:
        tokens = native.tokenize("The capital of France is the city of")
        expected = native.logits(tokens)
    with freehold.load(str(smollm), executor="torch", context=256) as model:
        assert model.info["executor"] == "torch" and model.info["dtype"] == "float32"
        ours = model.logits(tokens)
        reply = model.generate(tokens, max_tokens=5, temperature=0)
        alone = reply.tokens
        together = model.generate_tokens([tokens, tokens[:3], tokens], max_tokens=5, temperature=0)
    assert abs(ours - expected).max() <= 1e-3 * abs(expected).max()
    assert (ours.argmax(-1) == expected.argmax(-1)).all()
    assert together[0].tokens == together[2].tokens == alone


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"executor": "jax"}, "executor 'jax': expected one of native, torch"),
        ({"executor": "native", "device": "cuda"}, "device 'cuda': the native executor runs on the CPU"),
        ({"executor": "torch", "device": "gpu7"}, "device 'gpu7': expected cpu, cuda or cuda:N"),
        ({"executor": "torch", "device": "cuda:99"}, "device 'cuda:99': torch "),
        ({"executor": "torch", "device": "meta"}, "device 'meta': expected cpu, cuda or cuda:N"),
        (
            {"executor": "torch", "kv_format": "int8"},
            "KV format 'int8': the torch executor keeps keys and values in its",
        ),
        ({"executor": "torch", "dtype": "float8"}, "dtype 'float8': expected one of float32, bfloat16, float16"),
    ],
)
def test_refusals(options, text):
    defaults = {"device": "cpu", "dtype": None, "threads": None, "kv_format": "int16"}
    with pytest.raises(FreeholdError) as error:
        choose(options["executor"], **(defaults | {k: v for k, v in options.items() if k != "executor"}))
    assert str(error.value).startswith(text)
