"""Feed-forwards of routed experts: a layer shared by every family that has them."""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from freehold import ops
from freehold.errors import ModelFileError
from freehold.models.config import DecoderConfig
from freehold.models.llama import Llama
from freehold.models.settings import Settings


@dataclass(frozen=True, kw_only=True)
class ExpertsConfig(DecoderConfig):
    num_experts: int
    expert_size: int  # inner width of an expert
    shared_size: int  # inner width of the experts that every token passes, together; 0: there are none
    sparse_layers: frozenset[int]  # those with experts; the others have one dense feed-forward
    router: ops.Router


def experts_values(
    settings: Settings, router: ops.Router, sparse_layers: Iterable[int], expert_size: int | None = None
) -> dict[str, Any]:
    """The fields that ExpertsConfig adds, as a file has them; `expert_size` where it has another name there.

    Raises ModelFileError when they do not fit together.
    """
    num_experts, size = settings.size("num_experts"), expert_size or settings.size("moe_intermediate_size")
    groups = router.num_groups
    if num_experts % groups or not 0 < router.top_groups <= groups:
        raise ModelFileError(
            f"{num_experts} experts: expected {groups} equal groups, {router.top_groups} of them chosen"
        )
    if router.top_k > num_experts // groups * router.top_groups:
        raise ModelFileError(f"num_experts_per_tok: {router.top_k} are more than there are to choose from")
    return {
        "num_experts": num_experts,
        "expert_size": size,
        "shared_size": settings.count("shared_expert_intermediate_size", size * settings.count("num_shared_experts")),
        "sparse_layers": frozenset(sparse_layers),
        "router": router,
    }


def bias_corrected_router(settings: Settings) -> ops.Router:
    """The router of DeepSeek-V3, which GLM, Kimi and others took over."""
    return ops.Router(
        top_k=settings.size("num_experts_per_tok"),
        scoring="sigmoid",
        num_groups=settings.size("n_group", 1),
        top_groups=settings.size("topk_group", 1),
        group_score="top2",
        normalize=settings.flag("norm_topk_prob", True),
        scale=settings.number("routed_scaling_factor", 1.0),
    )


# Name in a GGUF file -> name in the published checkpoint, for checkpoints that call the layer mlp.
EXPERTS_GGUF_NAMES = {
    "blk.{i}.ffn_gate_inp.weight": "model.layers.{i}.mlp.gate.weight",
    "blk.{i}.ffn_gate_exps.weight": "model.layers.{i}.mlp.experts.gate_proj.weight",
    "blk.{i}.ffn_up_exps.weight": "model.layers.{i}.mlp.experts.up_proj.weight",
    "blk.{i}.ffn_down_exps.weight": "model.layers.{i}.mlp.experts.down_proj.weight",
    "blk.{i}.ffn_gate_shexp.weight": "model.layers.{i}.mlp.shared_experts.gate_proj.weight",
    "blk.{i}.ffn_up_shexp.weight": "model.layers.{i}.mlp.shared_experts.up_proj.weight",
    "blk.{i}.ffn_down_shexp.weight": "model.layers.{i}.mlp.shared_experts.down_proj.weight",
    "blk.{i}.exp_probs_b.bias": "model.layers.{i}.mlp.gate.e_score_correction_bias",
}


class Experts(Llama):
    """Mixed into a decoder: its sparse layers add up routed experts and, where there are some, shared ones.

    The attributes are names in the published checkpoint, below the layer.
    """

    routing = "mlp.gate"
    correction: str | None = None
    routed = "mlp.experts"
    matrices = ("gate_proj", "up_proj", "down_proj")
    shared = "mlp.shared_experts"

    def further_config(self) -> Any:
        config = super().further_config()
        return dataclasses.replace(config, sparse_layers=config.sparse_layers | {self.config.num_layers})

    def feed_forward_shapes(self, i: int) -> dict[str, tuple[int, ...]]:
        c = self.config
        if i not in c.sparse_layers:
            return super().feed_forward_shapes(i)
        e, f, d = c.num_experts, c.expert_size, c.hidden_size
        gate, up, down = (f"{self.routed}.{name}.weight" for name in self.matrices)
        shapes = {f"{self.routing}.weight": (e, d), gate: (e, f, d), up: (e, f, d), down: (e, d, f)}
        if self.correction:
            shapes[self.correction] = (e,)
        return shapes | (self.mlp_shapes(self.shared, c.shared_size) if c.shared_size else {})

    def feed_forward(self, x, layer, i):
        c = self.config
        if i not in c.sparse_layers:
            return super().feed_forward(x, layer, i)
        logits = self.linear(x, layer, self.routing)
        gate, up, down = (layer[f"{self.routed}.{name}.weight"] for name in self.matrices)
        correction = layer[self.correction] if self.correction else None
        out = ops.experts(x, logits, gate, up, down, router=c.router, correction_E=correction)
        return ops.add(out, self.shared_experts(x, layer)) if c.shared_size else out

    def shared_experts(self, x, layer):
        return self.mlp(x, layer, self.shared)
