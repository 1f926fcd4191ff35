"""Embeddings: pooled hidden states of a real model."""

import gguf
import numpy
import pytest

import freehold
from freehold.embeddings import PendingEmbedding, pooling_of
from freehold.engine.request import HiddenEvent, Request, SamplingParams
from freehold.errors import PromptTooLongError, UnsupportedError


@pytest.fixture(scope="module")
def model(smollm):
    with freehold.load(smollm, dtype="float32", context=512) as loaded:
        yield loaded


def states_of(model, tokens):
    rows = {}
    request = Request(tokens, SamplingParams(), lambda event: None, wants_hidden=True)
    embedding = PendingEmbedding(request, "mean")
    import queue

    events = queue.SimpleQueue()
    request.sink = events.put
    model.engine.submit(request)
    while not embedding.is_done:
        event = events.get(timeout=60)
        embedding.take(event)
        if isinstance(event, HiddenEvent):
            rows |= {event.first + i: row for i, row in enumerate(event.rows)}
    return numpy.stack([rows[i] for i in range(len(tokens))]), embedding.result()


def test_states_times_the_output_matrix_are_the_logits(model, smollm):
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(smollm).tensors}
    table = tensors["token_embd.weight"]
    matrix = gguf.quants.dequantize(table.data, table.tensor_type)
    tokens = model.tokenize("The hidden states after the final norm are what the output matrix reads. " * 3)
    states, embedded = states_of(model, tokens)
    assert numpy.allclose(states @ matrix.T, model.logits(tokens), atol=1e-3)
    mean = states.mean(0, dtype=numpy.float64)
    assert numpy.allclose(embedded.vector, mean / numpy.linalg.norm(mean), atol=1e-7)
    assert embedded.num_tokens == len(tokens)


def test_both_executors_agree(model, smollm):
    pytest.importorskip("torch")
    texts = ["The cat sat on the mat.", "Interest rates rose by a tenth. " * 8]
    ours = model.embed(texts)
    with freehold.load(smollm, executor="torch", context=512) as reference:
        theirs = reference.embed(texts)
    for one, other in zip(ours, theirs, strict=True):
        assert numpy.allclose(one.vector, other.vector, atol=1e-5)


def test_the_same_bits_alone_and_beside_others(model):
    texts = [f"Text number {i}. " * (3 * i + 1) for i in range(8)]
    together = model.embed(texts)
    for text, embedded in zip(texts, together, strict=True):
        assert (model.embed([text])[0].vector == embedded.vector).all()


def test_pooling_is_what_the_file_says():
    assert pooling_of({"general.architecture": "qwen3", "qwen3.pooling_type": 3}) == "last"
    assert pooling_of({"general.architecture": "llama"}) == "mean"
    with pytest.raises(UnsupportedError, match="pooling 'rank' is not supported, only mean and last"):
        PendingEmbedding(Request([1], SamplingParams(), print), "rank")


def test_a_text_longer_than_the_context(model):
    with pytest.raises(PromptTooLongError, match="the context holds 512"):
        model.embed(["word " * 600])
