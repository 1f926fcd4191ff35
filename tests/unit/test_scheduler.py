"""What goes into a step: decode rows first, prefill in turns, admission and preemption by blocks."""

from freehold.engine.kv_cache import BlockPool
from freehold.engine.request import Request, SamplingParams
from freehold.engine.scheduler import MAX_PAUSE_S, MIN_PREFILL_ROWS, Scheduler


class Plan:
    """A scheduler whose steps 'compute' at once; each request then draws token 0."""

    def __init__(self, *, num_blocks=1000, block_size=4, max_rows=16, max_logit_rows=16, max_requests=8):
        self.copies = []
        self.pool = BlockPool(num_blocks, block_size)
        self.scheduler = Scheduler(
            self.pool,
            max_rows=max_rows,
            max_logit_rows=max_logit_rows,
            max_requests=max_requests,
            copy_block=lambda *pair: self.copies.append(pair),
        )

    def add(self, length: int, *, first: int = 1, wants_logits: bool = False) -> Request:
        prompt = [first] + [2] * (length - 1)
        request = Request(prompt, SamplingParams(), lambda event: None, wants_logits=wants_logits)
        self.scheduler.add(request)
        return request

    def step(self) -> dict[Request, int]:
        """The rows of each request in one step."""
        batch, work = self.scheduler.schedule()
        assert len(batch.tokens) == sum(rows for _, rows in work) <= self.scheduler.max_rows
        assert len(batch.logit_rows) <= self.scheduler.max_logit_rows
        assert len({id(request) for request, _ in work}) == len(work), "a request is in the step twice"
        for (request, rows), table, start in zip(work, batch.block_tables, batch.row_starts, strict=False):
            assert batch.positions[start : start + rows] == list(
                range(request.num_computed, request.num_computed + rows)
            )
            assert len(table) * self.pool.block_size >= request.num_computed + rows
        for request, rows in work:
            self.scheduler.computed(request, rows)
            if not request.num_remaining and not request.wants_logits:
                request.tokens.append(0)
        return dict(work)


def test_decode_rows_come_first_and_prefill_fills_the_rest():
    plan = Plan(max_rows=16)
    a, b = plan.add(3, first=1), plan.add(4, first=3)
    assert plan.step() == {a: 3, b: 4}
    long = plan.add(30, first=5)
    assert plan.step() == {a: 1, b: 1, long: 14}
    assert plan.step() == {a: 1, b: 1, long: 14}
    assert plan.step() == {a: 1, b: 1, long: 2}
    assert plan.step() == {a: 1, b: 1, long: 1}


def test_replies_pause_shortly_for_the_prefill_of_others():
    plan = Plan(max_rows=512, num_blocks=10_000)
    reply = plan.add(3, first=1)
    plan.step()
    long = plan.add(3000, first=3)
    plan.scheduler.took(512, 0.5)
    assert plan.step() == {reply: 1, long: int(512 / 0.5 * MAX_PAUSE_S)}
    plan.scheduler.took(82, 8.0)
    assert plan.step() == {reply: 1, long: MIN_PREFILL_ROWS}
    plan.scheduler.took(1, 8.0)  # one row tells nothing of prefill
    plan.scheduler.took(33, 1e-6)
    assert plan.step() == {reply: 1, long: 511}
    plan.scheduler.took(512, 0.5)
    plan.scheduler.remove(reply)
    assert plan.step() == {long: 512}, "nobody waits"


def test_prefilling_requests_take_turns():
    plan = Plan(max_rows=10)
    long, short = plan.add(200, first=1), plan.add(5, first=3)
    steps = [plan.step() for _ in range(3)]
    assert any(step.get(short) == 5 for step in steps[:2]), "a short prompt waits for a long one"
    other = plan.add(100, first=5)
    steps = [plan.step() for _ in range(6)]
    assert all(step[short] == 1 for step in steps)
    assert [max((r for r in step if r is not short), key=lambda r: step[r]) for step in steps].count(long) == 3
    assert sum(step.get(other, 0) for step in steps) == 27


