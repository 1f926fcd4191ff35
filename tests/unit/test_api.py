"""The Python face over the fake executor, with a byte-level tokenizer of one token a character."""

import asyncio
import gc
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy
import pytest
from fake_executor import VOCABULARY, FakeExecutor, reference_logits

import freehold
from freehold.api import Model
from freehold.engine.engine import Engine
from freehold.engine.memory import budget_experts, budget_kv_blocks, cgroup_limits
from freehold.errors import EngineError, MemoryBudgetError, PromptTooLongError, RequestError, TemplateError
from freehold.executors.native import native_sampler
from freehold.text.template import ChatTemplate
from freehold.text.tokenizer import Tokenizer

CONTEXT = 96
EOS, BOS = 59, 60
CHARACTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ01234"
METADATA = {
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "gpt-2",
    "tokenizer.ggml.tokens": [*CHARACTERS, "Ġ", "é"[0], "<|im_end|>", "<s>"],
    "tokenizer.ggml.token_type": [1] * 59 + [3, 3],
    "tokenizer.ggml.merges": [],
    "tokenizer.ggml.eos_token_id": EOS,
    "tokenizer.ggml.bos_token_id": BOS,
    "tokenizer.ggml.add_bos_token": True,
}
TEMPLATE = "{% for m in messages %}{{ m.role[0] }} {{ m.content }}<|im_end|>{% endfor %}a "


@pytest.fixture
def executor():
    return FakeExecutor(num_blocks=200)


@pytest.fixture
def model(executor):
    yield from model_of(executor, METADATA | {"tokenizer.chat_template": TEMPLATE})


def model_of(executor, metadata):
    engine = Engine(executor, native_sampler, context=CONTEXT)
    tokenizer = Tokenizer.from_gguf(metadata)
    with Model(tokenizer, ChatTemplate.from_gguf(metadata, tokenizer), executor, engine, {}) as model:
        yield model
        executor.may_run.set()


def text_of(tokens) -> str:
    return "".join([*CHARACTERS, " ", "\ufffd", "", ""][token] for token in tokens)


def idle(executor) -> bool:
    """Whether steps have ceased, without a sleep longer than it takes."""
    for _ in range(200):
        before = len(executor.batches)
        time.sleep(0.02)
        if len(executor.batches) == before:
            return True
    return False


# One reply, every way to ask for it.


def greedy(prompt: list[int], count: int) -> list[int]:
    tokens = list(prompt)
    while len(tokens) < len(prompt) + count:
        token = int(reference_logits(tokens).argmax())
        if token == EOS:
            break
        tokens.append(token)
    return tokens[len(prompt) :]


def test_a_completion(model):
    completion = model.generate("hello", temperature=0, max_tokens=12)
    prompt = [BOS, *(CHARACTERS.index(c) for c in "hello")]
    assert completion.tokens == greedy(prompt, 12)
    assert completion.text == text_of(completion.tokens)
    assert completion.finish_reason == "length"
    assert completion.usage == freehold.api.Usage(prompt_tokens=6, completion_tokens=12, cached_tokens=0)
    assert completion.top_logprobs is None
    assert len(completion.logprobs) == 12
    assert all(logprob < 0 for logprob in completion.logprobs)
    assert completion.timings.time_to_first_token_s > 0
    assert completion.timings.decode_tokens_per_s > 0


def test_top_logprobs(model):
    completion = model.generate("hello", temperature=0, max_tokens=5, logprobs=4)
    assert completion.top_logprobs is not None
    for token, logprob, top in zip(completion.tokens, completion.logprobs, completion.top_logprobs, strict=True):
        assert len(top) == 4
        assert top[0] == (token, logprob)


def test_a_prompt_of_tokens_is_used_as_it_is(model):
    assert model.generate([1, 2, 3], temperature=0, max_tokens=9).tokens == greedy([1, 2, 3], 9)
    assert model.generate(numpy.array([1, 2, 3]), temperature=0, max_tokens=9).tokens == greedy([1, 2, 3], 9)


def test_a_stream_gives_the_same(model):
    expected = model.generate("hello", temperature=0, max_tokens=12)
    stream = model.stream("hello", temperature=0, max_tokens=12)
    pieces = list(stream)
    assert "".join(piece.text for piece in pieces) == expected.text
    assert [token for piece in pieces for token in piece.token_ids] == expected.tokens
    assert stream.completion.tokens == expected.tokens
    assert next(stream, None) is None


