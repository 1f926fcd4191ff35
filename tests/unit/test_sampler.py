"""The native sampler against plain float64 definitions."""

import math

import numpy
import pytest
from freehold._native import Sampler, supported_isas

SIZES = [1, 15, 16, 17, 1000, 1025, 49_152]
BELOW = -math.inf


def logits_of(size: int, seed: int = 0, scale: float = 3.0) -> numpy.ndarray:
    return numpy.random.default_rng(seed).normal(0, scale, size).astype(numpy.float32)


def log_softmax(logits: numpy.ndarray) -> numpy.ndarray:
    x = logits.astype(numpy.float64)
    x = x - x.max()
    return x - math.log(numpy.exp(x).sum())


def draws(logits: numpy.ndarray, count: int, **options) -> list[int]:
    sampler = Sampler(**options)
    return [sampler.sample(logits)[0] for _ in range(count)]


@pytest.mark.parametrize("size", SIZES)
def test_greedy_takes_the_maximum_and_reports_the_true_logprob(size):
    logits = logits_of(size)
    token, logprob, top = Sampler(temperature=0).sample(logits)
    assert token == logits.argmax()
    assert logprob == pytest.approx(log_softmax(logits)[token], abs=2e-5)
    assert top == []


def test_greedy_takes_the_first_of_equals():
    logits = numpy.zeros(100, numpy.float32)
    logits[[31, 64, 99]] = 5
    assert draws(logits, 3, temperature=0) == [31, 31, 31]


@pytest.mark.parametrize("size", SIZES)
def test_top_logprobs_are_the_likeliest_in_falling_order(size):
    logits = logits_of(size, seed=1)
    _, _, top = Sampler(num_logprobs=20, temperature=1.5, top_k=3, logit_bias=[(0, -50.0)]).sample(logits)
    expected = numpy.argsort(-logits, kind="stable")[:20]
    assert [token for token, _ in top] == expected.tolist()
    assert [logprob for _, logprob in top] == pytest.approx(log_softmax(logits)[expected], abs=2e-5)


def test_logprob_is_of_the_raw_logits_whatever_changes_the_draw():
    logits = logits_of(500, seed=2)
    token, logprob, _ = Sampler(
        temperature=0.3, top_p=0.5, repetition_penalty=1.7, logit_bias=[(7, 100.0)], prompt=[1, 2]
    ).sample(logits)
    assert token == 7
    assert logprob == pytest.approx(log_softmax(logits)[7], abs=2e-5)


def allowed(logits: numpy.ndarray, temperature: float, top_k: int, top_p: float, min_p: float) -> set[int]:
    """Tokens that top-k, then top-p of what is left, then min-p leave; float64."""
    order = numpy.argsort(-logits, kind="stable")
    weights = numpy.exp((logits[order].astype(numpy.float64) - float(logits.max())) / temperature)
    if top_k:
        order, weights = order[:top_k], weights[:top_k]
    before = numpy.cumsum(weights) - weights
    keep = (before < top_p * weights.sum()) & (weights >= min_p)
    keep[0] = True
    return set(order[keep].tolist())


@pytest.mark.parametrize(
    "options",
    [
        dict(top_k=1),
        dict(top_k=7),
        dict(top_p=0.3),
        dict(top_p=0.9),
        dict(min_p=0.2),
        dict(top_k=30, top_p=0.8),
        dict(top_p=0.95, min_p=0.05),
        dict(top_k=20, top_p=0.9, min_p=0.1),
    ],
    ids=str,
)
@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
def test_truncation_draws_from_exactly_the_tokens_it_leaves(options, temperature):
    logits = logits_of(60, seed=3, scale=1.5)
    full = dict(top_k=0, top_p=1.0, min_p=0.0) | options
    expected = allowed(logits, temperature, **full)
    got = draws(logits, 3000, temperature=temperature, seed=4, **options)
    assert set(got) <= expected
    weights = {token: math.exp(float(logits[token]) / temperature) for token in expected}
    likely = {token for token, w in weights.items() if w > 0.01 * sum(weights.values())}
    assert likely <= set(got)


@pytest.mark.parametrize("options", [{}, dict(top_p=0.999), dict(top_k=3000)], ids=str)
def test_draws_follow_the_distribution(options):
    logits = numpy.full(3000, -20, numpy.float32)  # three of the vocabulary's chunks
    logits[[5, 1500, 2999]] = [0.0, 1.0, 2.0]
    counts = numpy.bincount(draws(logits, 20_000, seed=9, **options), minlength=3000)[[5, 1500, 2999]]
    expected = numpy.exp([0.0, 1.0, 2.0]) / numpy.exp([0.0, 1.0, 2.0]).sum()
    assert counts / 20_000 == pytest.approx(expected, abs=0.015)


