"""Structure of weights files, and statistics of what they hold; files are written by the formats' own packages."""

import json
import math
import struct

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from freehold.inspection.artefacts import Artefacts
from freehold.inspection.trust import examine
from freehold.inspection.trust.finding import Severity, Topic
from freehold.inspection.trust.safetensors_check import check_safetensors
from freehold.inspection.trust.tensors import _float8
from freehold.store.digest import sha256_of_files


def write(path, header, data=b"", length=None):
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(raw) if length is None else length) + raw + data)
    return path


def entry(shape, begin, end, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


SOUND = {"a": entry([2, 2], 0, 16), "b": entry([3], 16, 28)}
# What is wrong, and the sentence that says it.
WRONG = [
    ("overlap", {"a": entry([4], 0, 16), "b": entry([4], 8, 24)}, 24, "b", "overlaps a by 8 bytes"),
    ("hole", {"a": entry([4], 0, 16), "b": entry([4], 20, 36)}, 36, "b", "has 4 bytes before it that no tensor names"),
    ("rest", {"a": entry([4], 0, 16)}, 24, "end", "has 8 bytes behind the last tensor that no tensor names"),
    ("truncated", SOUND, 20, "b", "ends at byte 28 of the data, the file has 20 (truncated?)"),
    ("size", {"a": entry([4], 0, 12)}, 12, "a", "needs 16 bytes for F32 [4], its offsets hold 12"),
    ("backwards", {"a": entry([1], 4, 0)}, 4, "a", "needs 4 bytes for F32 [1], its offsets hold -4"),
    ("dtype", {"a": entry([4], 0, 16, "Q8")}, 16, "a", "has the unknown dtype 'Q8'"),
    ("negative", {"a": entry([-4], 0, 16)}, 16, "a", "has shape [-4] and offsets [0, 16]: expected counts"),
    ("overflow", {"a": entry([1 << 40, 1 << 40], 0, 16)}, 16, "a", "has the impossible shape"),
    ("fields", {"a": {"dtype": "F32", "shape": [1]}}, 4, "a", "is not described by dtype, shape and data_offsets alone"),
    ("metadata", {"__metadata__": {"x": 1}, "a": entry([1], 0, 4)}, 4, "__metadata__", "is not a map of texts"),
]  # fmt: skip


@pytest.mark.parametrize(("header", "num_bytes", "place", "text"), [w[1:] for w in WRONG], ids=[w[0] for w in WRONG])
def test_what_is_wrong_is_named_and_refused_by_the_format_too(tmp_path, header, num_bytes, place, text):
    path = write(tmp_path / "m.safetensors", header, bytes(num_bytes))
    found = examine(Artefacts(tmp_path), hash_files=False).findings
    assert any(f.place == place and text in f.text and f.severity is Severity.DANGER for f in found)
    with pytest.raises(SafetensorError):
        safe_open(path, "numpy")


@pytest.mark.parametrize(
    ("raw", "length", "text"),
    [
        (b"{}", 1 << 40, "its length is given as 1099511627776 bytes"),
        (b"[1]", None, 'it does not begin with "{"'),
        (b'{"a": ', None, "it is not JSON"),
        (b'{"a":' * 5000, None, "it is not JSON"),
    ],
)
def test_headers_that_cannot_be_read(tmp_path, raw, length, text):
    report = check_safetensors(write(tmp_path / "m.safetensors", raw, length=length))
    assert text in report.problems[0][1]
    assert report.entries == []


def test_a_name_given_twice(tmp_path):
    one = json.dumps(entry([1], 0, 4))
    raw = f'{{"a": {one}, "a": {one}}}'.encode()
    assert check_safetensors(write(tmp_path / "m.safetensors", raw, bytes(4))).problems == [
        ("a", "is given twice: readers differ in which one they take")
    ]


def test_everything_wrong_is_listed_not_only_the_first(tmp_path):
    header = {f"t{i}": entry([4], 0, 12) for i in range(5)} | {"u": entry([1], 0, 4, "X")}
    problems = check_safetensors(write(tmp_path / "m.safetensors", header, bytes(12))).problems
    assert {place for place, _ in problems} >= {"t0", "t1", "t2", "t3", "t4", "u"}


@given(st.binary(max_size=200))
@settings(max_examples=80, deadline=None)
def test_no_bytes_break_the_reader(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("fuzz") / "m.safetensors"
    path.write_bytes(data)
    check_safetensors(path)


@given(st.integers(0, 400), st.integers(0, 255))
@settings(max_examples=80, deadline=None)
def test_a_changed_byte_never_passes_where_the_format_refuses(tmp_path_factory, at, byte):
    path = write(tmp_path_factory.mktemp("fuzz") / "m.safetensors", SOUND, bytes(28))
    content = bytearray(path.read_bytes())
    content[at % len(content)] = byte
    path.write_bytes(content)
    try:
        safe_open(path, "numpy")
    except SafetensorError:
        assert check_safetensors(path).problems


@pytest.mark.parametrize("padding", range(0, 64, 8))
def test_sound_files_of_every_header_length(tmp_path, padding):
    """One of these lengths gives the file the first bytes of a pickle."""
    names = {f"t{i}": np.ones((2, 3), np.float16) for i in range(15)}
    save_file(names | {"x" * (padding + 40): np.ones(4, np.float32)}, tmp_path / "m.safetensors", {"format": "pt"})
    report = examine(Artefacts(tmp_path), hash_files=False)
    assert report.kinds == {"m.safetensors": "safetensors"}
    assert [f for f in report.findings if f.topic is not Topic.TENSORS] == []


def test_a_header_that_begins_like_a_pickle(tmp_path):
    header = json.dumps({"a": entry([1], 0, 4)}).ljust(0x480).encode()
    write(tmp_path / "m.safetensors", header, bytes(4))
    assert (tmp_path / "m.safetensors").read_bytes()[:2] == b"\x80\x04"
    assert examine(Artefacts(tmp_path), hash_files=False).kinds == {"m.safetensors": "safetensors"}


@pytest.mark.parametrize(
    ("mapped", "text"),
    [
        ({"a": "x.safetensors"}, "names 'x.safetensors', which is missing"),
        ({"a": "../x.safetensors"}, "names a file out of the folder: '../x.safetensors'"),
        ({"a": "m.safetensors", "z": "m.safetensors"}, "puts 1 tensors into files that do not hold them"),
        ({"a": "m.safetensors"}, "leaves out 1 tensors that the files hold"),
    ],
)
def test_the_list_of_shards(tmp_path, mapped, text):
    save_file({"a": np.arange(8.0), "b": np.arange(8.0)}, tmp_path / "m.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": mapped}))
    assert any(text in f.text for f in examine(Artefacts(tmp_path), hash_files=False).findings)


