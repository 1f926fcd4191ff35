"""Operations: what they refuse, what the torch executor makes of them, and the native executor beside it."""

import math

import pytest

torch = pytest.importorskip("torch", reason="torch is the reference")

from one_layer import VOCABULARY, OneLayer  # noqa: E402

from freehold import _native, ops  # noqa: E402
from freehold.engine.executor import Batch  # noqa: E402
from freehold.errors import UnsupportedError  # noqa: E402
from freehold.executors.native import NativeExecutor  # noqa: E402
from freehold.executors.torch import TorchExecutor  # noqa: E402
from freehold.executors.torch_operations import LayerCache, Step, route  # noqa: E402
from freehold.models.rope import rope_frequencies  # noqa: E402
from freehold.weights.checkpoint import Checkpoint  # noqa: E402

HEADS, KV_HEADS, DIM = 4, 2, 32
WIDTH = HEADS * DIM
SHAPES = {"model.embed_tokens.weight": (VOCABULARY, WIDTH), "lm_head.weight": (VOCABULARY, WIDTH)}
SHAPES |= {"k.weight": (KV_HEADS * DIM, WIDTH), "v.weight": (KV_HEADS * DIM, WIDTH), "v.bias": (KV_HEADS * DIM,)}
SHAPES |= {"row": (WIDTH,), "head": (DIM,), "bias": (WIDTH,), "sinks": (HEADS,)}
SHAPES |= {
    "gate": (8, 48, WIDTH),
    "up": (8, 48, WIDTH),
    "down": (8, WIDTH, 48),
    "route": (8, WIDTH),
    "correction": (8,),
    "one": (1, WIDTH),
    "gate.bias": (8, 48),
    "up.bias": (8, 48),
    "down.bias": (8, WIDTH),
}


def attend(x, p, batch, **options):
    k, v = ops.linear(x, p["k.weight"]), ops.linear(x, p["v.weight"], p["v.bias"])
    heads = {"num_heads": HEADS, "num_kv_heads": KV_HEADS}
    return ops.attention(x, k, v, batch.caches[0], **heads, scale=0.3, **options)


def rope(x, batch, **options):
    return ops.rope(x, batch.positions, ops.Rope(rope_frequencies(24, 100.0), **options), HEADS)


def experts(x, p, **options):
    return ops.experts(x, ops.linear(x, p["route"]), p["gate"], p["up"], p["down"], **options)


GROUPED = ops.Router(2, scoring="sigmoid", num_groups=4, top_groups=2, group_score="top2", scale=1.5)
BEST_GROUP = ops.Router(3, num_groups=2, top_groups=1, normalize=False)


def gated(x, p, batch, activation):
    return ops.gated_rms_norm(x, rope(x, batch), p["head"], 1e-3, HEADS, activation)


