"""Steps of an executor, put together by hand."""

from freehold.engine.executor import Batch


def batch_of(requests: list[tuple[list[int], int, list[int]]]) -> Batch:
    """The rows of [(tokens, first position, blocks)], without logit rows."""
    batch = Batch()
    for tokens, first, blocks in requests:
        batch.tokens += tokens
        batch.positions += range(first, first + len(tokens))
        batch.row_starts.append(len(batch.tokens))
        batch.block_tables.append(blocks)
    return batch