# GGUF.


def write_gguf(path, tensors=None, name="A model"):
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(name)
    writer.add_array("tokenizer.ggml.tokens", ["a", "b"])
    for key, value in (tensors or {"t": np.random.default_rng(0).normal(size=(2, 32)).astype(np.float32)}).items():
        writer.add_tensor(key, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_damaged_gguf_is_said_with_the_readers_reason(tmp_path):
    path = write_gguf(tmp_path / "m.gguf")
    path.write_bytes(path.read_bytes()[:-64])
    found = examine(Artefacts(tmp_path), hash_files=False).findings
    assert any(f.topic is Topic.STRUCTURE and "truncated" in f.text and "m.gguf" not in f.text for f in found)


def test_bytes_behind_the_last_tensor_of_a_gguf(tmp_path):
    path = write_gguf(tmp_path / "m.gguf")
    assert examine(Artefacts(tmp_path), hash_files=False).findings == ()
    path.write_bytes(path.read_bytes() + bytes(100))
    (found,) = examine(Artefacts(tmp_path), hash_files=False).findings
    assert (found.place, found.text) == ("end", "has 100 bytes behind t that nothing names")


def test_a_hole_before_a_tensor_of_a_gguf(tmp_path):
    path = write_gguf(tmp_path / "m.gguf", {"t": np.ones((1, 32), np.float32), "u": np.arange(32, dtype=np.float32)})
    content = bytearray(path.read_bytes())
    at = content.index(b"u", content.index(b"\x01" + bytes(7) + b"u")) + 1 + 4 + 8 + 4
    content[at : at + 8] = struct.pack("<Q", 128 + 96)
    path.write_bytes(content[:-128] + bytes(96) + content[-128:])
    found = [f for f in examine(Artefacts(tmp_path), hash_files=False).findings if f.topic is Topic.STRUCTURE]
    assert [(f.place, f.text) for f in found] == [("u", "has 96 bytes before it, behind t, that nothing names")]


# Statistics.


def tensor_findings(folder, **tensors):
    save_file(tensors, folder / "m.safetensors")
    found = examine(Artefacts(folder), hash_files=False).findings
    return {f.place: f.text for f in found if f.topic is Topic.TENSORS}


def normal(*shape, dtype=np.float32):
    return np.random.default_rng(0).normal(0, 0.02, shape).astype(dtype)


def test_strange_weights_are_named(tmp_path):
    nan, infinite, huge = (normal(64, 64) for _ in range(3))
    nan[3, 3], infinite[0, 0], huge[5, 5] = math.nan, math.inf, 5e4
    found = tensor_findings(
        tmp_path, nan=nan, infinite=infinite, huge=huge, zero=np.zeros((8, 8), np.float16), same=np.full((8, 8), 0.5),
        fine=normal(64, 64), norm=np.ones(64, np.float32), bias=np.zeros(64, np.float32), ids=np.zeros((4, 4), np.int32),
    )  # fmt: skip
    assert found == {
        "nan": "holds NaN: 1 of 4096 sampled",
        "infinite": "holds infinite values: 1 of 4096 sampled",
        "huge": "reaches 5e+04: no trained weight does",
        "zero": "is zero throughout",
        "same": "is 0.5 throughout",
    }


def test_an_outlier_of_a_large_matrix(tmp_path):
    weights = np.full((2000, 200), 1e-3, np.float32) * np.sign(normal(2000, 200))
    weights[-1, -1] = 9.0
    assert "has a value 9000 times as large as half of its values" in tensor_findings(tmp_path, w=weights)["w"]


def test_large_tensors_are_sampled_at_both_ends_and_within(tmp_path):
    first, last = normal(1000, 1000), normal(1000, 1000)
    first[0, 0], last[-1, -1] = math.nan, math.nan
    assert set(tensor_findings(tmp_path, first=first, last=last)) == {"first", "last"}
    report = examine(Artefacts(tmp_path), hash_files=False)
    assert report.sampled.num_bytes < 0.02 * report.sampled.total_bytes
    assert "not read whole" in report.section().notes[0]


@pytest.mark.parametrize(("bits", "bias", "name"), [(4, 7, "float8_e4m3fn"), (5, 15, "float8_e5m2")])
def test_small_floats_are_those_of_torch(bits, bias, name):
    torch = pytest.importorskip("torch")
    theirs = torch.arange(256, dtype=torch.uint8).view(getattr(torch, name)).float().numpy()
    np.testing.assert_array_equal(_float8(bits, bias), theirs)


# Digests.


def digests(folder, cache):
    return sha256_of_files({path.name: path for path in folder.iterdir()}, cache=cache)


def test_digests_are_remembered_until_a_file_changes(tmp_path, monkeypatch):
    folder, cache = tmp_path / "m", tmp_path / "cache" / "sha256.json"
    folder.mkdir()
    (folder / "a").write_bytes(b"abc")
    first = digests(folder, cache)
    assert first == {"a": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"}
    remembered = json.loads(cache.read_text())
    cache.write_text(json.dumps({key: "0" * 64 for key in remembered}))  # so that we see where it comes from
    assert digests(folder, cache) == {"a": "0" * 64}
    (folder / "a").write_bytes(b"abd")
    assert digests(folder, cache)["a"] not in ("0" * 64, first["a"])


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"x": 1}', '{"x": "zz"}', "\x00" * 10, "[" * 100_000])
def test_a_damaged_cache_is_ignored_and_replaced(tmp_path, damage):
    folder, cache = tmp_path / "m", tmp_path / "sha256.json"
    folder.mkdir()
    (folder / "a").write_bytes(b"abc")
    cache.write_text(damage)
    assert digests(folder, cache)["a"].startswith("ba7816bf")
    assert list(json.loads(cache.read_text()).values()) == [digests(folder, cache)["a"]]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m", "sha256.json"]  # no half-written one is left
