"""Trace: a model's forward on symbolic values gives a list of calls."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from freehold import _native, ops
from freehold.models.parameters import Parameters, named_parameters


class Value:
    """A symbolic activation: (rows, width), rows being the step's or only its logit rows.

    Its elements are float32, or int32 positions where `select_keys` made it.
    """

    __slots__ = ("graph", "logit_rows", "width")

    def __init__(self, graph: "Graph", width: int, logit_rows: bool):
        self.graph, self.width, self.logit_rows = graph, width, logit_rows

    @property
    def shape(self) -> tuple[str, int]:
        return ("logit rows" if self.logit_rows else "rows", self.width)


@dataclass(eq=False, slots=True)
class Call:
    operation: str
    inputs: tuple[Value, ...]
    output: Value
    options: dict[str, Any]


class Graph:
    """Records each operation that a forward calls on its values."""

    def __init__(self) -> None:
        self.calls: list[Call] = []

    def _call(self, operation: str, inputs: tuple[Value, ...], width: int, **options: Any) -> Value:
        output = Value(self, width, inputs[0].logit_rows or operation == "select_rows")
        self.calls.append(Call(operation, inputs, output, options))
        return output

    def embedding(self, tokens: Value, table: "Parameter") -> Value:
        return self._call("embedding", (tokens,), table.shape[1], table=table)

    def rms_norm(self, x: Value, weight: "Parameter | None", eps: float, num_heads: int, offset: float) -> Value:
        return self._call("rms_norm", (x,), x.width, weight=weight, eps=eps, num_heads=num_heads, offset=offset)

    def gated_rms_norm(
        self, x: Value, gate: Value, weight: "Parameter", eps: float, num_heads: int, activation: str
    ) -> Value:
        options = {"weight": weight, "offset": 0.0, "eps": eps, "num_heads": num_heads, "activation": activation}
        return self._call("gated_rms_norm", (x, gate), x.width, **options)

    def layer_norm(self, x: Value, weight: "Parameter", bias: "Parameter", eps: float) -> Value:
        return self._call("layer_norm", (x,), x.width, weight=weight, bias=bias, eps=eps)

    def scale_by_position(self, x: Value, positions: Value, scale: float, step: float) -> Value:
        return self._call("scale_by_position", (x,), x.width, scale=scale, step=step)

    def linear(self, x: Value, weight: "Parameter", bias: "Parameter | None") -> Value:
        return self._call("linear", (x,), weight.shape[0], weight=weight, bias=bias)

    def rope(self, x: Value, positions: Value, rope: ops.Rope, num_heads: int, first: int) -> Value:
        return self._call("rope", (x,), x.width, rope=rope, num_heads=num_heads, first=first)

    def attention(
        self,
        q: Value,
        k: Value,
        v: Value,
        cache: int,
        heads: int,
        kv_heads: int,
        scale: float,
        window: int | None,
        chunk: int | None,
        sinks: "Parameter | None",
    ) -> Value:
        options = {"num_heads": heads, "num_kv_heads": kv_heads, "scale": scale, "sinks": sinks}
        options |= {"window": window, "chunk": chunk}
        return self._call("attention", (q, k, v), q.width, layer=cache, **options)

    def short_convolution(self, x: Value, weight: "Parameter", cache: int, state: str) -> Value:
        return self._call("short_convolution", (x,), x.width, weight=weight, layer=cache, state=state)

    def delta_rule(
        self,
        q: Value,
        k: Value,
        v: Value,
        decay: Value,
        beta: Value,
        rate: "Parameter",
        decay_bias: "Parameter",
        cache: int,
        num_key_heads: int,
        tiled_heads: bool,
    ) -> Value:
        options = {"rate": rate, "decay_bias": decay_bias, "num_key_heads": num_key_heads, "tiled_heads": tiled_heads}
        return self._call("delta_rule", (q, k, v, decay, beta), v.width, layer=cache, **options)

    def lightning_attention(self, q: Value, k: Value, v: Value, cache: int, slopes: tuple[float, ...]) -> Value:
        return self._call("lightning_attention", (q, k, v), v.width, layer=cache, slopes=slopes)

    def latent_attention(
        self,
        q: Value,
        latents: Value,
        rope_keys: Value,
        key_up: "Parameter",
        value_up: "Parameter",
        cache: int,
        scale: float,
        selected: Value | None,
    ) -> Value:
        """In the space of latents: queries are taken there by key_up, what they gather is taken back by value_up.

        So a key is read once for all heads, and a row's sums are the same in prefill and in decode.
        """
        heads, rank, plain = key_up.shape
        stride = -(-rank // _native.ROW_COLUMNS) * _native.ROW_COLUMNS
        absorbed = self._head_linear(q, key_up, plain + rope_keys.width, stride)
        inputs = (absorbed, q, latents, rope_keys, *([] if selected is None else [selected]))
        options = {"layer": cache, "num_heads": heads, "plain_dim": plain, "scale": scale}
        mixed = self._call("latent_attention", inputs, absorbed.width, **options)
        return self._head_linear(mixed, value_up, stride, value_up.shape[1])

    def _head_linear(self, x: Value, weight: "Parameter", in_stride: int, out_stride: int) -> Value:
        """A matrix of `weight` (N, outputs, inputs) for each head's part of a row."""
        strides = {"in_stride": in_stride, "out_stride": out_stride}
        return self._call("head_linear", (x,), weight.shape[0] * out_stride, weight=weight, **strides)

    def select_keys(self, q: Value, k: Value, weights: Value, cache: int, top_k: int) -> Value:
        return self._call("select_keys", (q, k, weights), top_k, layer=cache)

    def swiglu(self, gate: Value, up: Value, glu: ops.Glu) -> Value:
        return self._call("swiglu", (gate, up), gate.width, glu=glu)

    def experts(
        self,
        x: Value,
        logits: Value,
        matrices: "tuple[Parameter, Parameter, Parameter]",
        biases: "tuple[Parameter | None, Parameter | None, Parameter | None]",
        router: ops.Router,
        correction: "Parameter | None",
        glu: ops.Glu,
    ) -> Value:
        options = {"matrices": matrices, "biases": biases, "router": router, "correction": correction, "glu": glu}
        return self._call("experts", (x, logits), x.width, **options)

    def sigmoid_gate(self, x: Value, gate: Value) -> Value:
        return self._call("sigmoid_gate", (x, gate), x.width)

    def add(self, x: Value, y: Value, x_scale: float, y_scale: float) -> Value:
        return self._call("add", (x, y), x.width, scales=(x_scale, y_scale))

    def select_rows(self, x: Value, rows: Any) -> Value:
        return self._call("select_rows", (x,), x.width)