# Each takes rows (T, WIDTH), the parameters and the batch, and gives rows (T, WIDTH).
PROBES = {
    "rms_norm": lambda x, p, batch: ops.rms_norm(x, p["row"], 1e-3),
    "rms_norm of heads": lambda x, p, batch: ops.rms_norm(x, p["head"], 1e-3, HEADS),
    "rms_norm with an offset": lambda x, p, batch: ops.rms_norm(x, p["head"], 1e-3, HEADS, 1.0),
    "rms_norm without weight": lambda x, p, batch: ops.rms_norm(x, None, 1e-3, HEADS),
    "layer_norm": lambda x, p, batch: ops.layer_norm(x, p["row"], p["bias"], 1e-3),
    "gated_rms_norm by silu": lambda x, p, batch: gated(x, p, batch, "silu"),
    "gated_rms_norm by sigmoid": lambda x, p, batch: gated(x, p, batch, "sigmoid"),
    "rope": lambda x, p, batch: rope(x, batch),
    "rope interleaved": lambda x, p, batch: rope(x, batch, interleaved=True, scale=1.2),
    "rope of trailing channels": lambda x, p, batch: ops.rope(
        x, batch.positions, ops.Rope(rope_frequencies(16, 100.0)), HEADS, 12
    ),
    "attention": attend,
    "attention with a window of 1": lambda x, p, batch: attend(x, p, batch, window=1),
    "attention with a window of 70": lambda x, p, batch: attend(x, p, batch, window=70),
    "attention with a window of 300": lambda x, p, batch: attend(x, p, batch, window=300),
    "attention with chunks": lambda x, p, batch: attend(x, p, batch, chunk=40),
    "attention with sinks": lambda x, p, batch: attend(x, p, batch, sinks_N=p["sinks"]),
    "attention with sinks and a window": lambda x, p, batch: attend(x, p, batch, sinks_N=p["sinks"], window=33),
    "swiglu": lambda x, p, batch: ops.swiglu(x, ops.rms_norm(x, p["row"], 1e-3)),
    "swiglu, clamped": lambda x, p, batch: ops.swiglu(x, rope(x, batch), ops.Glu(1.7, 0.5, 1.0)),
    "add": lambda x, p, batch: ops.add(x, rope(x, batch)),
    "add with scales": lambda x, p, batch: ops.add(x, rope(x, batch), 0.5, -2.0),
    "sigmoid_gate": lambda x, p, batch: ops.sigmoid_gate(x, rope(x, batch)),
    "sigmoid_gate of rows": lambda x, p, batch: ops.sigmoid_gate(x, ops.linear(x, p["one"])),
    "experts": lambda x, p, batch: experts(x, p, router=ops.Router(3)),
    "all experts": lambda x, p, batch: experts(x, p, router=ops.Router(8, least_sum=5.0)),
    "experts in groups": lambda x, p, batch: experts(x, p, router=GROUPED, correction_E=p["correction"]),
    "experts of the best group": lambda x, p, batch: experts(x, p, router=BEST_GROUP),
    "experts with biases, clamped": lambda x, p, batch: experts(
        x,
        p,
        router=ops.Router(2),
        gate_bias_EF=p["gate.bias"],
        up_bias_EF=p["up.bias"],
        down_bias_ED=p["down.bias"],
        glu=ops.Glu(1.7, 3.0, 1.0),
    ),
    "experts whose inputs are scaled": lambda x, p, batch: experts(
        x, p, router=ops.Router(2, scoring="sigmoid", normalize=False, scales_inputs=True)
    ),
    "experts of normed rows, added to them": lambda x, p, batch: ops.add(
        x, experts(ops.rms_norm(x, p["row"], 1e-3), p, router=ops.Router(3))
    ),
    "scale_by_position": lambda x, p, batch: ops.scale_by_position(x, batch.positions, 0.2, 8),
}


class Probe(OneLayer):
    """A model of one operation."""

    def __init__(self, operation):
        rope = ops.Rope(rope_frequencies(DIM, 10000.0))
        super().__init__(width=WIDTH, heads=HEADS, kv_heads=KV_HEADS, head_dim=DIM, rope=rope)
        self.operation = operation

    def parameter_shapes(self):
        return SHAPES


@pytest.fixture(scope="module")
def checkpoint():
    generator = torch.Generator().manual_seed(5)
    arrays = {name: torch.randn(shape, generator=generator).numpy() for name, shape in SHAPES.items()}
    return Checkpoint.from_arrays({}, arrays)


def run(executor, tokens, first, table):
    rows = list(range(len(tokens)))
    executor.run(Batch(tokens, [first + i for i in rows], [0, len(tokens)], [table], rows))
    return executor.logits()


