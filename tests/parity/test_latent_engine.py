"""Latent attention through the engine: a prefix hit, chunks, neighbours and preemption change no bit."""

import pytest

torch = pytest.importorskip("torch", reason="torch is needed for the reference")
pytest.importorskip("transformers", reason="transformers is the reference")

from freehold.engine.engine import Engine  # noqa: E402
from freehold.executors.native import native_sampler  # noqa: E402
from parity.reference import drawn_replies, make_pair, random_ids  # noqa: E402


@pytest.fixture(scope="module", params=["deepseek_v3", "deepseek_v32", "glm_moe_dsa-shared"])
def pair(request, tmp_path_factory):
    return make_pair(request.param, tmp_path_factory.mktemp(request.param))


def engine_of(pair, **options):
    return Engine(pair.executor("native", **options), native_sampler, context=512)


def test_shared_prefixes_chunks_and_neighbours_change_no_bit(pair):
    common = random_ids(300)
    prompts = [common + random_ids(n, seed=n) for n in (90, 31, 1)] + [random_ids(5, seed=2)]
    alone = []
    for prompt in prompts:
        engine = engine_of(pair, threads=1)
        alone += drawn_replies(engine, [prompt], 12)[0]
        engine.close()
    engine = engine_of(pair, max_rows=70)
    assert drawn_replies(engine, prompts[:1], 12)[0] == alone[:1]
    together, cached = drawn_replies(engine, prompts, 12)
    engine.close()
    assert together == alone
    assert min(cached[:3]) >= 288 and cached[3] == 0


def test_preemption_changes_no_bit(pair):
    prompts = [random_ids(n, seed=n) for n in (250, 245, 252)]
    roomy, tight = engine_of(pair), engine_of(pair, num_blocks=17)
    expected = drawn_replies(roomy, prompts, 40)[0]
    assert drawn_replies(tight, prompts, 40)[0] == expected
    assert tight.stats().preemptions > 0
    roomy.close()
    tight.close()
