"""ms:org/name[@revision][:file or quantization], from ModelScope by its own HTTP interface.

Files lie in the store's folder; a download goes on where it was interrupted, and a file has its name only when it is
whole and has the sha256 that ModelScope says. MODELSCOPE_DOMAIN names another server, as it does for their own tools.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from freehold.errors import DownloadError, ModelNotFoundError
from freehold.store.digest import sha256_of
from freehold.store.hub import check_room, parse, record_of
from freehold.store.places import models_folder
from freehold.store.records import Record
from freehold.store.references import Progress
from freehold.store.selection import RemoteFile, choose

_TIMEOUT_S = 30.0


def pull(ref: str, progress: Progress) -> Record:
    """Fetch what the reference names. Raises as `hub.pull`."""
    import httpx

    repository, revision, wanted = parse(ref)
    revision = revision or "master"
    folder = models_folder() / "modelscope" / repository.replace("/", "--") / quote(revision, safe="")
    try:
        with httpx.Client(timeout=_TIMEOUT_S, follow_redirects=True) as client:
            files = choose(_list(client, ref, repository, revision), wanted, ref)
            total = sum(file.num_bytes for file in files)
            folder.mkdir(parents=True, exist_ok=True)
            check_room(ref, folder, total)
            url, done = f"{_server()}/api/v1/models/{repository}/repo", 0
            for file in files:
                parameters = {"Revision": revision, "FilePath": file.name}
                for have in _download(client, url, parameters, folder / file.name, file):
                    progress("download", done + have, total)
                done += file.num_bytes
    except httpx.HTTPError as error:
        raise DownloadError(f"{ref}: ModelScope did not answer: {error}", "is there a network?") from None
    except OSError as error:
        raise DownloadError(f"{ref}: cannot write {folder}: {error.strerror or error}") from None
    return record_of(ref, folder, files, revision, None, progress)


def _server() -> str:
    domain = os.environ.get("MODELSCOPE_DOMAIN") or "www.modelscope.cn"
    return domain if "://" in domain else f"https://{domain}"


def _list(client: Any, ref: str, repository: str, revision: str) -> list[RemoteFile]:
    url = f"{_server()}/api/v1/models/{repository}/repo/files"
    answer = client.get(url, params={"Revision": revision, "Recursive": "True"})
    if answer.status_code == 404:
        raise ModelNotFoundError(f"{ref}: no such repository or revision at ModelScope")
    answer.raise_for_status()
    try:
        entries = answer.json()["Data"]["Files"]
        return [RemoteFile(e["Path"], int(e["Size"]), e.get("Sha256")) for e in entries if e.get("Type") != "tree"]
    except (KeyError, TypeError, ValueError):
        raise DownloadError(f"{ref}: ModelScope's answer is not a list of files") from None


def _download(client: Any, url: str, parameters: dict[str, str], path: Path, file: RemoteFile) -> Iterator[int]:
    """Yields the bytes that are there, as they come."""
    if path.exists() and path.stat().st_size == file.num_bytes and (not file.sha256 or sha256_of(path) == file.sha256):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    have = partial.stat().st_size if partial.exists() else 0
    if have >= file.num_bytes:
        partial.unlink(missing_ok=True)
        have = 0
    headers = {"Range": f"bytes={have}-"} if have else {}
    with client.stream("GET", url, params=parameters, headers=headers) as answer:
        answer.raise_for_status()
        goes_on = answer.status_code == 206
        with partial.open("ab" if goes_on else "wb") as out:
            have = have if goes_on else 0
            for chunk in answer.iter_bytes():
                out.write(chunk)
                have += len(chunk)
                if have > file.num_bytes:
                    break
                yield have
            out.flush()
            os.fsync(out.fileno())
    if have != file.num_bytes:
        if have > file.num_bytes:
            partial.unlink()
        raise DownloadError(f"{file.name}: expected {file.num_bytes} bytes, got {have}", "ask again: it goes on there")
    partial.replace(path)
