"""A model of transformers with random weights, and ours with the same, through the names that labs publish."""

import queue
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file

from freehold.engine.request import FinishEvent, Request, SamplingParams, TokenEvent
from freehold.errors import UnsupportedError
from freehold.executors.native import NativeExecutor
from freehold.executors.torch import TorchExecutor
from freehold.models.parameters import check_parameters, named_parameters
from freehold.models.registry import model_class
from freehold.weights.checkpoint import Checkpoint
from parity.cases import CASES, SIZES
from steps import batch_of


@dataclass
class Pair:
    """`reference` is the transformers model, `model` and `checkpoint` are ours."""

    name: str
    reference: Any
    model: Any
    checkpoint: Checkpoint

    def executor(self, kind: str, *, num_blocks: int = 64, **options: Any) -> Any:
        """Ours, in float32; the test is skipped where the executor lacks an operation, whose name it says."""
        try:
            if kind == "torch":
                return TorchExecutor(self.model, self.checkpoint, num_blocks=num_blocks, **options)
            options = {"num_blocks": num_blocks, "dtype": "float32", "threads": 2} | options
            return NativeExecutor(self.model, self.checkpoint, **options)
        except UnsupportedError as error:
            pytest.skip(str(error))

    def logits(self, ids: list[int]) -> Any:
        """The reference's, float32 (len(ids), vocabulary)."""
        with torch.no_grad():
            return self.reference(torch.tensor([ids])).logits[0].numpy()


def make_pair(name: str, folder: Path) -> Pair:
    """The model of a case, saved as its lab would publish it, and read back by us."""
    architecture, overrides = CASES[name]
    torch.manual_seed(3)
    config = transformers.AutoConfig.for_model(architecture, **(SIZES | overrides))
    reference = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()
    randomize(reference)
    reference.save_pretrained(folder)
    model = model_class(architecture).from_config(config.to_dict())
    tensors = {path.name: load_file(path) for path in sorted(folder.glob("*.safetensors"))}
    arrays = {name: value.float().numpy() for part in tensors.values() for name, value in part.items()}
    checkpoint = Checkpoint.from_arrays({}, arrays)
    check_parameters(model, named_parameters(model, checkpoint.tensors))
    return Pair(name, reference, model, checkpoint)


@torch.no_grad()
def randomize(reference: Any) -> None:
    """Every parameter random: with ones in norms and zeros in biases a wrong norm or a missing bias would not show."""
    corrections = [(name, buffer) for name, buffer in reference.named_buffers() if "correction" in name]
    for name, parameter in [*reference.named_parameters(), *corrections]:
        offset = 1.0 if "norm" in name else 0.0
        parameter.copy_(offset + 0.2 * torch.randn_like(parameter))


def random_ids(count: int, seed: int = 0) -> list[int]:
    return torch.randint(0, SIZES["vocab_size"], (count,), generator=torch.Generator().manual_seed(seed)).tolist()


def run(executor: Any, rows: list[tuple[list[int], int, list[int]]]) -> Any:
    """One step of several requests: rows = [(tokens, first position, blocks)]; logits of every row."""
    batch = batch_of(rows)
    batch.logit_rows += range(len(batch.tokens))
    executor.run(batch)
    return executor.logits()


def assert_close(ours: Any, reference: Any) -> None:
    tolerance = 1e-4 * abs(reference).max()
    assert abs(ours - reference).max() <= tolerance
    chosen = reference[range(len(ours)), ours.argmax(-1)]
    assert (reference.max(-1) - chosen <= tolerance).all()  # the same token, but where two are all but equal


def drawn_replies(engine: Any, prompts: list[list[int]], count: int) -> tuple[list[list[tuple[int, float]]], list[int]]:
    """(token, log-probability) of each prompt's greedy reply, all submitted at once; and of how many tokens of the
    prompt the cache had the past."""
    requests = []
    for prompt in prompts:
        events: queue.SimpleQueue[Any] = queue.SimpleQueue()
        request = Request(prompt, SamplingParams(temperature=0, max_tokens=count), events.put)
        engine.submit(request)
        requests.append((request, events))
    replies = []
    for _, events in requests:
        reply = []
        while not isinstance(event := events.get(timeout=60), FinishEvent):
            if isinstance(event, TokenEvent):
                reply.append((event.token, event.logprob))
        replies.append(reply)
    return replies, [request.num_cached for request, _ in requests]
