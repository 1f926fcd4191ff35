"""Quantized evaluation against a float32 evaluation of the same dequantized weights, on a page of text."""

import numpy as np
import pytest

from conftest import QWEN, SMOLLM, model_path
from freehold.loading import load

PAGE = """The lighthouse stood at the end of a long spit of sand and stones, and in winter the sea came over the road so
that for days nobody could reach it. The keeper did not mind. He had his books, a barrel of apples, a stove that drew
well in any wind, and the lamp, which had to be trimmed at dusk, at midnight and at four in the morning. Ships passed
far out, and he wrote their names down when he could read them.

def harbour_tides(day, latitude):
    moon = (day % 29.53) / 29.53
    return [round(2.1 + 0.9 * cos(2 * pi * (hour / 12.42 + moon)), 2) for hour in range(24)]

In 1911 the government sent an engineer to see whether the light could be made to work by itself. He stayed a week,
measured everything twice, and ate a great many apples. "It can be done," he said, "but who will write down the ships?"
The report, which runs to forty pages, recommends that the station be kept as it is until the year 1930, and then be
looked at again. The keeper's daughter found it in a drawer and laughed until she cried.
"""


def log_softmax(logits):
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


# Divergence in nats, and the share of positions whose likeliest token is the same. Where they differ the two likeliest
# tokens are nearly tied (at most 0.1 nats for int16 keys), so that rounding decides: on a page of 282 tokens two or three
# fall either way, where on 2,000 the shares are alike. int8 keys lose more where a few channels are large, as Qwen's
# biases make them.
@pytest.mark.parametrize(
    ("model", "kv_format", "most_divergence", "least_agreement"),
    [
        (SMOLLM, "int16", 0.005, 0.95),
        (SMOLLM, "int8", 0.005, 0.94),
        (QWEN, "int16", 0.002, 0.97),
        (QWEN, "int8", 0.02, 0.93),
    ],
)
def test_divergence_from_float32(model, kv_format, most_divergence, least_agreement):
    path = str(model_path(model))
    with load(path, context=1024, dtype="float32") as reference_model:
        tokens = reference_model.tokenize(PAGE)
        reference = log_softmax(reference_model.logits(tokens))
    with load(path, context=1024, kv_format=kv_format) as quantized_model:
        ours = log_softmax(quantized_model.logits(tokens))
    divergence = (np.exp(reference) * (reference - ours)).sum(-1)
    assert len(tokens) > 200
    assert divergence.mean() < most_divergence
    assert (reference.argmax(-1) == ours.argmax(-1)).mean() > least_agreement
