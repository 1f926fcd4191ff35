"""How much memory there is, and how much of it the KV cache gets."""

from pathlib import Path

from freehold.errors import MemoryBudgetError

DEFAULT_KV_TOKENS = 16 * 2048  # enough for sixteen conversations of a common length


def available_memory() -> int:
    """Bytes that this process may still take: the machine's available memory, or less where a cgroup says so."""
    limits = [_meminfo("MemAvailable")]
    for limit, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        try:
            limits.append(int(Path(limit).read_text()) - int(Path(used).read_text()))
        except (OSError, ValueError):  # no such cgroup, or "max"
            continue
    return max(0, min(limits))


def _meminfo(key: str) -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/meminfo has no {key}")


def budget_kv_blocks(fixed_bytes: int, block_bytes: int, block_size: int, context: int, available: int) -> int:
    """KV blocks to take beside `fixed_bytes` of weights and activations.

    One full context at least; up to DEFAULT_KV_TOKENS while that stays within half of what the rest leaves. Raises
    MemoryBudgetError when one context does not fit.
    """
    least = -(-context // block_size)
    needed = fixed_bytes + least * block_bytes
    if needed > available:
        hint = f"a shorter context takes less: {block_bytes / block_size / 1e6:.3f} MB for each token"
        raise MemoryBudgetError(f"the model with a context of {context} tokens", needed, available, hint)
    wanted = -(-max(context, DEFAULT_KV_TOKENS) // block_size)
    return max(least, min(wanted, (available - fixed_bytes) // 2 // block_bytes))
