"""Progress of a download that a library or another process does: the size of what lies in its folder."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def watched(folder: Path, total: int, progress: Callable[[str, int, int], None]) -> Iterator[None]:
    """Report how much `folder` has grown while the body runs."""
    stop, before = threading.Event(), size_of(folder)

    def watch() -> None:
        while not stop.wait(0.1):
            progress("download", min(size_of(folder) - before, total), total)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        stop.set()
        watcher.join()


def size_of(folder: Path) -> int:
    total = 0
    for file in folder.rglob("*"):
        try:
            total += file.stat().st_size if file.is_file() and not file.is_symlink() else 0
        except OSError:  # moved meanwhile
            continue
    return total
