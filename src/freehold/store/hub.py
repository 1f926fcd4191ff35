"""hf:org/name[@revision][:file or quantization], through huggingface_hub: its cache is used in place.

The token, where the user has one, is the library's to send, to the hub alone. What the hub holds as large files has a
sha256 there, which each file is checked against once.
"""

import re
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from freehold.errors import DownloadError, ModelNotFoundError, RequestError
from freehold.store.digest import sha256_of
from freehold.store.records import Record
from freehold.store.references import Progress
from freehold.store.selection import RemoteFile, choose
from freehold.store.watch import watched

_REFERENCE = re.compile(r"(?P<repository>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?(:(?P<wanted>[\w./ -]+))?", re.ASCII)


def parse(ref: str) -> tuple[str, str | None, str | None]:
    """(repository, revision, file or quantization) of "source:org/name[@revision][:wanted]"."""
    source, _, rest = ref.partition(":")
    found = _REFERENCE.fullmatch(rest)
    if not found or ".." in rest:
        raise RequestError(f"{ref[:200]}: expected {source}:org/name[@revision][:file or quantization]")
    return found["repository"], found["revision"], found["wanted"]


def pull(ref: str, progress: Progress) -> Record:
    """Fetch what the reference names. Raises DownloadError, ModelNotFoundError, UnsupportedError for pickles."""
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.constants import HF_HUB_CACHE

    repository, revision, wanted = parse(ref)
    with _explained(ref):
        info = HfApi().model_info(repository, revision=revision, files_metadata=True)
    files = choose([_remote(sibling) for sibling in info.siblings or []], wanted, ref)
    folder = Path(HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}"
    total = sum(file.num_bytes for file in files)
    check_room(ref, Path(HF_HUB_CACHE), total)
    with _explained(ref), watched(folder, total, progress):
        silent = _silent()
        paths = [hf_hub_download(repository, file.name, revision=info.sha, tqdm_class=silent) for file in files]
    snapshot = Path(paths[0].removesuffix(files[0].name))
    return record_of(ref, snapshot, files, str(info.sha), _licence(info), progress)


def record_of(
    ref: str, folder: Path, files: Sequence[RemoteFile], revision: str, licence: str | None, progress: Progress
) -> Record:
    """The record of files that lie in `folder`, after each is checked against its sha256. Raises DownloadError."""
    total, done = sum(file.num_bytes for file in files), 0
    for file in files:
        path = folder / file.name
        if file.sha256 and (got := sha256_of(path)) != file.sha256:
            path.resolve().unlink()
            raise DownloadError(f"{ref}: {file.name}: expected sha256 {file.sha256}, got {got}", "it was not kept")
        done += file.num_bytes
        progress("verify", done, total)
    gguf = [file.name for file in files if file.name.lower().endswith(".gguf")]
    return Record(
        ref=ref,
        path=folder / min(gguf) if gguf else folder,
        folder=folder,
        revision=revision,
        licence=licence,
        files={file.name: (folder / file.name).stat().st_size for file in files},
        digests={file.name: file.sha256 for file in files if file.sha256},
        pulled_at=time.time(),
    )


def check_room(ref: str, folder: Path, needed: int) -> None:
    """Raises DownloadError when the disk of `folder` has less than `needed` bytes free."""
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise DownloadError(f"{ref}: needs {needed / 1e9:.2f} GB on the disk of {folder}, {free / 1e9:.2f} GB are free")


def _remote(sibling: Any) -> RemoteFile:
    return RemoteFile(sibling.rfilename, sibling.size or 0, sibling.lfs.sha256 if sibling.lfs else None)


def _licence(info: Any) -> str | None:
    return getattr(info.card_data, "license", None) if info.card_data else None


def _silent() -> type:
    from tqdm.auto import tqdm

    class Silent(tqdm):
        """The library's own bars stay away; `watched` reports."""

        def __init__(self, *args: Any, **options: Any):
            options.pop("name", None)
            super().__init__(*args, **{**options, "disable": True})

    return Silent


@contextmanager
def _explained(ref: str) -> Iterator[None]:
    """The library's errors as ours."""
    import httpx
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError:
        hint = "accept its terms on its page at the hub, then log in: hf auth login"
        raise DownloadError(f"{ref}: its lab gives it only to those who accept its terms", hint) from None
    except errors.RepositoryNotFoundError:
        raise ModelNotFoundError(f"{ref}: no such repository at the hub, or it is private") from None
    except errors.RevisionNotFoundError:
        raise ModelNotFoundError(f"{ref}: the repository has no such revision") from None
    except (errors.HfHubHTTPError, errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled, httpx.HTTPError) as e:
        reason = str(e).strip().splitlines() or [type(e).__name__]
        raise DownloadError(f"{ref}: the hub did not answer: {reason[0][:200]}", "is there a network?") from None
    except OSError as error:
        raise DownloadError(f"{ref}: cannot write the hub's cache: {error.strerror or error}") from None
