"""Compiled steps give what the steps of the torch executor give one operation at a time."""

import itertools

import pytest

torch = pytest.importorskip("torch", reason="torch is needed for the reference")
pytest.importorskip("transformers", reason="transformers is the reference")

from freehold.executors.torch_compiled import PagedCache, Pages, order_of  # noqa: E402
from freehold.executors.torch_operations import Heads, LayerCache, Step  # noqa: E402
from parity.reference import assert_close, make_pair, random_ids, run  # noqa: E402

TABLES = [[5, 2, 7], [1], [6, 0]]
FIRST, COUNTS = [70, 3, 40], [1, 2, 1]  # positions of each request's first row, and its rows
SIZE, BLOCKS, HEADS, KV_HEADS, HEAD = 32, 8, 6, 2, 16


@pytest.mark.parametrize(
    ("window", "chunk", "sinks"), [(None, None, False), (9, None, False), (40, None, True), (None, 16, False)]
)
def test_attention_over_pages(window, chunk, sinks):
    """Each row, by its own table, sees what the rows of a request see."""
    draw = torch.Generator().manual_seed(0)
    width = KV_HEADS * HEAD
    memory = {name: torch.randn((BLOCKS + 1, SIZE, width), generator=draw) for name in ("keys", "values")}
    rows = sum(COUNTS)
    q, k, v = (torch.randn((rows, heads * HEAD), generator=draw) for heads in (HEADS, KV_HEADS, KV_HEADS))
    given = torch.randn(HEADS, generator=draw) if sinks else None
    positions = torch.tensor([first + i for first, count in zip(FIRST, COUNTS, strict=True) for i in range(count)])
    by_rows = zip(TABLES, COUNTS, strict=True)
    tables = torch.tensor([table + [BLOCKS] * (4 - len(table)) for table, count in by_rows for _ in range(count)])
    starts = [0, *itertools.accumulate(COUNTS)]
    by_request = LayerCache(Step(positions, starts, FIRST, TABLES, SIZE), {n: m.clone() for n, m in memory.items()})
    by_row = PagedCache(Pages(positions, tables, order_of(tables, BLOCKS + 1), SIZE), memory)
    outputs = []
    for cache in (by_request, by_row):
        cache.write("keys", k)
        cache.write("values", v)
        outputs.append(cache.attend(q, Heads(HEADS, KV_HEADS, HEAD**-0.5, window, chunk, given)))
    assert all((by_request.storage[name] == by_row.storage[name]).all() for name in memory)
    torch.testing.assert_close(outputs[1], outputs[0])


@pytest.mark.parametrize("name", ["qwen2", "llama4"])
def test_decoding(name, tmp_path):
    """A prompt by eager steps, then decoding of unequal requests and of several rows of one, compiled."""
    pair = make_pair(name, tmp_path)
    executor = pair.executor("torch", compiled=True)
    prompts = [random_ids(count, seed=count) for count in (40, 70)]
    tables = [[3, 9], [4, 1, 8]]
    for ids, blocks in zip(prompts, tables, strict=True):
        run(executor, [(ids, 0, blocks)])
    for _ in range(3):
        logits = run(executor, [([7], len(ids), blocks) for ids, blocks in zip(prompts, tables, strict=True)])
        for ids, row in zip(prompts, logits, strict=True):
            ids.append(7)
            assert_close(row[None], pair.logits(ids)[-1:])
    several = random_ids(3, seed=9)
    assert_close(run(executor, [(several, len(prompts[1]), tables[1])]), pair.logits(prompts[1] + several)[-3:])
    assert executor.info["compiled"]
