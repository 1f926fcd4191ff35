"""A model measured on this machine: tokens a second, and the energy of one.

Energy is read from the processor's own counters (RAPL) where they may be read; they count whatever else runs beside.
Else it is an estimate, and called one.
"""

import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RAPL = Path("/sys/class/powercap")
WATTS_PER_CORE = 10.0  # memory and the power supply's loss included: what servers and desktops draw under load
PROMPT_TOKENS, DECODED_TOKENS = 192, 32


@dataclass(frozen=True, slots=True)
class Measured:
    """`watts` while tokens are decoded; `is_estimate`: no counter could be read."""

    prefill_tokens_per_s: float
    decode_tokens_per_s: float
    watts: float
    is_estimate: bool
    threads: int
    isa: str

    @property
    def joules_per_token(self) -> float:
        return self.watts / self.decode_tokens_per_s


def measure(path: str | os.PathLike[str]) -> Measured:
    """Run a model for some seconds: one prompt and a short reply, after a warm-up. Raises as `freehold.load`."""
    import freehold

    with freehold.load(os.fspath(path), context=_context(path), speculate=False) as model:
        room = model.info["context"]
        prompt = _tokens(model, min(PROMPT_TOKENS, room // 2), 7919)
        reply = min(DECODED_TOKENS, room // 4)
        model.generate_tokens([_tokens(model, 16, 104729)], max_tokens=4, ignore_eos=True)
        watch = Energy()
        begin = watch.read()
        done = model.generate_tokens([prompt], max_tokens=reply, ignore_eos=True, temperature=0.0)[0]
        watts = watch.watts_since(begin)
        threads, isa = model.info.get("threads", os.cpu_count() or 1), str(model.info.get("isa", ""))
    return Measured(
        done.timings.prefill_tokens_per_s,
        done.timings.decode_tokens_per_s,
        WATTS_PER_CORE * threads if watts is None else watts,
        watts is None,
        threads,
        isa,
    )


def _context(path: str | os.PathLike[str]) -> int:
    from freehold.loading import describe

    return min(512, describe(os.fspath(path))["trained_context"])


def _tokens(model: Any, count: int, step: int) -> list[int]:
    """Token ids without meaning: speed does not depend on it."""
    return [(i * step) % max(1, model.info["vocabulary_size"] - 256) + 128 for i in range(1, count + 1)]


class Energy:
    """The processor packages' counters of energy."""

    def __init__(self, root: Path = RAPL, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        packages = (
            sorted(p for p in root.glob("*rapl:*") if re.fullmatch(r"[\w-]+:\d+", p.name)) if root.exists() else []
        )
        self._packages = [package for package in packages if _microjoules(package, "energy_uj") is not None]

    def read(self) -> tuple[float, list[int | None]]:
        """(seconds, microjoules of each package)."""
        return self._clock(), [_microjoules(package, "energy_uj") for package in self._packages]

    def watts_since(self, begin: tuple[float, list[int | None]]) -> float | None:
        """Mean power since a reading; None where no counter can be read."""
        seconds, counters = self.read()
        if not self._packages or seconds <= begin[0]:
            return None
        used = 0
        for package, before, after in zip(self._packages, begin[1], counters, strict=True):
            if before is None or after is None:
                return None
            wrapped = after < before
            used += after - before + ((_microjoules(package, "max_energy_range_uj") or 0) if wrapped else 0)
        return used / 1e6 / (seconds - begin[0])


def _microjoules(package: Path, name: str) -> int | None:
    try:
        return int((package / name).read_text())
    except (OSError, ValueError):
        return None