def test_chat(model):
    messages = [{"role": "user", "content": "hi <s>"}]
    tokens = model.chat_tokens(messages)
    assert EOS in tokens, "the template's special tokens become ids"
    assert BOS not in tokens[1:], "those of a message do not"
    completion = model.chat(messages, temperature=0, max_tokens=7)
    assert completion.tokens == greedy(tokens, 7)
    assert "".join(p.text for p in model.stream_chat(messages, temperature=0, max_tokens=7)) == completion.text


def test_async_twins_give_the_same(model):
    messages = [{"role": "user", "content": "hi"}]

    async def everything():
        stream = await model.astream("hello", temperature=0, max_tokens=9)
        pieces = [piece.text async for piece in stream]
        chat = await model.astream_chat(messages, temperature=0, max_tokens=9)
        return (
            "".join(pieces),
            stream.completion.text,
            (await model.agenerate("hello", temperature=0, max_tokens=9)).text,
            "".join([piece.text async for piece in chat]),
            (await model.achat(messages, temperature=0, max_tokens=9)).text,
            await model.atokenize("abc"),
            await model.adetokenize([0, 1, 2]),
            (await model.alogits([1, 2])).shape,
        )

    hello = model.generate("hello", temperature=0, max_tokens=9).text
    chat = model.chat(messages, temperature=0, max_tokens=9).text
    assert asyncio.run(everything()) == (hello, hello, hello, chat, chat, [0, 1, 2], "abc", (2, VOCABULARY))


def test_several_prompts_at_once(model, executor, monkeypatch):
    monkeypatch.setattr("freehold.api.MAX_IN_FLIGHT", 8)
    executor.may_run.clear()
    prompts = [[i, i + 1, 3] for i in range(20)]
    threading.Timer(0.1, executor.may_run.set).start()
    completions = model.generate_tokens(prompts, temperature=0, max_tokens=6)
    assert [c.tokens for c in completions] == [greedy(prompt, 6) for prompt in prompts]
    assert max(len(batch.row_starts) - 1 for batch in executor.batches) >= 4


def test_threads_and_tasks_share_steps(model, executor):
    executor.may_run.clear()
    results = {}

    def thread(i):
        results[i] = model.generate([i, 5], temperature=0, max_tokens=10).tokens

    threads = [threading.Thread(target=thread, args=(i,)) for i in range(6)]
    for t in threads:
        t.start()

    async def tasks():
        jobs = [asyncio.create_task(model.agenerate([i, 5], temperature=0, max_tokens=10)) for i in range(6, 12)]
        await asyncio.sleep(0.1)
        executor.may_run.set()
        return [(await job).tokens for job in jobs]

    got = asyncio.run(tasks())
    for t in threads:
        t.join()
    assert [*(results[i] for i in range(6)), *got] == [greedy([i, 5], 10) for i in range(12)]
    assert max(len(batch.row_starts) - 1 for batch in executor.batches) >= 8


# How a reply ends.


def test_stop_strings_end_a_reply(model):
    whole = model.generate("hello", temperature=0, max_tokens=30)
    stop = whole.text[10:13]
    at = whole.text.index(stop)
    for got in (
        model.generate("hello", temperature=0, max_tokens=30, stop=stop),
        model.generate("hello", temperature=0, max_tokens=30, stop=["never there", stop]),
    ):
        assert got.text == whole.text[:at]
        assert got.finish_reason == "stop"
        assert len(got.tokens) == len(got.logprobs) < 30
    stream = model.stream("hello", temperature=0, max_tokens=30, stop=[stop])
    assert "".join(piece.text for piece in stream) == whole.text[:at]


def test_the_beginning_of_a_stop_string_is_not_lost(model):
    whole = model.generate("hello", temperature=0, max_tokens=10)
    got = model.generate("hello", temperature=0, max_tokens=10, stop=whole.text[-2:] + "zzz")
    assert (got.text, got.finish_reason) == (whole.text, "length")


def test_end_tokens_and_stop_ids(model):
    seed = next(s for s in range(200) if EOS in reply_of(s))
    reply = reply_of(seed)
    at = reply.index(EOS)
    options = dict(temperature=1.0, top_p=1.0, seed=seed, max_tokens=90)
    stopped = model.generate([seed % 50], **options)
    assert (stopped.tokens, stopped.finish_reason) == (reply[:at], "stop")
    assert model.generate([seed % 50], ignore_eos=True, **options).tokens == reply[:90]
    other = reply[2]
    stopped = model.generate([seed % 50], ignore_eos=True, stop_ids=[other], **options)
    assert (stopped.tokens, stopped.finish_reason) == (reply[: reply.index(other)], "stop")


