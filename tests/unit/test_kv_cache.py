"""The block pool: references, the prefix cache, copies of partial blocks, eviction."""

from hypothesis import given, settings
from hypothesis import strategies as st

from freehold.engine.kv_cache import BlockPool

SIZE = 4


def fill(pool: BlockPool, tokens: list[int], salt: bytes = b"") -> list[int]:
    """Blocks that hold `tokens`, the full ones published, as a request that has computed them would."""
    blocks, parent = [], pool.root(salt)
    for start in range(0, len(tokens), SIZE):
        blocks.append(pool.allocate())
        if start + SIZE <= len(tokens):
            parent = pool.publish(blocks[-1], parent, tokens[start : start + SIZE])
    return blocks


def matched(pool: BlockPool, tokens: list[int], salt: bytes = b"") -> list[int]:
    """The cached blocks that `tokens` begins with, given back at once."""
    blocks, digests = pool.match(pool.digests(tokens, salt))
    assert len(blocks) == len(digests)
    pool.release(blocks)
    return blocks


def test_blocks_are_lent_once_and_come_back():
    pool = BlockPool(5, SIZE)
    blocks = [pool.allocate() for _ in range(5)]
    assert sorted(blocks) == [0, 1, 2, 3, 4]
    assert pool.num_available == 0
    pool.release(blocks[:2])
    assert pool.num_available == 2
    assert {pool.allocate(), pool.allocate()} == set(blocks[:2])


def test_only_full_leading_blocks_of_the_same_tokens_match():
    pool = BlockPool(16, SIZE)
    tokens = list(range(10))
    blocks = fill(pool, tokens)
    assert matched(pool, tokens) == blocks[:2]
    assert matched(pool, tokens[:7]) == blocks[:1]
    assert matched(pool, tokens[:3]) == []
    assert matched(pool, [*tokens[:4], 9, *tokens[5:]]) == blocks[:1]
    assert matched(pool, tokens[4:]) == [], "the same tokens at another place are something else"
    assert matched(pool, tokens, b"other") == []


def test_the_same_tokens_have_other_names_in_another_engine():
    one, other = BlockPool(2, SIZE), BlockPool(2, SIZE)
    assert one.root(b"") != other.root(b"")
    assert one.digest(bytes(16), [1, 2]) != other.digest(bytes(16), [1, 2])


def test_a_block_in_use_is_not_evicted():
    pool = BlockPool(4, SIZE)
    blocks = fill(pool, list(range(8)))
    pool.release(blocks)
    held, _ = pool.match(pool.digests(list(range(4)), b""))
    assert held == blocks[:1]
    assert pool.num_available == 3
    assert blocks[0] not in {pool.allocate() for _ in range(3)}


def test_free_blocks_go_first_then_the_least_recently_used_last_of_a_sequence_first():
    pool = BlockPool(6, SIZE)
    first, second = fill(pool, list(range(8))), fill(pool, list(range(50, 58)))
    pool.release(first)
    pool.release(second)
    matched(pool, list(range(8)))  # the first is used again
    assert pool.num_available == 6
    assert {pool.allocate(), pool.allocate()} == {4, 5}
    assert [pool.allocate() for _ in range(4)] == [second[1], second[0], first[1], first[0]]
    assert matched(pool, list(range(8))) == []


def test_an_evicted_block_is_forgotten():
    pool = BlockPool(2, SIZE)
    pool.release(fill(pool, list(range(8))))
    reused = [pool.allocate()]
    assert len(matched(pool, list(range(8)))) == 1
    pool.release(reused)
    assert pool.num_available == 2


def test_of_two_blocks_with_the_same_content_one_is_shared():
    pool = BlockPool(8, SIZE)
    first, second = fill(pool, list(range(8))), fill(pool, list(range(8)))
    assert matched(pool, list(range(8))) == first
    pool.release(second)
    pool.release(first)
    assert pool.num_available == 8
    assert matched(pool, list(range(8))) == first


def test_a_partial_block_is_copied_from_the_most_alike():
    pool, copies = BlockPool(8, SIZE), []
    fill(pool, [1, 2, 3, 4])
    alike = fill(pool, [1, 2, 9, 9])
    found = pool.copy_partial(pool.root(b""), [1, 2, 9], lambda *pair: copies.append(pair))
    assert found is not None
    block, common = found
    assert common == 3
    assert copies == [(alike[0], block)]
    assert pool.num_available == 5
    assert pool.copy_partial(pool.root(b""), [7, 7], lambda *pair: copies.append(pair)) is None
    assert pool.copy_partial(pool.root(b"other"), [1, 2, 9], lambda *pair: copies.append(pair)) is None
    assert len(copies) == 1


def test_a_partial_block_is_not_copied_over_its_own_source():
    pool, copies = BlockPool(1, SIZE), []
    pool.release(fill(pool, [1, 2, 3, 4]))
    assert pool.copy_partial(pool.root(b""), [1, 2], lambda *pair: copies.append(pair)) is None
    assert copies == []
    assert pool.num_available == 1
    assert matched(pool, [1, 2, 3, 4]) == [0]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["start", "end"]), st.integers(0, 1 << 30)), max_size=60))
def test_no_block_is_lost_or_lent_twice(steps):
    """Sequences of few different tokens come and go; each finds in its blocks what it or another has put there."""
    pool = BlockPool(12, SIZE)
    content: dict[int, tuple[int, ...]] = {}  # what a full block holds, all tokens up to its end
    living: list[tuple[list[int], list[int]]] = []
    for step, number in steps:
        if step == "end" and living:
            pool.release(living.pop(number % len(living))[1])
        elif step == "start":
            tokens = [number >> i & 1 for i in range(1 + number % 17)]
            blocks, digests = pool.match(pool.digests(tokens, b""))
            for i, block in enumerate(blocks):
                assert content[block] == tuple(tokens[: (i + 1) * SIZE])
            if -(-len(tokens) // SIZE) - len(blocks) > pool.num_available:
                pool.release(blocks)
                continue
            parent = digests[-1] if digests else pool.root(b"")
            for start in range(len(blocks) * SIZE, len(tokens), SIZE):
                blocks.append(pool.allocate())
                content[blocks[-1]] = tuple(tokens[: start + SIZE])
                if start + SIZE <= len(tokens):
                    parent = pool.publish(blocks[-1], parent, tokens[start : start + SIZE])
            living.append((tokens, blocks))
        for tokens, blocks in living:
            for i, block in enumerate(blocks):
                assert content[block] == tuple(tokens[: (i + 1) * SIZE])
        assert pool.num_available == 12 - len({block for _, blocks in living for block in blocks})
