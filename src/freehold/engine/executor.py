"""What the engine asks of an executor."""
from dataclasses import dataclass

@dataclass(slots=True)
class Batch:
    tokens: list[int]
    positions: list[int]
    row_starts: list[int]
    block_tables: list[list[int]]
    logit_rows: list[int]