def reply_of(seed: int) -> list[int]:
    from freehold._native import Sampler

    sampler, tokens = Sampler(temperature=1.0, seed=seed), [seed % 50]
    while len(tokens) < 91:
        tokens.append(sampler.sample(reference_logits(tokens))[0])
    return tokens[1:]


def test_a_seed_gives_the_same_reply_and_none_another(model):
    options = dict(temperature=1.5, max_tokens=20, ignore_eos=True)
    first = model.generate("a", seed=7, **options).tokens
    assert model.generate("a", seed=7, **options).tokens == first
    assert model.generate("a", seed=8, **options).tokens != first
    assert model.generate("a", **options).tokens != model.generate("a", **options).tokens


def test_the_context_ends_a_reply(model):
    completion = model.generate([1] * 90, ignore_eos=True)
    assert (completion.finish_reason, len(completion.tokens)) == ("length", CONTEXT - 90)


# Cancelling.


@pytest.mark.parametrize("how", ["close", "with", "drop", "break"])
def test_a_stream_that_is_left_is_cancelled(model, executor, how):
    stream = model.stream("a", ignore_eos=True)
    if how == "with":
        with stream:
            next(stream)
    elif how == "break":
        for _ in stream:
            break
    else:
        next(stream)
    if how == "close":
        stream.close()
        assert stream.completion.finish_reason in ("cancelled", "length")
    request = stream.request
    del stream
    gc.collect()
    assert idle(executor)
    assert request.finished


def test_a_cancelled_task_cancels_its_request(model, executor):
    executor.may_run.clear()

    async def cancel(delay):
        task = asyncio.create_task(model.agenerate("abc", ignore_eos=True))
        await asyncio.sleep(delay)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancel(0.05))  # waiting for its first token
    asyncio.run(cancel(0))  # on its way to the engine
    executor.may_run.set()
    assert idle(executor)
    assert sum(len(batch.tokens) for batch in executor.batches) <= 2 * 5


def test_closing_ends_replies(executor):
    for model in model_of(executor, METADATA):
        executor.may_run.clear()
        stream = model.stream("a", ignore_eos=True)
        executor.running.wait()
        threading.Timer(0.05, executor.may_run.set).start()
        model.close()
        assert [piece for piece in stream if piece.text][1:] == []
        assert stream.completion.finish_reason == "cancelled"
        with pytest.raises(EngineError, match="the engine is closed"):
            model.generate("a")
        with pytest.raises(EngineError, match="the engine is closed"):
            model.logits([1])


def test_a_process_that_forgets_to_close_ends():
    code = """
import sys
sys.path.insert(0, sys.argv[1])
from fake_executor import FakeExecutor
from freehold.engine.engine import Engine
from freehold.engine.request import Request, SamplingParams
from freehold.executors.native import native_sampler
engine = Engine(FakeExecutor(), native_sampler, context=96)
engine.submit(Request([1], SamplingParams(), lambda event: None))
print("done")
"""
    folder = str(Path(__file__).parent)
    done = subprocess.run([sys.executable, "-c", code, folder], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


# What goes wrong.


@pytest.mark.parametrize(
    ("prompt", "options", "error", "message"),
    [
        ([], {}, RequestError, "the prompt is empty"),
        ([1] * CONTEXT, {}, PromptTooLongError, f"the prompt has {CONTEXT} tokens; the context holds {CONTEXT}"),
        ("a" * 200, {}, PromptTooLongError, "the prompt has 201 tokens"),
        ("a", dict(temprature=1), RequestError, "sampling options: .*'temprature'"),
        ("a", dict(temperature=-1), RequestError, "temperature: expected a number from 0"),
        ("a", dict(stop=""), RequestError, "stop: expected up to 16 texts that are not empty, got ''"),
        ("a", dict(stop=["a", 1]), RequestError, "stop: expected up to 16 texts"),
        ("a", dict(stop=["a"] * 17), RequestError, "stop: expected up to 16 texts"),
        ("a", dict(stop_ids=3), RequestError, "stop_ids: expected token ids, got 3"),
        ("a", dict(stop_ids=["x"]), RequestError, r"stop_ids: expected token ids, got \['x'\]"),
        ("a", dict(stop=5), RequestError, "stop: expected up to 16 texts that are not empty, got 5"),
        ("a", dict(salt="x"), RequestError, "salt: expected bytes, got 'x'"),
        (3, {}, RequestError, "prompt: expected token ids: 'int' object is not iterable"),
        (None, {}, RequestError, "prompt: expected token ids: 'NoneType' object is not"),
    ],
)
def test_wrong_requests_are_refused(model, prompt, options, error, message):
    for call in (model.generate, model.stream, lambda p, **o: asyncio.run(model.agenerate(p, **o))):
        with pytest.raises(error, match=message):
            call(prompt, **options)
    assert model.generate("a", max_tokens=1).tokens  # nobody else is harmed


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ([1, -1], "token -1 is not in the vocabulary"),
        ([10**6], "token 1000000 is not in"),
        ("ab", "expected token ids"),
        ([1.5], "expected token ids"),
    ],
)
def test_what_is_no_token_has_no_text(model, tokens, message):
    with pytest.raises(RequestError, match=message):
        model.detokenize(tokens)


