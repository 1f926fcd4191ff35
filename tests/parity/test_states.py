"""Models that keep a state through the engine: shared prefixes, chunks, neighbours and preemption change no token."""

import pytest

torch = pytest.importorskip("torch", reason="torch is needed for the reference")
pytest.importorskip("transformers", reason="transformers is the reference")

from freehold.engine.engine import Engine  # noqa: E402
from freehold.executors.native import native_sampler  # noqa: E402
from parity.reference import drawn_replies, make_pair, random_ids  # noqa: E402


@pytest.fixture(scope="module", params=["qwen3_next", "kimi_linear", "minimax"])
def pair(request, tmp_path_factory):
    return make_pair(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(params=["torch", "native"])
def kind(request):
    return request.param


def engine_of(pair, kind, num_blocks=12):
    executor = pair.executor(kind, num_blocks=num_blocks, max_rows=200)
    assert executor.keeps_states and executor.block_size == 256
    return Engine(executor, native_sampler, context=4 * 256)


def replies(engine, prompts, count):
    """Tokens of each prompt's greedy reply, all submitted at once; and how many of the prompt came from the cache."""
    drawn, cached = drawn_replies(engine, prompts, count)
    return [[token for token, _ in reply] for reply in drawn], cached


def test_shared_prefixes_and_neighbours_change_no_token(pair, kind):
    common = random_ids(540)
    prompts = [common + random_ids(n, seed=n) for n in (250, 31, 1)] + [random_ids(5, seed=2)]
    alone = []
    for prompt in prompts:
        engine = engine_of(pair, kind)
        alone += replies(engine, [prompt], 12)[0]
        engine.close()
    engine = engine_of(pair, kind)
    assert replies(engine, prompts[:1], 12)[0] == alone[:1]
    together, cached = replies(engine, prompts, 12)
    engine.close()
    assert together == alone
    assert cached[1] == cached[2] == 512  # whole blocks only


def test_preemption_changes_no_token(pair, kind):
    prompts = [random_ids(n, seed=n) for n in (250, 245, 252)]
    roomy, tight = engine_of(pair, kind), engine_of(pair, kind, 5)
    expected = replies(roomy, prompts, 20)[0]
    assert replies(tight, prompts, 20)[0] == expected
    roomy.close()
    tight.close()
