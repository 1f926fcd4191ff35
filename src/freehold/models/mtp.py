"""Multi-token prediction: the layer behind a model's last that foresees the token after the next.

Papers: Gloeckle et al. 2024, DeepSeek-AI 2024 (DeepSeek-V3, 2.2). Checkpoints: DeepSeek-V3 to V3.2 and R1, GLM-4.5 to
5.3, which number it as one layer more; Qwen3-Next and Qwen3.5, which call it `mtp`, and ERNIE 4.5 with experts, which
calls it `mtp_block`. MiniMax-M2's config.json names such layers, but its checkpoints have none. It reads a token's
hidden state after the final norm and the token that was drawn of it; what it gives is a guess, which speculation
verifies, so that no reply depends on it. Of several such layers the first is run.
Reference: transformers `modeling_layers.py` (MtpLayer), vLLM `deepseek_mtp.py` and `qwen3_next_mtp.py`, FastDeploy
`ernie4_5_mtp.py`.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from freehold import ops
from freehold.models.llama import Llama
from freehold.models.parameters import check_parameters, named_parameters

NEXT_GGUF_NAMES = {
    f"blk.{{i}}.nextn.{gguf}.weight": f"model.layers.{{i}}.{ours}.weight"
    for gguf, ours in {
        "eh_proj": "eh_proj",
        "enorm": "enorm",
        "hnorm": "hnorm",
        "shared_head_norm": "shared_head.norm",
    }.items()
}
# Prefixes in files that give the layer a place of its own -> prefix in the layer.
OWN_PREFIXES = {
    "mtp.fc.": "eh_proj.",
    "mtp.pre_fc_norm_embedding.": "enorm.",
    "mtp.pre_fc_norm_hidden.": "hnorm.",
    "mtp.norm.": "shared_head.norm.",
    "mtp.layers.0.": "",
    "model.mtp_linear_proj.0.": "eh_proj.",
    "model.mtp_emb_norm.0.": "enorm.",
    "model.mtp_hidden_norm.0.": "hnorm.",
    "model.mtp_block.0.": "",
}


@dataclasses.dataclass(frozen=True)
class Columns:
    """A matrix that reads several inputs side by side: one matrix for each (see `models.parameters.Split`).

    ERNIE-4.5-300B-A47B publishes it as (inputs, outputs).
    """

    names: tuple[str, ...]

    def apply(self, tensor: Any, shapes: Sequence[tuple[int, ...]], config: Any) -> list[Any]:
        """The tensors of `names`, of `shapes`."""
        widths = [columns for _, columns in shapes]
        by_inputs = tensor if tensor.shape[0] == sum(widths) else tensor.transpose()
        parts = by_inputs.split(0, 1, widths)
        return [part.transpose() for part in parts]


class NextToken:
    """The layer of a model, with the model's own embedding, final norm and output matrix."""

    def __init__(self, model: Llama):
        self.index = model.config.num_layers
        self.config = model.further_config()
        self.decoder = type(model)(self.config)
        self.prefix = f"model.layers.{self.index}."
        self.last_norm = model.further_norm.format(i=self.index)
        self.gguf_names = self.decoder.gguf_names | NEXT_GGUF_NAMES
        self.splits = {**self.decoder.splits, "eh_proj.weight": Columns(("e_proj.weight", "h_proj.weight"))}
        self.prefixes = {name: f"{self.prefix}{ours}" for name, ours in OWN_PREFIXES.items()}
        self.aliases, self.gguf_values = self.decoder.aliases, self.decoder.gguf_values
        self.head = "model.embed_tokens.weight" if self.config.tied_embeddings else "lm_head.weight"

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """Every parameter that the forward reads, those of the model among them."""
        d, decoder = self.config.hidden_size, self.decoder.parameter_shapes()
        shapes = {name: decoder[name] for name in ("model.embed_tokens.weight", "model.norm.weight", self.head)}
        shapes |= {name: shape for name, shape in decoder.items() if name.startswith(self.prefix)}
        shapes |= {f"{self.prefix}{name}.weight": (d,) for name in ("enorm", "hnorm")}
        shapes[f"{self.last_norm}.weight"] = (d,)
        return shapes | {f"{self.prefix}{name}.weight": (d, d) for name in ("e_proj", "h_proj")}

    def caches(self) -> list[ops.CacheSpec]:
        """What each layer keeps of the past: those of the model nothing here."""
        return [ops.CacheSpec()] * self.index + self.decoder.caches()[self.index :]

    def forward(self, parameters, batch, hidden):
        """Hidden states (T, D) of what may follow the step's tokens.

        `hidden`: the model's, before the final norm, of the tokens that these followed.
        """
        layer, decoder = parameters.scope(self.prefix), self.decoder
        token = ops.embedding(batch.tokens, parameters["model.embed_tokens.weight"])
        token = decoder.linear(decoder.norm(token, layer, "enorm"), layer, "e_proj")
        past = decoder.norm(decoder.final(parameters, hidden), layer, "hnorm")
        x = ops.add(token, decoder.linear(past, layer, "h_proj"))
        return decoder.block(x, layer, batch, self.index)

    def logits(self, parameters, hidden):
        """Logits (rows, V) of some rows of these."""
        normed = self.decoder.norm(hidden, parameters, self.last_norm)
        return ops.linear(normed, parameters[self.head])


def next_token_layer(model: Llama, tensors: Mapping[str, Any]) -> NextToken | None:
    """The layer that a checkpoint holds for a model, or None where it has none that is run.

    Raises ModelFileError when its tensors are missing or misshapen, UnsupportedError where their format is not run.
    """
    if not model.predicts_further:
        return None
    layer = NextToken(model)
    parameters = named_parameters(layer, tensors)
    if f"{layer.prefix}enorm.weight" not in parameters:
        return None
    check_parameters(layer, parameters)
    return layer