def test_one_text_is_not_several_prompts_to_embed(model):
    for call in (model.embed, lambda prompts: asyncio.run(model.aembed(prompts))):
        with pytest.raises(RequestError, match="prompts: expected a list of prompts, got one text"):
            call("abc")


def test_a_model_does_not_go_along_with_a_fork():
    """The child has the model but not its thread: it is told, where it would wait for ever."""
    code = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
from fake_executor import FakeExecutor
from freehold.engine.engine import Engine
from freehold.engine.request import Request, SamplingParams
from freehold.executors.native import native_sampler
engine = Engine(FakeExecutor(), native_sampler, context=96)
engine._changed.acquire()  # as a thread may hold it
child = os.fork()
if child == 0:
    signal.alarm(10)
    try:
        engine.submit(Request([1], SamplingParams(), lambda event: None))
    except Exception as error:
        print(error, flush=True)
    engine.close()
    os._exit(0)
engine._changed.release()
print(os.waitpid(child, 0)[1], flush=True)
"""
    folder = str(Path(__file__).parent)
    done = subprocess.run([sys.executable, "-c", code, folder], capture_output=True, text=True, timeout=60)
    assert done.stdout == "the model was loaded before this process was forked\n0\n", done.stderr


def test_if_one_of_several_prompts_is_refused_the_others_end(model, executor):
    with pytest.raises(PromptTooLongError):
        model.generate_tokens([[1], [2], [1] * 500], ignore_eos=True)
    assert idle(executor)
    assert sum(len(batch.tokens) for batch in executor.batches) < 2 * 90


def test_a_failed_step_is_an_error_of_the_call(model, executor):
    executor.fail_on = 3
    with pytest.raises(EngineError, match="a step failed: ValueError: the executor stumbled"):
        model.generate([1, 2, 3])
    with pytest.raises(EngineError, match="a step failed"):
        model.logits([1, 2, 3])
    with pytest.raises(EngineError, match="a step failed"):
        asyncio.run(model.agenerate([1, 2, 3]))
    assert model.generate([1, 2], temperature=0, max_tokens=1).finish_reason == "length"


def test_a_model_without_a_template_does_not_guess(executor):
    for model in model_of(executor, METADATA):
        with pytest.raises(TemplateError):
            model.chat([{"role": "user", "content": "hi"}])
        assert model.generate("hi", temperature=0, max_tokens=1).tokens


# Logits.


def test_a_file_cut_short_while_in_use_is_an_error_of_the_call(smollm, tmp_path):
    path = tmp_path / "model.gguf"
    shutil.copy(smollm, path)
    with freehold.load(path, context=256) as model:
        assert len(model.generate("Once upon a time", max_tokens=4, temperature=0).tokens) == 4
        os.truncate(path, 1 << 20)
        with pytest.raises(EngineError, match="cut short while in use"):
            model.generate("Another beginning", max_tokens=4, temperature=0)


@pytest.mark.parametrize("length", [1, 2, 64, 65, CONTEXT])
def test_logits(model, length):
    tokens = numpy.random.default_rng(length).integers(0, VOCABULARY, length).tolist()
    got = model.logits(tokens)
    assert (got.dtype, got.shape) == (numpy.float32, (length, VOCABULARY))
    numpy.testing.assert_array_equal(got, [reference_logits(tokens[: i + 1]) for i in range(length)])


def test_logits_are_budgeted(model, monkeypatch):
    monkeypatch.setattr("freehold.api.available_memory", lambda: 100)
    with pytest.raises(MemoryBudgetError, match="the logits of 50 tokens: needs"):
        model.logits([1] * 50)


# Memory.


def test_the_kv_cache_gets_a_context_at_least():
    assert budget_kv_blocks(1000, 10, 32, 64, available=10**9) == 16 * 2048 // 32
    assert budget_kv_blocks(1000, 10, 32, 64, available=1020) == 2
    assert budget_kv_blocks(1000, 10, 32, 320, available=1400) == 20, "half of what is left"
    assert budget_kv_blocks(1000, 10, 32, 64 * 2048, available=10**9) == 64 * 2048 // 32
    with pytest.raises(MemoryBudgetError) as caught:
        budget_kv_blocks(10**9, 10**6, 32, 3200, available=1_050_000_000)
    assert caught.value.message == (
        "the model with a context of 3200 tokens: needs 1.10 GB of memory, 1.05 GB are available"
    )
    assert "a shorter context" in caught.value.hint


def test_experts_get_what_the_rest_leaves():
    assert budget_experts(10**9, 8 * 10**8, 10**7, available=2 * 10**9) is None, "all fit"
    assert budget_experts(10**9, 0, 10**7, available=10**8) is None, "there are none"
    left = 5 * 10**8 - 2 * 10**8 - 10**7
    assert budget_experts(10**9, 8 * 10**8, 10**7, available=5 * 10**8) == left - (64 << 20)
    assert budget_experts(10**10, 9 * 10**9, 0, available=3 * 10**9) == 18 * 10**8, "a tenth is spared"
    assert budget_experts(10**9, 8 * 10**8, 10**7, available=10**8) == 0


def test_limits_of_the_process_count():
    code = "import resource; resource.setrlimit(resource.RLIMIT_DATA, (10**9, 10**9));"
    code += "from freehold.engine.memory import process_limits; print(*process_limits())"
    limits = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.split()
    assert len(limits) == 1 and 8 * 10**8 < int(limits[0]) < 10**9


def cgroup(folder, names, *, limit, used, cached):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / names[0]).write_text(f"{limit}\n")
    (folder / names[1]).write_text(f"{used}\n")
    kinds = {"inactive_file": cached - cached // 3, "active_file": cached // 3}
    lines = [f"{total}{kind} {count}\n" for kind, count in kinds.items() for total in ("", "total_")]
    (folder / "memory.stat").write_text("".join(["anon 5\n", *lines]))


V1, V2 = ("memory.limit_in_bytes", "memory.usage_in_bytes"), ("memory.max", "memory.current")


@pytest.mark.parametrize(
    ("line", "root", "names"), [("0::/user/app", "", V2), ("4:cpu,memory:/user/app", "memory", V1)], ids=["v2", "v1"]
)
def test_the_limits_of_all_cgroups_around_count(tmp_path, line, root, names):
    membership = tmp_path / "membership"
    membership.write_text(f"7:pids:/user\n{line}\n")
    mount = tmp_path / "mount"
    assert min(cgroup_limits(membership, mount)) > 1 << 60
    cgroup(mount / root / "user" / "app", names, limit=1000, used=900, cached=600)
    assert min(cgroup_limits(membership, mount)) == 700, "page cache is given back on demand"
    cgroup(mount / root / "user", names, limit=500, used=450, cached=0)
    assert min(cgroup_limits(membership, mount)) == 50
    cgroup(mount / root / "user", names, limit="max", used=450, cached=0)
    assert min(cgroup_limits(membership, mount)) == 700


# Light.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threads": "2"}, "threads: expected 1 to 1024, got '2'"),
        ({"threads": 0}, "threads: expected 1 to 1024, got 0"),
        ({"quantize": 5}, "quantize 5: unknown"),
        ({"context": "all"}, "context: expected 2 to"),
    ],
)
def test_wrong_options_of_load_are_refused(smollm, options, message):
    with pytest.raises(RequestError, match=message):
        freehold.load(smollm, **options)


def test_importing_loads_nothing_heavy():
    heavy = ["numpy", "torch", "tokenizers", "jinja2", "asyncio"]
    code = f"import sys, freehold; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"
    code = code.replace("freehold;", "freehold.loading;")
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


def test_the_public_names():
    assert set(freehold.__all__) >= {"load", "describe", "Model", "Completion", "Piece", "FreeholdError"}
    for name in freehold.__all__:
        assert getattr(freehold, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        freehold.lod  # noqa: B018
