"""Which rows make up the next step.

Continuous batching (Yu et al. 2022) with chunked prefill (Agrawal et al. 2023): every decoding request gets its row,
what is left of the step goes to prefill, in turns; where replies wait for it, a step has as few rows of prefill as
keep their pause short. A request is admitted when its whole prompt has blocks, and no
other is computing the beginning that they share; when a decoding request finds no block, the youngest is preempted:
its blocks are freed and it is computed again later.
"""

import time
from collections import deque
from collections.abc import Callable

from freehold.engine.executor import Batch
from freehold.engine.kv_cache import BlockPool
from freehold.engine.request import Request

MAX_PAUSE_S = 0.08  # that others' prefill is to add between two tokens of a reply
MIN_PREFILL_ROWS = 32  # of a step, however long they take

Work = list[tuple[Request, int]]  # requests of a step, with their number of rows


class Scheduler:
    def __init__(
        self,
        pool: BlockPool,
        *,
        max_rows: int,
        max_logit_rows: int,
        max_requests: int,
        copy_block: Callable[[int, int], None],
        keeps_states: bool = False,
        speculates: bool = False,
    ):
        self.pool = pool
        self.max_rows = max_rows
        self.max_logit_rows = max_logit_rows
        self.max_requests = min(max_requests, max_rows, max_logit_rows)
        self.copy_block = copy_block
        self.keeps_states = keeps_states
        self.speculates = speculates
        self.waiting: deque[Request] = deque()
        self.running: list[Request] = []
        self.prefix_query_tokens = self.prefix_hit_tokens = self.preemptions = 0
        self._rows_in_pause = max_rows
        self._turn = 0  # which prefilling request is first in the next step
        self._head_fits = True  # False: the oldest waiting request did not fit, and no block was freed since

    @property
    def has_work(self) -> bool:
        return bool(self.waiting or self.running)

    def add(self, request: Request) -> None:
        self.waiting.append(request)

    def remove(self, request: Request) -> None:
        """Forget a request, running or waiting, and free its blocks at once."""
        if request in self.running:
            self.running.remove(request)
        elif request in self.waiting:
            self.waiting.remove(request)
        self._free(request)

    def schedule(self) -> tuple[Batch, Work]:
        """The next step, empty only when nothing is left to do."""
        self._admit()
        work: Work = []
        for request in list(self.running):
            self._ensure_blocks(request)
            if request.num_remaining == 1 and not request.reads_rows:
                work.append((request, 1))
        # One that was preempted for another of this step has no blocks.
        work = [(request, rows) for request, rows in work if request.blocks]
        if self.speculates and len(work) == len(self.running) == 1:
            self._propose(work[0][0])
        self._add_prefill(work)
        return self._batch(work), work

    def computed(self, request: Request, rows: int) -> None:
        """Note that a step has computed `rows` more of the request; its full blocks become shareable."""
        request.num_computed += rows
        size = self.pool.block_size
        for index in range(len(request.hashes), request.num_computed // size):
            parent = request.hashes[-1] if request.hashes else self.pool.root(request.salt)
            tokens = request.tokens[index * size : (index + 1) * size]
            request.hashes.append(self.pool.publish(request.blocks[index], parent, tokens))

    def took(self, rows: int, seconds: float) -> None:
        """Note how long a step has taken."""
        if rows >= MIN_PREFILL_ROWS and seconds > 0:
            self._rows_in_pause = int(rows * MAX_PAUSE_S / seconds)

    def _admit(self) -> None:
        while self.waiting and self._head_fits and len(self.running) < self.max_requests:
            request = self.waiting[0]
            num_blocks = -(-len(request.tokens) // self.pool.block_size)
            if request.shares_prefix:
                request.prompt_hashes = self.pool.digests(request.tokens[:-1], request.salt)
                request.blocks, request.hashes = self.pool.match(request.prompt_hashes)
                if self._is_coming(request):
                    self._free(request)
                    return
            # One block for each running request stays free, so that what is admitted is not preempted at once.
            if num_blocks - len(request.blocks) + len(self.running) > self.pool.num_available:
                self._free(request)
                self._head_fits = False
                return
            if request.shares_prefix:
                self._use_cached(request)
            request.blocks += [self.pool.allocate() for _ in range(num_blocks - len(request.blocks))]
            request.started_at = request.started_at or time.monotonic()
            self.running.append(self.waiting.popleft())

    def _is_coming(self, request: Request) -> bool:
        """Whether the first block that the request lacks is being computed for another: then it waits for that."""
        at = len(request.hashes)
        if at == len(request.prompt_hashes):
            return False
        lacking = request.prompt_hashes[at]
        return any(other.num_remaining > 1 and lacking in other.prompt_hashes[at : at + 1] for other in self.running)

    def _use_cached(self, request: Request) -> None:
        """Count what the matched blocks hold, and copy what the next has in common with a cached one, where it can be.

        The last token is always computed, for its logits.
        """
        request.num_computed = len(request.blocks) * self.pool.block_size
        parent = request.hashes[-1] if request.hashes else self.pool.root(request.salt)
        rest = request.tokens[request.num_computed : -1][: self.pool.block_size]
        partial = None if self.keeps_states else self.pool.copy_partial(parent, rest, self.copy_block)
        if partial:
            request.blocks.append(partial[0])
            request.num_computed += partial[1]
        if not request.started_at:
            request.num_cached = request.num_computed
        self.prefix_query_tokens += len(request.tokens) - 1
        self.prefix_hit_tokens += request.num_computed

    def _ensure_blocks(self, request: Request) -> None:
        """Give a running request blocks for what it has drawn, at the cost of the youngest (itself, maybe).

        A prompt has its blocks since its admission; a constraint may have forced several tokens at once.
        """
        while request.blocks and len(request.blocks) * self.pool.block_size < len(request.tokens):
            if self.pool.num_available:
                request.blocks.append(self.pool.allocate())
            else:
                self._preempt(max(self.running, key=lambda r: r.submitted_at))

    def _propose(self, request: Request) -> None:
        """Give a request that has the step to itself tokens that may follow, as far as there is room for them."""
        if request.constraint:
            return
        most = min(self.max_rows, self.max_logit_rows, request.max_length - len(request.tokens)) - 1
        drafts = request.speculation.propose(request.tokens, request.foreseen, most)
        last, size = request.num_computed + len(drafts), self.pool.block_size
        while last // size >= len(request.blocks) and self.pool.num_available:
            request.blocks.append(self.pool.allocate())
        drafts = drafts[: len(request.blocks) * size - request.num_computed - 1]
        request.drafts = self._save_state(request, drafts) if self.keeps_states else drafts

    def _save_state(self, request: Request, drafts: list[int]) -> list[int]:
        """The drafts that share a block with the known token; its state is copied, to go back to if one is wrong.

        Where the known token is its block's first, the block before has that state.
        """
        first, size = request.num_computed, self.pool.block_size
        drafts = drafts[: size - 1 - first % size]
        if not drafts or first % size == 0:
            return drafts
        if not self.pool.num_available:
            return []
        request.spare = [self.pool.allocate()]
        self.copy_block(request.blocks[first // size], request.spare[0])
        return drafts

    def settle(self, request: Request, all_drawn: bool) -> bool:
        """After a step with drafts. True: its rows must be computed again, since the state is past a wrong draft."""
        goes_back = self.keeps_states and not all_drawn
        if goes_back:
            request.num_computed -= 1
            if request.spare:
                self.copy_block(request.spare[0], request.blocks[request.num_computed // self.pool.block_size])
        self.pool.release(request.spare)
        request.spare = []
        return goes_back

    def _preempt(self, request: Request) -> None:
        self.preemptions += 1
        self.running.remove(request)
        self._free(request)
        self.waiting.appendleft(request)

    def _free(self, request: Request) -> None:
        self._head_fits = True
        self.pool.release([*request.blocks, *request.spare])
        request.blocks, request.spare, request.hashes, request.num_computed = [], [], [], 0

    def _add_prefill(self, work: Work) -> None:
        rows = self.max_rows - len(work)
        if work:
            rows = min(rows, max(MIN_PREFILL_ROWS, self._rows_in_pause))
        logit_rows = self.max_logit_rows - len(work)
        prefilling = [request for request in self.running if request.num_remaining > 1 or request.reads_rows]
        self._turn += 1
        for i in range(len(prefilling)):
            request = prefilling[(self._turn + i) % len(prefilling)]
            chunk = min(request.num_remaining, rows)
            if request.reads_rows:
                chunk = min(chunk, logit_rows)
            if chunk <= 0 or not logit_rows:
                continue
            work.append((request, chunk))
            rows -= chunk
            logit_rows -= chunk if request.reads_rows else 1

    def _batch(self, work: Work) -> Batch:
        batch = Batch()
        for request, rows in work:
            first = request.num_computed
            batch.tokens += [*request.tokens[first : first + rows], *request.drafts]
            batch.positions += range(first, first + rows + len(request.drafts))
            batch.block_tables.append(request.blocks)
            end = len(batch.tokens)
            batch.row_starts.append(end)
            if request.reads_rows:
                batch.logit_rows += range(end - rows, end)
            elif rows == request.num_remaining:
                batch.logit_rows += range(end - 1 - len(request.drafts), end)
        return batch
