"""How much memory there is, and how much of it the KV cache gets."""

import resource
import sys
from pathlib import Path

from freehold.errors import MemoryBudgetError

DEFAULT_KV_TOKENS = 16 * 2048  # enough for sixteen conversations of a common length
SPARED_BYTES = 64 << 20


def available_memory() -> int:
    """Bytes that this process may still take: the machine's available memory, or less where a limit says so."""
    limits = cgroup_limits(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")) + process_limits()
    return max(0, min(_proc_bytes("meminfo", "MemAvailable"), *limits))


def process_limits() -> list[int]:
    """Bytes left below this process's own limits (`ulimit`) of address space and of data."""
    kinds = ((resource.RLIMIT_AS, "VmSize"), (resource.RLIMIT_DATA, "VmData"))
    limits = [(resource.getrlimit(kind)[0], used) for kind, used in kinds]
    return [limit - _proc_bytes("self/status", used) for limit, used in limits if limit != resource.RLIM_INFINITY]


def cgroup_limits(membership: Path, mount: Path) -> list[int]:
    """Bytes left below the memory limit of each cgroup around a process, innermost first; versions 1 and 2.

    `membership` is its /proc/PID/cgroup. The page cache of files, those read once and those read again, counts as used
    there but is given back on demand, so it is added.
    """
    limits = [sys.maxsize]
    for line in membership.read_text().splitlines() if membership.exists() else ():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            root, names, total = mount, ("memory.max", "memory.current"), ""
        elif "memory" in controllers.split(","):
            root = mount / "memory"
            names, total = ("memory.limit_in_bytes", "memory.usage_in_bytes"), "total_"
        else:
            continue
        inner = root / path.lstrip("/")
        for folder in (inner, *inner.parents):
            try:
                limit, used = (int((folder / name).read_text()) for name in names)
                stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
                cached = sum(int(stat[f"{total}{kind}_file"]) for kind in ("active", "inactive"))
                limits.append(limit - used + cached)
            except (OSError, ValueError, KeyError):  # no limit ("max"), or not this process's to see
                pass
            if folder == root:
                break
    return limits


def _proc_bytes(file: str, key: str) -> int:
    for line in Path("/proc", file).read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/{file} has no {key}")


def budget_experts(fixed_bytes: int, experts_bytes: int, context_bytes: int, available: int) -> int | None:
    """Bytes for experts, `experts_bytes` of the `fixed_bytes`, beside the cache of one context; None: all fit.

    Where they do not fit, the rest stays in the file. What is left then is not taken whole: SPARED_BYTES or a tenth
    stay for what no plan counts, and for the pages read from the file.
    """
    if not experts_bytes or fixed_bytes + context_bytes <= available:
        return None
    left = available - context_bytes - fixed_bytes + experts_bytes
    return max(0, left - max(SPARED_BYTES, left // 10))


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
