"""Which executor runs a model, with what, and how much memory there is for it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from freehold.errors import RequestError, UnsupportedError

EXECUTORS = ("native", "torch")
KV_FORMATS = ("int16", "bf16", "int8", "f32")  # of keys and values in the native executor; the first by default


@dataclass(frozen=True)
class Choice:
    """`plan(model, checkpoint, next_token)` says what memory `make` will take, given the same and sizes.

    `next_token`: the model's layer for speculation or None. `experts_bytes`: memory for routed experts where not all
    fit, else None. `make` is also given what may be called while other threads make the weights ready.
    `available_bytes()` is that of the device; None: the machine's own memory counts.
    """

    plan: Callable[[Any, Any, Any], Any]
    make: Callable[[Any, Any, Any, int, int | None, Callable[[], Any]], Any]
    available_bytes: Callable[[], int] | None = None


def choose(executor: str, *, device: str, dtype: str | None, threads: int | None, kv_format: str) -> Choice:
    """The executor of that name. Raises RequestError for options that it lacks, UnsupportedError without torch."""
    if executor == "native":
        return _native(device, {"dtype": dtype, "kv_format": kv_format}, threads)
    if executor == "torch":
        return _torch(device, dtype, threads, kv_format)
    raise RequestError(f"executor {executor!r}: expected one of {', '.join(EXECUTORS)}")


def _native(device: str, options: Mapping[str, Any], threads: int | None) -> Choice:
    from freehold.executors import native

    if device != "cpu":
        raise RequestError(f"device {device!r}: the native executor runs on the CPU", "use the torch executor")
    return Choice(
        plan=lambda model, checkpoint, next_token: native.memory_plan(
            model, checkpoint, next_token=next_token, **options
        ),
        make=lambda model, checkpoint, next_token, num_blocks, experts_bytes, meanwhile: native.NativeExecutor(
            model,
            checkpoint,
            next_token=next_token,
            num_blocks=num_blocks,
            experts_bytes=experts_bytes,
            meanwhile=meanwhile,
            threads=threads,
            **options,
        ),
    )


def _torch(device: str, dtype: str | None, threads: int | None, kv_format: str) -> Choice:
    try:
        import torch  # noqa: F401  (so that only its own absence is taken for that)
    except ImportError:
        raise UnsupportedError("the torch executor: torch is not installed", "pip install 'freehold[torch]'") from None
    from freehold.executors import torch as executor

    if kv_format != KV_FORMATS[0]:
        raise RequestError(f"KV format {kv_format!r}: the torch executor keeps keys and values in its dtype")
    place = executor.check_device(device)
    executor.check_dtype(device, dtype)
    options = {"device": device, "dtype": dtype}
    return Choice(
        plan=lambda model, checkpoint, next_token: executor.memory_plan(
            model, checkpoint, next_token=next_token, **options
        ),
        make=lambda model, checkpoint, next_token, num_blocks, *_: executor.TorchExecutor(
            model, checkpoint, next_token=next_token, num_blocks=num_blocks, threads=threads, **options
        ),
        available_bytes=None if place.type == "cpu" else lambda: executor.available_device_memory(device),
    )
