"""Files by their content: what they would run, hide or unpack to. Nothing of it is run here either."""

import gzip
import io
import json
import lzma
import os
import pickle
import shutil
import struct
import tarfile
import zipfile
import zlib

import numpy as np
import pytest

from freehold.inspection.artefacts import Artefacts
from freehold.inspection.trust import archives, examine
from freehold.inspection.trust.finding import Severity, visible


@pytest.fixture(autouse=True)
def home(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("FREEHOLD_HOME", str(tmp_path_factory.mktemp("home")))


class Runs:
    """A pickle that would run a command."""

    def __init__(self, function=os.system, argument="true"):
        self.call = function, (argument,)

    def __reduce__(self):
        return self.call


def findings(folder, **options):
    return examine(Artefacts(folder), hash_files=False, **options).findings


def said(folder, severity=None):
    return [f"{f.file}: {f.text}" for f in findings(folder) if severity is None or f.severity is severity]


def test_a_pickle_renamed_safetensors(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(pickle.dumps({"weights": Runs()}))
    report = examine(Artefacts(tmp_path), hash_files=False)
    assert report.worst is Severity.DANGER
    assert report.kinds["model.safetensors"] == "pickle"
    dangers = said(tmp_path, Severity.DANGER)
    assert "model.safetensors: is named .safetensors, its content is a pickle" in dangers
    assert any("is a pickle that calls" in text and "system when it is loaded" in text for text in dangers)
    (tmp_path / "a-link.txt").symlink_to("/etc/hostname")  # as dangerous, yet not what must be said first
    report = examine(Artefacts(tmp_path), hash_files=False)
    assert report.verdict.startswith("danger: model.safetensors is a pickle that calls")
    assert report.verdict.endswith("(and 2 more)")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("function", [os.system, eval, exec, __import__])
def test_what_a_pickle_calls_is_read_in_every_protocol(tmp_path, protocol, function):
    (tmp_path / "x.bin").write_bytes(pickle.dumps(Runs(function, "1"), protocol))
    assert any(f"{function.__name__} when it is loaded" in text for text in said(tmp_path, Severity.DANGER))


def test_a_pickle_that_breaks_off_still_counts(tmp_path):
    whole = pickle.dumps([Runs(), "x" * 100])
    (tmp_path / "x.bin").write_bytes(whole[:-60])
    assert said(tmp_path, Severity.DANGER)


def test_a_name_put_together_on_the_stack(tmp_path):
    code = b"\x80\x04\x8c\x06system\x94\x8c\x05posix\x94h\x01h\x00\x93\x8c\x04true\x85R."  # names from the memo
    (tmp_path / "x.bin").write_bytes(code)
    assert any("posix.system" in text for text in said(tmp_path, Severity.DANGER))


def test_a_second_pickle_behind_a_harmless_one(tmp_path):
    (tmp_path / "x.bin").write_bytes(pickle.dumps([1, 2]) + pickle.dumps(Runs()))
    assert any("system" in text for text in said(tmp_path, Severity.DANGER))


def test_a_checkpoint_of_torch_is_a_pickle_without_danger(tmp_path):
    torch = pytest.importorskip("torch")
    state = {"a.weight": torch.ones(4, 4, dtype=torch.bfloat16), "b": torch.nn.Parameter(torch.ones(3))}
    torch.save(state, tmp_path / "new.bin")
    torch.save(state, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert said(tmp_path, Severity.DANGER) == []
    texts = " ".join(said(tmp_path, Severity.CAUTION))
    assert "new.bin: holds a pickle: loading one can run code" in texts
    assert "old.pt: is a pickle: loading one can run code" in texts


def test_a_pickle_within_torchs_zip(tmp_path):
    torch = pytest.importorskip("torch")
    torch.save({"a": Runs()}, tmp_path / "pytorch_model.bin")
    assert any(f.place.endswith("data.pkl") and f.severity is Severity.DANGER for f in findings(tmp_path))


def test_unknown_code_is_neither_harmless_nor_danger(tmp_path):
    code = b"\x80\x02cmy_package.layers\nAttention\n)R."
    (tmp_path / "x.bin").write_bytes(code)
    assert any("my_package.layers.Attention" in text for text in said(tmp_path, Severity.CAUTION))


@pytest.mark.parametrize("text", [".", "N.", "I am a text.\nIt says nothing.\n", "(dp0\n", "cat\ndog\nboy\n"])
def test_text_that_parses_is_no_pickle(tmp_path, text):
    (tmp_path / "notes.txt").write_text(text)
    assert findings(tmp_path) == ()


# Executables, code.


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"\x7fELF\x02\x01\x01" + bytes(60), "an ELF executable"),
        (b"MZ" + bytes(58) + struct.pack("<I", 64) + b"PE\0\0" + bytes(20), "a Windows executable"),
        (b"\xcf\xfa\xed\xfe" + bytes(60), "a Mach-O executable"),
        (b"\0asm\x01\0\0\0", "a WebAssembly executable"),
    ],
)
@pytest.mark.parametrize("name", ["helper", "vocab.json", "weights.gguf"])
def test_executables_whatever_their_name(tmp_path, content, kind, name):
    (tmp_path / name).write_bytes(content)
    assert f"{name}: is {kind}" in said(tmp_path, Severity.DANGER)


