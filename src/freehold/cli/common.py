"""What several verbs share: options, the progress bar, figures."""

import gc
import json
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from freehold.executors.choice import KV_FORMATS

if TYPE_CHECKING:
    from freehold.store.references import StoredModel

KV_TYPE: dict[str, Any] = {"type": click.Choice(KV_FORMATS), "default": KV_FORMATS[0], "show_default": True}


def model_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options of how a model is loaded."""
    for option in (
        click.option("--context", type=int, metavar="TOKENS", help="Context length [default: as trained]."),
        click.option("--threads", type=int, metavar="N", help="Threads [default: all cores]."),
        click.option("--kv-type", **KV_TYPE, help="Format of cached keys and values."),
        click.option(
            "--dtype",
            type=click.Choice(["float32", "bfloat16", "float16"]),
            help="Evaluate the weights in float32; the 16-bit types are torch's [default: as the file has them].",
        ),
        click.option(
            "--executor",
            type=click.Choice(["native", "torch"]),
            default="native",
            show_default=True,
            help="What runs it.",
        ),
        click.option("--quantize", metavar="FORMAT", help="Quantize unquantized weights: q8_0, q4_0, q4_k_m, …"),
        click.option("--device", default="cpu", show_default=True, help="cpu; with the torch executor also cuda."),
    ):
        command = option(command)
    return command


@contextmanager
def loaded(ref: str | None, options: dict[str, Any], *, speculate: bool = True) -> Iterator[Any]:
    """A loaded model; a progress bar on a terminal while it is downloaded."""
    gc.disable()  # what a start makes is kept: searching it for garbage costs a twentieth of the start
    import freehold

    with download_progress() as progress:
        model = freehold.load(
            ref,
            dtype=options["dtype"],
            threads=options["threads"],
            context=options["context"],
            kv_format=options["kv_type"],
            executor=options["executor"],
            device=options["device"],
            quantize=options["quantize"],
            speculate=speculate,
            progress=progress,
        )
    for place, count in model.info["unused"].items():
        click.echo(f"note: {count} tensors of {place} are not used: the language model runs without them", err=True)
    gc.freeze()
    gc.enable()
    with model:
        yield model


@contextmanager
def download_progress() -> Iterator[Callable[[str, int, int], None] | None]:
    """A callback for `store.fetch`; its bar appears on stderr with the first bytes, when that is a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    bar: Any = None
    task: Any = None

    def update(what: str, done: int, total: int) -> None:
        nonlocal bar, task
        if bar is None:
            from rich.console import Console
            from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

            columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn()
            bar = Progress(*columns, console=Console(stderr=True), transient=True)
            bar.start()
            task = bar.add_task(what, total=total)
        bar.update(task, description=what, completed=done, total=total)

    try:
        yield update
    finally:
        if bar is not None:
            bar.stop()


def to_examine(stored: "StoredModel") -> Path:
    """What of a model is to be reported on: a file of the hub lies in a folder with its card and its licence."""
    from freehold.store.references import source_of

    is_of_hub = stored.ref is not None and source_of(stored.ref) in ("hf", "ms")
    return stored.path.parent if is_of_hub and stored.path.is_file() else stored.path


def print_json(value: Any) -> None:
    click.echo(json.dumps(value, ensure_ascii=False, indent=2))


def peak_memory_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def seconds_since_start() -> float:
    """Seconds since this process was started, the interpreter's own start included."""
    ticks = int(Path("/proc/self/stat").read_text().rsplit(") ", 1)[1].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / 100  # USER_HZ, always 100 on Linux


def human_bytes(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit in ("B", "kB") else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.2f} TB"