class Operations:
    """`freehold.ops` on symbolic values: each is recorded in the graph of its first operand."""

    executor = "native"

    def __getattr__(self, operation: str) -> Callable[..., Value]:
        method = getattr(Graph, operation)  # AttributeError: the operation is not here
        return lambda value, *operands: method(value.graph, value, *operands)


ops.register(Value, Operations())


@dataclass(frozen=True, eq=False, slots=True)
class Parameter:
    """A named tensor of the checkpoint."""

    name: str
    tensor: Any

    @property
    def shape(self) -> tuple[int, ...]:
        return self.tensor.shape

    @property
    def matrices(self) -> list[Any]:
        """Its tensors of two dimensions: itself, or one for each expert."""
        return self.tensor.parts if len(self.shape) == 3 else [self.tensor]

    def floats(self) -> list[float]:
        return self.tensor.floats()


@dataclass
class SymbolicBatch:
    tokens: Value
    positions: Value
    caches: range


def trace(model: Any, checkpoint: Any) -> tuple[list[Call], Value]:
    """The calls of one step, and the value that holds the logits."""
    graph, parameters, batch = _symbols(model, checkpoint)
    hidden = model.forward(parameters, batch)
    return graph.calls, model.logits(parameters, ops.select_rows(hidden, None))


def trace_next_token(layer: Any, checkpoint: Any) -> tuple[list[Call], Value, Value]:
    """As `trace`, of a model's layer for speculation; and the value of the hidden states that it is given."""
    graph, parameters, batch = _symbols(layer, checkpoint)
    given = Value(graph, layer.config.hidden_size, False)
    hidden = layer.forward(parameters, batch, given)
    return graph.calls, layer.logits(parameters, ops.select_rows(hidden, None)), given


def _symbols(model: Any, checkpoint: Any) -> tuple[Graph, Parameters, SymbolicBatch]:
    graph = Graph()
    tensors = named_parameters(model, checkpoint.tensors)
    parameters = Parameters({name: Parameter(name, tensor) for name, tensor in tensors.items()})
    batch = SymbolicBatch(Value(graph, 1, False), Value(graph, 1, False), range(model.config.num_layers))
    return graph, parameters, batch