@pytest.mark.parametrize("name", PROBES)
def test_native_beside_torch(name, checkpoint):
    model, table = Probe(PROBES[name]), [3, 1, *range(5, 24)]
    try:
        native = NativeExecutor(model, checkpoint, num_blocks=32, dtype="float32", threads=2)
    except UnsupportedError as error:
        pytest.skip(str(error))
    reference = TorchExecutor(model, checkpoint, num_blocks=32)
    assert native.block_size == reference.block_size
    tokens, first = torch.randint(0, VOCABULARY, (610,), generator=torch.Generator().manual_seed(1)).tolist(), 0
    for rows in (1, 31, 32, 33, 64, 3, 64, 64, 64, 64, 64, 64, 61, 1):
        ours, expected = (run(e, tokens[first : first + rows], first, table) for e in (native, reference))
        assert abs(ours - expected).max() <= 2e-5 * abs(expected).max() + 1e-5
        first += rows
    assert first == len(tokens)


@pytest.mark.parametrize("isa", _native.supported_isas())
@pytest.mark.parametrize("name", [name for name in PROBES if "experts" in name or "norm" in name or "gate" in name])
def test_every_instruction_set(name, isa, checkpoint, monkeypatch):
    monkeypatch.setenv("FREEHOLD_ISA", isa)
    native = NativeExecutor(Probe(PROBES[name]), checkpoint, num_blocks=4, dtype="float32", threads=1)
    reference = TorchExecutor(Probe(PROBES[name]), checkpoint, num_blocks=4)
    ours, expected = (run(executor, list(range(50)), 0, [2, 1]) for executor in (native, reference))
    assert abs(ours - expected).max() <= 2e-5 * abs(expected).max() + 1e-5


# The router's rule, figure by figure.


def test_route_takes_the_first_of_equal_scores_and_normalizes():
    chosen, weights = route(torch.tensor([[1.0, 3.0, 3.0, 0.0, 3.0]]), ops.Router(2))
    assert chosen.tolist() == [[1, 2]]
    assert weights.tolist() == [[0.5, 0.5]]


def test_route_by_corrected_groups():
    logits = torch.logit(torch.tensor([[0.9, 0.1, 0.5, 0.4, 0.6, 0.55, 0.2, 0.3]]))
    router = ops.Router(2, scoring="sigmoid", num_groups=4, top_groups=1, group_score="top2", scale=2.0)
    chosen, weights = route(logits, router)  # groups: 1.0, 0.9, 1.15, 0.5
    assert chosen.tolist() == [[4, 5]]
    assert weights[0].tolist() == pytest.approx([2 * 0.6 / 1.15, 2 * 0.55 / 1.15])
    correction = torch.tensor([0, 0, 0.2, 0.3, 0, 0, 0, 0])
    chosen, weights = route(logits, router, correction)  # now the second group: 0.7 + 0.7; weights without correction
    assert sorted(chosen[0].tolist()) == [2, 3]
    assert sorted(weights[0].tolist()) == pytest.approx([2 * 0.4 / 0.9, 2 * 0.5 / 0.9])
    best = ops.Router(1, scoring="sigmoid", num_groups=4, top_groups=1, normalize=False)
    assert route(logits, best)[0].tolist() == [[0]]


def plain_step(length):
    return LayerCache(Step(torch.arange(length), [0, length], [0], None))


def test_select_keys_sees_the_past_alone():
    q, k = torch.ones(5, 2), torch.tensor([[1.0], [3.0], [2.0], [3.0], [9.0]]).expand(5, 2)
    masks = ops.select_keys(q, k, torch.ones(5, 1), plain_step(5), top_k=2)
    picked = [torch.nonzero(row).flatten().tolist() for row in masks[0][:4] & torch.ones(4, 5).tril().bool()]
    assert picked == [[0], [0, 1], [1, 2], [1, 3]]


def test_short_convolution():
    x = torch.tensor([[1.0], [2.0], [4.0]])
    out = ops.short_convolution(x, torch.tensor([[10.0, 0.0, 1.0]]), plain_step(3), "state")
    expected = [1.0, 2.0, 14.0]
    assert out[:, 0].tolist() == pytest.approx([y / (1 + math.exp(-y)) for y in expected])