def test_a_draw_depends_on_the_seed_and_its_index_alone():
    logits = logits_of(1000, seed=5)
    first = draws(logits, 50, seed=11)
    assert draws(logits, 50, seed=11) == first
    assert draws(logits, 50, seed=12) != first
    a, b = Sampler(seed=11), Sampler(seed=12)  # interleaved with another, as in a batch
    interleaved = []
    for _ in range(50):
        interleaved.append(a.sample(logits)[0])
        b.sample(logits)
    assert interleaved == first


def test_penalties():
    logits = numpy.array([4.0, 3.0, 2.0, -1.0, -3.0], numpy.float32)
    # Repetition divides a positive logit and multiplies a negative one, for tokens of the prompt and of the reply.
    assert draws(logits, 3, temperature=0, repetition_penalty=2.5, prompt=[0, 0]) == [1, 2, 0]
    assert draws(logits, 2, temperature=0, repetition_penalty=1.2, prompt=[3]) == [0, 0]
    # Presence is paid once, frequency each time, for tokens of the reply only.
    assert draws(logits, 4, temperature=0, presence_penalty=1.5, prompt=[0]) == [0, 1, 0, 0]
    assert draws(logits, 5, temperature=0, frequency_penalty=0.75) == [0, 0, 1, 0, 1]


def test_bias_comes_before_everything_else():
    logits = logits_of(200, seed=6)
    assert draws(logits, 1, temperature=0, logit_bias=[(13, 100.0)]) == [13]
    assert draws(logits, 20, top_k=1, logit_bias=[(13, 100.0)]) == [13] * 20
    best = int(logits.argmax())
    assert best not in draws(logits, 200, logit_bias=[(best, -1000.0)])


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("where", [0, 15, 16, 40, 63, 64])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_logits_that_are_not_numbers_are_reported(bad, where, temperature):
    logits = logits_of(65)
    logits[where] = bad
    token, logprob, _ = Sampler(temperature=temperature).sample(logits)
    assert token == -1
    assert math.isnan(logprob)


@pytest.mark.parametrize("options", [dict(temperature=0), {}, dict(top_k=5), dict(top_p=0.9), dict(min_p=0.1)], ids=str)
def test_no_possible_token_is_reported(options):
    assert Sampler(**options).sample(numpy.full(64, BELOW, numpy.float32))[0] == -1


@pytest.mark.parametrize(
    "options", [dict(temperature=0), {}, dict(top_k=5), dict(top_p=0.99), dict(min_p=0.1)], ids=str
)
def test_an_impossible_token_is_never_drawn(options):
    logits = numpy.full(3000, BELOW, numpy.float32)
    logits[[1700, 2100]] = [0.5, 0.0]
    assert set(draws(logits, 300, **options)) <= {1700, 2100}


@pytest.mark.parametrize("temperature", [1e-40, 1e-6, 100.0])
@pytest.mark.parametrize("options", [{}, dict(top_p=0.9), dict(top_k=5), dict(top_p=0.9999999)], ids=str)
def test_extreme_temperatures(options, temperature):
    logits = logits_of(3000, seed=8)
    got = draws(logits, 20, temperature=temperature, **options)
    if temperature < 1:
        assert got == [int(logits.argmax())] * 20
    else:
        assert all(0 <= token < 3000 for token in got)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(logit_bias=[(-1, 1.0)]), "token -1 is negative"),
        (dict(prompt=[-5], repetition_penalty=2.0), "token -5 is negative"),
        (dict(logit_bias=[(64, 1.0)]), "token 64 is outside the vocabulary of 64"),
        (dict(prompt=[70], repetition_penalty=2.0), "token 70 is outside the vocabulary of 64"),
    ],
    ids=str,
)
def test_tokens_outside_the_vocabulary_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Sampler(**options).sample(logits_of(64))


@pytest.mark.parametrize("isa", supported_isas())
@pytest.mark.parametrize(
    "options", [dict(temperature=0, num_logprobs=5), {}, dict(temperature=0.7, top_p=0.95)], ids=str
)
def test_every_instruction_set_draws_the_same(isa, options):
    logits = logits_of(10_001, seed=10)
    here, there = Sampler(seed=3, **options), Sampler(seed=3, **options)
    for _ in range(50):
        assert here.sample(logits) == there.sample(logits, isa=isa)
    logits[9_999] = math.nan
    assert there.sample(logits, isa=isa)[0] == -1
