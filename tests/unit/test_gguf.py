"""The GGUF reader: sound files as the gguf package reads them, damaged ones refused in one line."""

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from freehold import _native
from freehold.errors import ModelFileError, ModelNotFoundError, UnsupportedError
from freehold.weights.gguf import open_gguf
from random_models import HALVES


def write(path, *, tensors=None, metadata=None, split=None):
    """A small file, by the gguf package's own writer."""
    writer = gguf.GGUFWriter(path, "llama")
    for key, value in (metadata or {}).items():
        {str: writer.add_string, int: writer.add_uint32, list: writer.add_array}[type(value)](key, value)
    for key, value in (split or {}).items():
        (writer.add_uint16 if key != "split.tensors.count" else writer.add_int32)(key, value)
    for name, array in (
        tensors if tensors is not None else {"a": np.arange(64, dtype=np.float32).reshape(2, 32)}
    ).items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture
def sound(tmp_path):
    return write(tmp_path / "m.gguf", metadata={"a.text": "héllo", "a.number": 7, "a.list": ["x", "y", "ß"]})


def test_metadata_and_tensors(sound):
    checkpoint = open_gguf(sound)
    assert checkpoint.metadata["general.architecture"] == "llama"
    assert checkpoint.metadata["a.text"] == "héllo"
    assert checkpoint.metadata["a.number"] == 7
    assert checkpoint.metadata["a.list"] == ["x", "y", "ß"]
    assert checkpoint.tensors["a"].shape == (2, 32)
    assert (checkpoint.tensors["a"].dequantize() == np.arange(64).reshape(2, 32)).all()


def test_real_file_as_the_gguf_package_reads_it(smollm):
    ours, reference = open_gguf(smollm), gguf.GGUFReader(smollm)
    assert {
        t.name: (tuple(int(n) for n in reversed(t.shape)), t.tensor_type.name, t.data.tobytes())
        for t in reference.tensors
    } == {t.name: (t.shape, t.format, bytes(t.data)) for t in ours.tensors.values()}
    for key in ("llama.block_count", "general.name", "tokenizer.ggml.pre", "tokenizer.ggml.add_bos_token"):
        assert ours.metadata[key] == reference.fields[key].contents()


@pytest.mark.parametrize("form", ["F32", "F16", "BF16", *HALVES])
def test_dequantize_exactly_as_the_gguf_package(form):
    kind = gguf.GGMLQuantizationType[form]
    _, size = gguf.GGML_QUANT_SIZES[kind]
    raw = np.random.default_rng(1).integers(0, 256, (200, size), dtype=np.uint8)
    with np.errstate(all="ignore"):
        expected = gguf.quants.dequantize(raw, kind).reshape(-1)
    ours = _native.dequantize(form, raw.tobytes())
    same = (ours == expected) | (np.isnan(ours) & np.isnan(expected))
    assert same.all(), f"{(~same).sum()} of {same.size} differ"
    listed = np.array(_native.dequantize_list(form, raw.tobytes()), np.float32)
    assert np.array_equal(listed, ours, equal_nan=True)


@pytest.mark.parametrize("format_name", ["F32", "F16", "Q8_0"])
def test_dequantize_refuses_part_of_a_block(format_name):
    with pytest.raises(ValueError, match="not whole blocks"):
        _native.dequantize(format_name, b"\0" * 33)


def header(*parts, version=3, tensors=0, entries=0):
    return (
        b"GGUF"
        + version.to_bytes(4, "little")
        + tensors.to_bytes(8, "little")
        + entries.to_bytes(8, "little")
        + b"".join(parts)
    )


def text(value: bytes):
    return len(value).to_bytes(8, "little") + value


def u32(value):
    return value.to_bytes(4, "little")


def u64(value):
    return value.to_bytes(8, "little")


def tensor(name=b"t", shape=(32,), kind=0, offset=0):
    return text(name) + u32(len(shape)) + b"".join(u64(n) for n in shape) + u32(kind) + u64(offset)


