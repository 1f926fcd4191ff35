"""How much memory there is, and how much of it the KV cache gets."""

import sys
from pathlib import Path

from freehold.errors import MemoryBudgetError

DEFAULT_KV_TOKENS = 16 * 2048  # enough for sixteen conversations of a common length


def available_memory() -> int:
    """Bytes that this process may still take: the machine's available memory, or less where a cgroup says so."""
    return max(0, min(_meminfo("MemAvailable"), *cgroup_limits(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup"))))


def cgroup_limits(membership: Path, mount: Path) -> list[int]:
    """Bytes left below the memory limit of each cgroup around a process, innermost first; versions 1 and 2.

    `membership` is its /proc/PID/cgroup. Page cache counts as used there but is given back on demand, so it is added.
    """
    limits = [sys.maxsize]
    for line in membership.read_text().splitlines() if membership.exists() else ():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            root, names, cached = mount, ("memory.max", "memory.current"), "inactive_file"
        elif "memory" in controllers.split(","):
            root = mount / "memory"
            names, cached = ("memory.limit_in_bytes", "memory.usage_in_bytes"), "total_inactive_file"
        else:
            continue
        inner = root / path.lstrip("/")
        for folder in (inner, *inner.parents):
            try:
                limit, used = (int((folder / name).read_text()) for name in names)
                stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
                limits.append(limit - used + int(stat[cached]))
            except (OSError, ValueError, KeyError):  # no limit ("max"), or not this process's to see
                pass
            if folder == root:
                break
    return limits


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