def test_a_script_whatever_its_name(tmp_path):
    (tmp_path / "README.md").write_text("#!/bin/sh\nrm -rf ~\n")
    assert "README.md: is named .md, its content is a script" in said(tmp_path, Severity.DANGER)


def test_python_is_found_by_content_and_by_name(tmp_path):
    (tmp_path / "modeling_x.py").write_text("import torch\n\nclass X(torch.nn.Module):\n    pass\n")
    (tmp_path / "notes.txt").write_text("import subprocess\ndef go():\n    subprocess.run(['ls'])\n")
    (tmp_path / "LICENSE").write_text("Permission is hereby granted to import this and that.\n")
    assert "modeling_x.py: is Python code" in said(tmp_path, Severity.NOTE)
    assert "notes.txt: is Python code, whatever its name that reaches for subprocess" in said(
        tmp_path, Severity.CAUTION
    )
    assert not any("LICENSE" in text for text in said(tmp_path))


def test_code_that_asks_to_be_run(tmp_path):
    auto_map = {"AutoModel": "modeling_x.X", "AutoTokenizer": ["somebody/else--tok.T", None]}
    (tmp_path / "config.json").write_text(json.dumps({"auto_map": auto_map}))
    texts = said(tmp_path, Severity.CAUTION)
    assert "config.json: asks that its own code be run" in texts
    assert "config.json: asks that code from 'somebody/else' be run" in texts


def test_a_numpy_array_of_objects(tmp_path):
    np.save(tmp_path / "x.npy", np.array([Runs()], dtype=object))
    np.save(tmp_path / "y.npy", np.ones(3))
    assert said(tmp_path) == ["x.npy: is a numpy array of objects: it holds a pickle"]


# Archives.


@pytest.fixture
def small_bombs(monkeypatch):
    """Bombs that take no second to make."""
    monkeypatch.setattr(archives, "BOMB_BYTES", 4 << 20)


def test_a_zip_bomb(tmp_path, small_bombs):
    with zipfile.ZipFile(tmp_path / "data.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(3):
            archive.writestr(f"{number}", bytes(2 << 20))
    assert any("bytes unpack to 6291456: a bomb" in text for text in said(tmp_path, Severity.DANGER))


def test_a_zip_bomb_of_members_that_overlap(tmp_path):
    """Fifield's: many entries of the directory point at one piece of packed data."""
    packed = zlib.compress(bytes(50_000), 9)[2:-4]
    name = b"0"
    local = struct.pack("<IHHHHHIIIHH", 0x04034B50, 20, 0, 8, 0, 0, 0, len(packed), 50_000, 1, 0) + name + packed
    entry = (
        struct.pack("<IHHHHHHIIIHHHHHII", 0x02014B50, 20, 20, 0, 8, 0, 0, 0, len(packed), 50_000, 1, 0, 0, 0, 0, 0, 0)
        + name
    )
    count = 500
    end = struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, count, count, count * len(entry), len(local), 0)
    (tmp_path / "x.zip").write_bytes(local + entry * count + end)
    assert any("its members overlap" in text for text in said(tmp_path, Severity.DANGER))


@pytest.mark.parametrize(("name", "open_"), [("x.gz", gzip.open), ("x.xz", lzma.open)])
def test_compressed_bombs(tmp_path, name, open_, small_bombs):
    with open_(tmp_path / name, "wb") as file:
        for _ in range(6):
            file.write(bytes(1 << 20))
    assert any("unpack to 4194304 and more: a bomb" in text for text in said(tmp_path, Severity.DANGER))


