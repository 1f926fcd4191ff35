"""Every architecture gives the logits of transformers, in float32, on tiny random weights, on both executors."""

import pytest

torch = pytest.importorskip("torch", reason="torch is needed for the reference")
pytest.importorskip("transformers", reason="transformers is the reference")

from freehold.executors.torch import forward, load_parameters  # noqa: E402
from parity.cases import CASES  # noqa: E402
from parity.reference import Pair, assert_close, make_pair, random_ids, run  # noqa: E402


@pytest.fixture(scope="module", params=CASES)
def pair(request, tmp_path_factory) -> Pair:
    return make_pair(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(params=["torch", "native"])
def kind(request) -> str:
    return request.param


def test_prefill(pair, kind):
    ids = random_ids(60)
    assert_close(run(pair.executor(kind), [(ids, 0, [5, 3])]), pair.logits(ids))


def test_fusing_changes_no_bit(pair):
    ids = random_ids(40)
    fused, single = (run(pair.executor("native", fusing=fusing), [(ids, 0, [0, 1])]) for fusing in (True, False))
    assert (fused == single).all()
    assert_close(single, pair.logits(ids))


@pytest.mark.parametrize("chunk", [1, 7, 32])
def test_chunked_prefill_and_cached_decode(pair, kind, chunk):
    executor, ids = pair.executor(kind), random_ids(300 if kind == "native" else 100, seed=1)
    reference = pair.logits(ids)
    blocks = list(range(20, 30))
    for start in range(0, len(ids), chunk):
        logits = run(executor, [(ids[start : start + chunk], start, blocks)])
        assert_close(logits, reference[start : start + chunk])


def test_batch_of_unequal_lengths(pair, kind):
    executor = pair.executor(kind)
    prompts = [random_ids(n, seed=n) for n in (1, 5, 17, 33)]
    tables = [[0], [1], [2], [4, 3]]
    expected = [pair.logits([*ids, 7]) for ids in prompts]
    first = run(executor, [(ids, 0, blocks) for ids, blocks in zip(prompts, tables, strict=True)])
    start = 0
    for ids, reference in zip(prompts, expected, strict=True):
        assert_close(first[start : start + len(ids)], reference[:-1])
        start += len(ids)
    second = run(executor, [([7], len(ids), blocks) for ids, blocks in zip(prompts, tables, strict=True)])
    for row, reference in zip(second, expected, strict=True):
        assert_close(row[None], reference[-1:])


def test_gradients(pair):
    """The same forward trains: every parameter's gradient is the reference's."""
    sequences = [random_ids(n, seed=n) for n in (40, 9)]
    parameters = {
        name: value.clone().requires_grad_() for name, value in load_parameters(pair.model, pair.checkpoint).items()
    }
    logits = forward(pair.model, parameters, [torch.tensor(ids) for ids in sequences])
    weights = torch.randn(logits.shape, generator=torch.Generator().manual_seed(4))
    (logits * weights).sum().backward()
    pair.reference.zero_grad()
    expected = torch.cat([pair.reference(torch.tensor([ids])).logits[0] for ids in sequences])
    (expected * weights).sum().backward()
    theirs = {name: p.grad for name, p in pair.reference.named_parameters() if p.grad is not None}
    compared = 0
    for name, value in parameters.items():
        if name in theirs and theirs[name].shape == value.shape:  # not those that transformers stacks or we split
            assert value.grad is not None, name
            largest = theirs[name].abs().max()
            assert (value.grad - theirs[name]).abs().max() <= 1e-3 * largest + 1e-6, name
            compared += 1
    assert compared >= len(theirs) // 2
