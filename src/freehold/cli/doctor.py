"""freehold doctor: what this machine can do."""

import os
import platform
from pathlib import Path
from typing import Any

import click

from freehold.cli.common import human_bytes, print_json

_INTERESTING = (
    "avx2",
    "fma",
    "f16c",
    "avx512f",
    "avx512bw",
    "avx512_vnni",
    "avx512_bf16",
    "amx_tile",
    "amx_int8",
    "amx_bf16",
    "asimd",
    "asimddp",
    "i8mm",
    "sve",
)


@click.command(name="doctor")
@click.option("--threads", type=int, metavar="N", help="Threads to measure with [default: all cores].")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(threads: int | None, as_json: bool) -> None:
    """What this machine can do, measured, and what is missing."""
    facts = examine(threads)
    if as_json:
        print_json(facts)
        return
    width = max(map(len, facts))
    for name, value in facts.items():
        text = ", ".join(map(str, value)) if isinstance(value, list) else value
        click.echo(f"{name.replace('_', ' '):{width}}  {text if text != '' else 'nothing'}")


def examine(threads: int | None = None) -> dict[str, Any]:
    """Features, chosen instruction set, memory and its measured bandwidth, and what stands in the way of speed."""
    from freehold import _native
    from freehold.engine.memory import available_memory
    from freehold.executors.native import make_pool

    pool = make_pool(threads)
    flags = _cpu_flags()
    missing = _missing(flags, pool.isa)
    return {
        "cpu": _cpu_model(),
        "features": [flag for flag in _INTERESTING if flag in flags],
        "instruction_set": pool.isa,
        "instruction_sets": _native.supported_isas(),
        "threads": pool.threads,
        "memory_available": human_bytes(available_memory()),
        "memory_bandwidth_gb_per_s": round(pool.read_bandwidth() / 1e9, 1),
        "huge_pages": _huge_pages(),
        "python": platform.python_version(),
        "missing": missing,
    }


def _cpu_info(*keys: str) -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() in keys:
            return value.strip()
    return ""


def _cpu_model() -> str:
    return _cpu_info("model name") or platform.machine()


def _cpu_flags() -> set[str]:
    return set(_cpu_info("flags", "Features").split())


def _huge_pages() -> str:
    try:
        text = Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text()
    except OSError:
        return "not available"
    return text[text.index("[") + 1 : text.index("]")]


def _missing(flags: set[str], isa: str) -> list[str]:
    missing = []
    if isa == "portable":
        missing.append("AVX2 or AVX-512: this machine runs the portable kernels, many times slower")
    if "amx_int8" in flags and isa != "amx" and not os.environ.get("FREEHOLD_ISA"):
        missing.append("AMX is in the CPU but the system does not let it be used (Linux 5.16 or newer is needed)")
    if _huge_pages() in ("never", "not available"):
        missing.append(
            "huge pages: echo madvise > /sys/kernel/mm/transparent_hugepage/enabled gives 13 to 19 % bandwidth"
        )
    return missing
