"""Every architecture gives the logits of transformers, in float32, on tiny random weights.

Every parameter is random, norms and biases too: with the usual initial values (ones, zeros) a wrong norm or a missing
bias would not show.
"""

import pytest

torch = pytest.importorskip("torch", reason="torch is needed for the reference")
transformers = pytest.importorskip("transformers", reason="transformers is the reference")

from freehold import _native  # noqa: E402
from freehold.engine.executor import Batch  # noqa: E402
from freehold.executors.native import NativeExecutor  # noqa: E402
from freehold.models.registry import check_parameters, model_class, named_parameters  # noqa: E402
from freehold.weights.checkpoint import Checkpoint  # noqa: E402

SIZES = dict(
    vocab_size=99,
    hidden_size=64,
    intermediate_size=112,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=32,
    max_position_embeddings=512,
    rms_norm_eps=1e-5,
)
LLAMA3_ROPE = dict(
    rope_type="llama3",
    rope_theta=10000.0,
    factor=4.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=64,
)
CASES = {
    "llama": ("llama", {}),
    "llama-tied": ("llama", dict(tie_word_embeddings=True)),
    "llama-one-kv-head": ("llama", dict(num_key_value_heads=1)),
    "llama-odd-heads": ("llama", dict(head_dim=24, num_attention_heads=2)),
    "llama-biases": ("llama", dict(attention_bias=False, mlp_bias=False, rms_norm_eps=1e-2)),
    "llama3-rope": ("llama", dict(rope_parameters=LLAMA3_ROPE)),
    "linear-rope": ("llama", dict(rope_parameters=dict(rope_type="linear", factor=3.0, rope_theta=500.0))),
    "qwen2": ("qwen2", {}),
    "qwen2-tied": ("qwen2", dict(tie_word_embeddings=True, rope_parameters=dict(rope_type="default", rope_theta=1e6))),
}
BLOCK = _native.KV_BLOCK


@pytest.fixture(scope="module", params=CASES)
def pair(request):
    """The reference model and our model with its parameters."""
    architecture, overrides = CASES[request.param]
    torch.manual_seed(3)
    config = transformers.AutoConfig.for_model(architecture, **(SIZES | overrides))
    reference = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()
    with torch.no_grad():
        for name, parameter in reference.named_parameters():
            offset = 1.0 if "norm" in name else 0.0
            parameter.copy_(offset + 0.2 * torch.randn_like(parameter))
    model = model_class(architecture).from_config(config.to_dict())
    arrays = {name: value.numpy() for name, value in reference.state_dict().items()}
    checkpoint = Checkpoint.from_arrays({}, arrays)
    check_parameters(model, named_parameters(model, checkpoint.tensors))
    return reference, model, checkpoint


def executor(pair, **options):
    _, model, checkpoint = pair
    return NativeExecutor(model, checkpoint, num_blocks=64, dtype="float32", threads=2, **options)


def reference_logits(pair, ids):
    with torch.no_grad():
        return pair[0](torch.tensor([ids])).logits[0].numpy()


def random_ids(count, seed=0):
    return torch.randint(0, SIZES["vocab_size"], (count,), generator=torch.Generator().manual_seed(seed)).tolist()


def run(native, rows):
    """One step of several requests: rows = [(tokens, first position, blocks)]; logits of every row."""
    batch = Batch([], [], [0], [], [])
    for tokens, position, blocks in rows:
        batch.tokens += tokens
        batch.positions += range(position, position + len(tokens))
        batch.row_starts.append(len(batch.tokens))
        batch.block_tables.append(blocks)
    batch.logit_rows += range(len(batch.tokens))
    native.run(batch)
    return native.logits()


def assert_close(ours, reference):
    scale = abs(reference).max()
    assert abs(ours - reference).max() <= 1e-4 * scale
    assert (ours.argmax(-1) == reference.argmax(-1)).mean() > 0.98


@pytest.mark.parametrize("fusing", [True, False])
def test_prefill(pair, fusing):
    ids = random_ids(60)
    assert_close(run(executor(pair, fusing=fusing), [(ids, 0, [5, 3])]), reference_logits(pair, ids))


def test_fusing_changes_no_bit(pair):
    ids = random_ids(40)
    fused, single = (run(executor(pair, fusing=fusing), [(ids, 0, [0, 1])]) for fusing in (True, False))
    assert (fused == single).all()


@pytest.mark.parametrize("chunk", [1, 7, 32])
def test_chunked_prefill_and_cached_decode(pair, chunk):
    native, ids = executor(pair), random_ids(300, seed=1)
    reference = reference_logits(pair, ids)
    blocks = list(range(20, 30))
    for start in range(0, len(ids), chunk):
        assert_close(run(native, [(ids[start : start + chunk], start, blocks)]), reference[start : start + chunk])


def test_batch_of_unequal_lengths(pair):
    native = executor(pair)
    prompts = [random_ids(n, seed=n) for n in (1, 5, 17, 33)]
    tables = [[0], [1], [2], [4, 3]]
    expected = [reference_logits(pair, [*ids, 7]) for ids in prompts]
    first = run(native, [(ids, 0, blocks) for ids, blocks in zip(prompts, tables, strict=True)])
    start = 0
    for ids, reference in zip(prompts, expected, strict=True):
        assert_close(first[start : start + len(ids)], reference[:-1])
        start += len(ids)
    second = run(native, [([7], len(ids), blocks) for ids, blocks in zip(prompts, tables, strict=True)])
    for row, reference in zip(second, expected, strict=True):
        assert_close(row[None], reference[-1:])
