"""A model of one layer, for the tests of single operations, and steps of it."""

import torch

from freehold import ops
from freehold.models.config import DecoderConfig
from freehold.models.llama import Llama
from steps import batch_of

VOCABULARY = 61


class OneLayer(Llama):
    """An embedding, `self.operation(x, parameters, batch)`, logits; a subclass says the operation, shapes and caches."""

    def __init__(self, *, width, heads, kv_heads, head_dim, rope=None):
        super().__init__(
            DecoderConfig(
                architecture="one layer",
                num_layers=1,
                hidden_size=width,
                intermediate_size=width,
                num_heads=heads,
                num_kv_heads=kv_heads,
                head_dim=head_dim,
                vocabulary_size=VOCABULARY,
                context_length=4096,
                norm_eps=1e-5,
                rope=rope or ops.Rope((1.0,)),
            )
        )

    def forward(self, parameters, batch):
        return self.operation(ops.embedding(batch.tokens, parameters["model.embed_tokens.weight"]), parameters, batch)

    def logits(self, parameters, hidden):
        return ops.linear(hidden, parameters["lm_head.weight"])


def tokens_of(count, seed=0):
    return torch.randint(0, VOCABULARY, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


def step(executor, requests):
    """One step of [(tokens, first position, blocks)]: the logits of its last rows, as many as there may be."""
    batch = batch_of(requests)
    batch.logit_rows = list(range(len(batch.tokens)))[-executor.max_logit_rows :]
    executor.run(batch)
    return torch.tensor(executor.logits())
