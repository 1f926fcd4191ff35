"""What lm-eval's local-completions sends and reads (lm_eval/models/openai_completions.py), against other logits."""

import numpy
import pytest

import freehold


@pytest.fixture(scope="module")
def model(smollm):
    with freehold.load(smollm, context=512) as loaded:
        yield loaded


CASES = [("The capital of France is", " Paris."), ("One, two, three,", " four, five"), ("A", " b"), ("x" * 400, " y")]


def log_softmax(rows):
    rows = rows.astype(numpy.float64) - rows.max(-1, keepdims=True)
    return rows - numpy.log(numpy.exp(rows).sum(-1, keepdims=True))


def test_loglikelihood(server, model):
    """Prompts of token ids, echoed with their log-probabilities and one token more."""
    contexts = [model.tokenize(context) for context, _ in CASES]
    prompts = [tokens + model.tokenize(more) for tokens, (_, more) in zip(contexts, CASES, strict=True)]
    body = {
        "model": "smollm2-135m-q4_1",
        "prompt": prompts,
        "temperature": 0,
        "max_tokens": 1,
        "logprobs": 1,
        "seed": 1234,
        "echo": True,
    }
    choices = server.http.post("/v1/completions", json=body).json()["choices"]
    for choice, prompt, context in zip(choices, prompts, contexts, strict=True):
        found = choice["logprobs"]
        assert len(found["token_logprobs"]) == len(prompt) + 1
        expected = log_softmax(model.logits(prompt))
        ours = found["token_logprobs"][len(context) : -1]
        theirs = [expected[i - 1, prompt[i]] for i in range(len(context), len(prompt))]
        assert numpy.allclose(ours, theirs, atol=1e-6)
        is_greedy = all(
            logprob == max(top.values())
            for logprob, top in zip(ours, found["top_logprobs"][len(context) : -1], strict=True)
        )
        assert is_greedy == all(expected[i - 1].argmax() == prompt[i] for i in range(len(context), len(prompt)))


def test_only_the_prompt(server, model):
    prompt = model.tokenize("The sky is blue.")
    body = {"prompt": prompt, "max_tokens": 0, "logprobs": 0, "echo": True}
    choice = server.http.post("/v1/completions", json=body).json()["choices"][0]
    assert choice["text"] == "The sky is blue." and choice["finish_reason"] == "length"
    assert len(choice["logprobs"]["tokens"]) == len(prompt)


def test_generate_until(server):
    body = {
        "model": "smollm2-135m-q4_1",
        "prompt": "Question: 2 + 2\nAnswer:",
        "max_tokens": 30,
        "temperature": 0.0,
        "stop": ["\n", "Question:", "</s>", "<|im_end|>"],
        "seed": 1234,
    }
    choice = server.http.post("/v1/completions", json=body).json()["choices"][0]
    assert "\n" not in choice["text"] and choice["finish_reason"] in ("stop", "length")