def padded(head, size=128):
    return head + b"\0" * (-len(head) % 32) + b"\0" * size


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (b"<html>", ModelFileError, "not a GGUF file"),
        (b"GGUF", ModelFileError, "version: needs 4 bytes"),
        (header(version=1), UnsupportedError, "version 1: expected 2 or 3"),
        (b"GGUF\x00\x00\x00\x03" + b"\0" * 16, UnsupportedError, "big-endian"),
        (header(entries=1 << 60), ModelFileError, "are declared, the file has room for"),
        (header(tensors=1 << 60), ModelFileError, "are declared, the file has room for"),
        (header(u64(1 << 63), b"\0" * 13, entries=1), ModelFileError, "needs 9223372036854775808 bytes"),
        (header(text(b"\xff\xfe"), u32(4), u32(1), entries=1), ModelFileError, "not valid UTF-8"),
        (header(text(b"k"), u32(99), u32(1), entries=1), ModelFileError, "unknown value type 99"),
        (header(text(b"k"), u32(7), b"\2" * 5, entries=1), ModelFileError, "expected a boolean"),
        (header((text(b"k") + u32(4) + u32(1)) * 2, entries=2), ModelFileError, "'k': given twice"),
        (header(text(b"k"), u32(9), u32(0), u64(1 << 40), entries=1), ModelFileError, "are declared"),
        (
            header(text(b"k"), (u32(9) + u32(9) + u64(1)) + (u32(9) + u64(1)) * 9, entries=1),
            ModelFileError,
            "nested deeper",
        ),
        (header(text(b"general.alignment"), u32(4), u32(33), entries=1), ModelFileError, "expected a power of two"),
        (padded(header(tensor(shape=()), tensors=1)), ModelFileError, "expected 1 to 4 dimensions, got 0"),
        (padded(header(tensor(shape=(0,)), tensors=1)), ModelFileError, "dimension of length 0"),
        (padded(header(tensor(shape=(1 << 30, 1 << 30)), tensors=1)), ModelFileError, "dimension of length"),
        (padded(header(tensor(kind=77), tensors=1)), ModelFileError, "unknown tensor type 77"),
        (padded(header(tensor(kind=16), tensors=1)), UnsupportedError, "tensor type 16 is not supported"),
        (padded(header(tensor(shape=(33,), kind=8), tensors=1)), ModelFileError, "not whole blocks of 32"),
        (padded(header(tensor(offset=1), tensors=1)), ModelFileError, "not a multiple of 32"),
        (padded(header(tensor(offset=1 << 62), tensors=1)), ModelFileError, "truncated?"),
        (padded(header(tensor(shape=(64,)), tensors=1)), ModelFileError, "needs 256 bytes"),
        (padded(header(tensor() + tensor(b"u"), tensors=2)), ModelFileError, "overlaps"),
        (padded(header(tensor() * 2, tensors=2), 512), ModelFileError, "given twice"),
    ],
)
def test_damaged_files_are_refused(tmp_path, data, error, message):
    path = tmp_path / "bad.gguf"
    path.write_bytes(data)
    with pytest.raises(error, match=message) as caught:
        open_gguf(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_what_is_no_file(tmp_path):
    (tmp_path / "empty.gguf").touch()
    with pytest.raises(ModelFileError, match="the file is empty"):
        open_gguf(tmp_path / "empty.gguf")
    with pytest.raises(ModelNotFoundError, match="no such file"):
        open_gguf(tmp_path / "none.gguf")
    with pytest.raises(ModelNotFoundError, match="is a folder"):
        open_gguf(tmp_path)


def test_every_truncation_is_refused(sound):
    data = sound.read_bytes()
    end = len(data.rstrip(b"\0"))
    for size in range(4, end - 1):
        with pytest.raises(ModelFileError):
            _native.read_gguf(data[:size])


@settings(max_examples=2000, deadline=None)
@given(data=st.data())
def test_mutated_headers_never_crash(data):
    good = bytearray(padded(header(text(b"k") + u32(9) + u32(8) + u64(1) + text(b"v"), tensor(), tensors=1, entries=1)))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(good) - 1))
        good[at] = data.draw(st.integers(0, 255))
    try:
        _native.read_gguf(bytes(good))
    except (ModelFileError, UnsupportedError) as error:
        assert "\n" not in str(error)


def split(folder, number, count, name, total=2):
    keys = {"split.no": number, "split.count": count, "split.tensors.count": total}
    array = {name: np.full((1, 32), number, np.float32)}
    return write(folder / f"m-{number + 1:05}-of-{count:05}.gguf", tensors=array, split=keys)


def test_split_files(tmp_path):
    first, second = split(tmp_path, 0, 2, "a"), split(tmp_path, 1, 2, "b")
    for path in (first, second):
        checkpoint = open_gguf(path)
        assert set(checkpoint.tensors) == {"a", "b"}
        assert (checkpoint.tensors["b"].dequantize() == 1).all()


def test_split_files_that_do_not_fit_together(tmp_path):
    first = split(tmp_path, 0, 2, "a")
    with pytest.raises(ModelNotFoundError, match=r"00002-of-00002\.gguf: missing"):
        open_gguf(first)
    split(tmp_path, 1, 2, "a")
    with pytest.raises(ModelFileError, match="stands in two files"):
        open_gguf(first)
    first.rename(tmp_path / "alone.gguf")
    with pytest.raises(ModelFileError, match="one of 2 files"):
        open_gguf(tmp_path / "alone.gguf")