def test_what_an_archive_holds(tmp_path):
    with tarfile.open(tmp_path / "x.tar.gz", "w:gz") as archive:
        for name, content in (
            ("../../etc/cron", b"x"),
            ("a.bin", pickle.dumps(Runs())),
            ("tool", b"\x7fELF" + bytes(60)),
        ):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        link = tarfile.TarInfo("out")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    found = {(f.place, f.text) for f in findings(tmp_path) if f.severity is Severity.DANGER}
    assert ("tool", "holds an ELF executable") in found
    assert any(place == "a.bin" and "system" in text for place, text in found)
    assert any("leaves the folder: '../../etc/cron'" in text for _, text in found)
    assert any("leaves the folder: '/etc/passwd'" in text for _, text in found)


def test_two_formats_in_one_file(tmp_path):
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as archive:
        archive.writestr("x", "y")
    header = b'{"a":{"dtype":"U8","shape":[%d],"data_offsets":[0,%d]}}' % ((len(inner.getvalue()),) * 2)
    (tmp_path / "m.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + inner.getvalue())
    assert "m.safetensors: is a safetensors and a zip archive at once" in said(tmp_path, Severity.DANGER)


@pytest.mark.parametrize("content", [b"PK\x03\x04broken", b"\x1f\x8bbroken", b"BZh9broken", bytes(257) + b"ustar"])
def test_damaged_archives_are_said(tmp_path, content):
    (tmp_path / "x").write_bytes(content)
    assert any("damaged" in text for text in said(tmp_path, Severity.CAUTION))


# Names, links, sizes.


def test_a_link_out_of_the_folder_is_named_and_not_read(tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text("import subprocess")
    folder = tmp_path / "m"
    folder.mkdir()
    (folder / "README.md").symlink_to(secret)
    (folder / "gone.json").symlink_to(tmp_path / "nothing")
    report = examine(Artefacts(folder))
    assert sorted(f.file for f in report.findings if f.severity is Severity.DANGER) == ["README.md", "gone.json"]
    assert report.sha256 == {}


def test_a_readme_of_a_hundred_megabytes(tmp_path):
    with (tmp_path / "README.md").open("wb") as file:
        file.truncate(100 << 20)
        file.write(b"# Hello\n")
    (tmp_path / "LICENSE").write_text("x" * (5 << 20))
    report = examine(Artefacts(tmp_path), hash_files=False)
    assert report.kinds == {"LICENSE": "text", "README.md": "data"}
    assert "README.md is named .md, its content is data" in report.verdict


def test_escapes_in_names_and_texts_are_spelled_out(tmp_path):
    (tmp_path / "a\x1b[31m\u202e.py").write_text("import os\n")
    report = examine(Artefacts(tmp_path), hash_files=False)
    assert any("cannot be seen" in f.text for f in report.findings)
    shown = json.dumps(report.to_dict()["findings"], ensure_ascii=False) + str(report.section())
    assert "\x1b" not in shown
    assert "\u202e" not in shown
    assert visible("a\x1b[0m\u200bb\n") == "a\\u001b[0m\\u200bb\\n"


def test_a_pointer_of_git_lfs(tmp_path):
    (tmp_path / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    assert "model.safetensors: is a pointer of git-lfs: the file itself was not fetched" in said(tmp_path)


def test_an_honest_folder_has_nothing_said(tmp_path, smollm):
    (tmp_path / "README.md").write_text("---\nlicense: apache-2.0\n---\n# A model\n")
    (tmp_path / "config.json").write_text("{}")
    shutil.copy(smollm, tmp_path / "m.gguf")
    report = examine(Artefacts(tmp_path))
    assert report.verdict == "nothing dangerous found in 3 files"
    assert report.sha256["m.gguf"] == "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
    assert [(t.entry.name, t.same) for t in report.templates] == [("smollm2-135m", True)]
    labels = {row.label: row.status.value for row in report.section().rows}
    assert labels == {
        "Files": "neutral", "Structure": "good", "Code": "good", "Chat template": "good", "Tokenizer": "good",
        "Tensors": "good", "Signature": "unknown",
    }  # fmt: skip
    json.dumps(report.to_dict())


def test_a_real_model_raises_no_alarm(qwen):
    report = examine(Artefacts(qwen), hash_files=False)
    assert report.worst is Severity.NOTE
    assert 0 < report.sampled.num_tensors <= report.sampled.total_tensors == 291
    assert report.vocabularies == {qwen.name: 151936}
    assert any("gives a system prompt of its own" in f.text for f in report.findings)