def test_delta_rule_replaces_what_a_key_held():
    key = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    value, strong, none = torch.tensor([[5.0], [7.0], [9.0]]), torch.full((3, 1), 50.0), torch.full((3, 1), -50.0)
    parameters = torch.zeros(1), torch.zeros(1)
    out = ops.delta_rule(key, key, value, none, strong, *parameters, plain_step(3), num_key_heads=1)
    assert (out[:, 0] * math.sqrt(2)).tolist() == pytest.approx([5, 7, 9], rel=1e-4)
    kept = ops.delta_rule(
        key, key, value, none, strong * torch.tensor([[1.0], [-1], [-1]]), *parameters, plain_step(3), num_key_heads=1
    )
    assert (kept[:, 0] * math.sqrt(2)).tolist() == pytest.approx([5, 5, 5], rel=1e-4)


def test_lightning_attention_decays():
    x = torch.full((3, 1), 100.0)  # silu leaves it
    out = ops.lightning_attention(x, x, x, plain_step(3), slopes=(math.log(2),))
    assert (out[:, 0] / 1e6).tolist() == pytest.approx([1, 1.5, 1.75])


# What operations refuse, before any executor sees it.

REFUSALS = {
    "rms_norm: width: expected 96, got 128": lambda t: ops.rms_norm(t(3, 128), t(32), 1e-5, 3),
    "linear: columns of the weight: expected 8, got 9": lambda t: ops.linear(t(2, 8), t(4, 9)),
    "linear: bias: expected (4,), got (5,)": lambda t: ops.linear(t(2, 8), t(4, 8), t(5)),
    "rope: turns 8 channels from 2 on, of heads of 8": lambda t: ops.rope(t(2, 16), t(2), ops.Rope((1.0,) * 4), 2, 2),
    "attention: 3 query heads cannot share 2 key/value heads": lambda t: ops.attention(
        t(2, 12), t(2, 8), t(2, 8), None, num_heads=3, num_kv_heads=2, scale=1.0
    ),
    "attention: sinks: expected (4,), got (3,)": lambda t: ops.attention(
        t(2, 16), t(2, 8), t(2, 8), None, num_heads=4, num_kv_heads=2, scale=1.0, sinks_N=t(3)
    ),
    "swiglu: up: expected (2, 8), got (2, 9)": lambda t: ops.swiglu(t(2, 8), t(2, 9)),
    "experts: down: expected (4, 8, 6), got (4, 6, 8)": lambda t: ops.experts(
        t(2, 8), t(2, 4), t(4, 6, 8), t(4, 6, 8), t(4, 6, 8), router=ops.Router(2)
    ),
    "experts: cannot choose 5 of 4 experts": lambda t: ops.experts(
        t(2, 8), t(2, 4), t(4, 6, 8), t(4, 6, 8), t(4, 8, 6), router=ops.Router(5)
    ),
    "latent_attention: queries: expected 20, got 18": lambda t: ops.latent_attention(
        t(2, 18), t(2, 6), t(2, 4), t(2, 6, 6), t(2, 3, 6), None, scale=1.0
    ),
    "delta_rule: decay: expected 8, got 3": lambda t: ops.delta_rule(
        t(2, 8), t(2, 8), t(2, 6), t(2, 3), t(2, 2), t(2), t(3), None, num_key_heads=2
    ),
    "add: second operand: expected (2, 8), got (1, 8)": lambda t: ops.add(t(2, 8), t(1, 8)),
}


@pytest.mark.parametrize("text", REFUSALS)
def test_refuses_shapes_that_do_not_fit(text):
    with pytest.raises(ValueError) as error:
        REFUSALS[text](torch.zeros)
    assert text in str(error.value)


class Bare:
    """A value of an executor without operations."""

    shape = (3, WIDTH)


class NoOperations:
    executor = "bare"


def test_an_executor_that_lacks_an_operation_says_so():
    ops.register(Bare, NoOperations())
    with pytest.raises(UnsupportedError) as error:
        ops.add(Bare(), Bare())
    assert str(error.value) == "add: the bare executor does not have this operation"
    assert error.value.hint == "the torch executor has all of them: --executor torch"