def test_logit_rows_are_limited():
    plan = Plan(max_rows=16, max_logit_rows=6)
    a = plan.add(2, first=1)
    plan.step()
    whole, other = plan.add(12, first=3, wants_logits=True), plan.add(12, first=5, wants_logits=True)
    missing = {whole, other}
    for _ in range(5):
        step = plan.step()
        assert step[a] == 1
        assert sum(step.values()) <= 6
        missing -= {request for request in missing if not request.num_remaining}
    assert not missing


def test_one_row_of_wanted_logits_is_one_row():
    plan = Plan()
    request = plan.add(1, wants_logits=True)
    assert plan.step() == {request: 1}
    assert request.num_remaining == 0


def test_admission_waits_for_blocks_and_for_places():
    plan = Plan(num_blocks=10, max_requests=2, max_rows=64)
    first = plan.add(20, first=1)  # 5 blocks
    second = plan.add(20, first=3)  # 5, but one stays free for the first
    third = plan.add(4, first=5)
    assert set(plan.step()) == {first}, "the first in the queue is not overtaken"
    plan.scheduler.remove(first)
    assert set(plan.step()) == {second, third}
    fourth = plan.add(1, first=7)
    assert fourth not in plan.step()
    plan.scheduler.remove(second)
    assert fourth in plan.step()


def test_the_youngest_is_preempted_and_comes_back():
    plan = Plan(num_blocks=6, block_size=2, max_rows=32)
    old, young = plan.add(4, first=1), plan.add(4, first=3)
    assert plan.step() == {old: 4, young: 4}
    for _ in range(2):
        assert plan.step() == {old: 1, young: 1}
    behind = plan.add(8, first=5)
    assert plan.step() == {old: 1}  # both need a fourth block
    assert young.blocks == [] and plan.scheduler.waiting[0] is young
    while old.num_computed < 10:
        assert set(plan.step()) == {old}
    plan.scheduler.remove(old)
    plan.scheduler.remove(behind)
    assert plan.step()[young] >= 1
    assert young.num_computed == len(young.tokens) - 1


def test_the_youngest_may_be_the_one_that_needs_a_block():
    plan = Plan(num_blocks=5, block_size=2, max_rows=32)
    old, young = plan.add(3, first=1), plan.add(4, first=3)
    plan.step()
    assert plan.step() == {old: 1, young: 1}
    assert plan.step() == {old: 1}
    assert young.blocks == []


def test_a_waiting_request_costs_no_copies():
    plan = Plan(num_blocks=8, block_size=4, max_rows=64)
    first = plan.add(24, first=1)
    plan.step()
    plan.add(22, first=1)  # its blocks but the last are cached, where it has 1 token in common
    blocked = plan.add(60, first=1)
    for _ in range(3):
        plan.step()
    assert len(plan.copies) <= 1
    assert blocked in plan.scheduler.waiting
    plan.scheduler.remove(first)


def test_removing_frees_everything():
    plan = Plan(num_blocks=50, max_rows=8)
    requests = [plan.add(5 + i, first=i) for i in range(10)]
    for _ in range(4):
        plan.step()
    for request in requests:
        plan.scheduler.remove(request)
        plan.scheduler.remove(request)  # again is no harm
    assert plan.pool.num_available == 50
    assert not plan.scheduler.has_work


def test_a_preempted_request_for_logits_starts_over():
    plan = Plan(num_blocks=8, block_size=2, max_rows=16, max_logit_rows=2)
    old, whole = plan.add(6, first=1), plan.add(8, first=3, wants_logits=True)
    while old.num_computed < 8:  # both have four blocks then
        plan.step()
    assert 0 < whole.num_computed < 8
    plan.step()
    assert whole.blocks == [] and whole.num_computed == 0
