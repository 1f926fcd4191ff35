"""The safetensors reader: sound files as the format's own library reads them, damaged and hostile ones refused."""

import json
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from freehold.errors import FreeholdError, ModelFileError, ModelNotFoundError, UnsupportedError
from freehold.files import read_bytes
from freehold.weights.open import open_checkpoint
from freehold.weights.safetensors import open_safetensors, open_shards

safetensors = pytest.importorskip("safetensors", reason="the format's own library is the reference")
from safetensors.numpy import save_file  # noqa: E402

ARRAYS = {
    "b.weight": np.arange(12, dtype=np.float32).reshape(3, 4),
    "a.half": np.arange(6, dtype=np.float16),
    "c.numbers": np.arange(-4, 4, dtype=np.int64),
    "d.empty": np.zeros((0, 3), np.float32),
    "e.scalar": np.array(7, np.int32),
}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.safetensors"


def write(path, header, data=b"", *, length=None):
    """A file of a header (a value for JSON, or bytes as they are) and data."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(raw) if length is None else length).to_bytes(8, "little") + raw + data)
    return path


def entry(shape=(2,), begin=0, end=8, dtype="F32", **more):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]} | more


def library_accepts(path) -> bool:
    try:
        with safetensors.safe_open(path, "numpy") as file:
            list(file.keys())
        return True
    except Exception:
        return False


def test_tensors_as_the_library_reads_them(path):
    save_file(ARRAYS, path, {"format": "pt"})
    tensors = open_safetensors(path)
    assert {name: (t.shape, bytes(t.data)) for name, t in tensors.items()} == {
        name: (a.shape, a.tobytes()) for name, a in ARRAYS.items()
    }
    assert {name: t.format for name, t in tensors.items()} == {
        "b.weight": "F32",
        "a.half": "F16",
        "c.numbers": "I64",
        "d.empty": "F32",
        "e.scalar": "I32",
    }
    assert (tensors["b.weight"].dequantize() == ARRAYS["b.weight"]).all()
    file, offset = tensors["b.weight"].place
    assert file.read_bytes()[offset : offset + 48] == ARRAYS["b.weight"].tobytes()


DEEP = b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
ATTACKS = {
    "no length": (b"abc", None, "expected 8 bytes of header length, the file has 3"),
    "header past the end": ({"a": entry()}, dict(length=9999), "header: 9999 bytes are declared, the file has 69 left"),
    "header past any memory": ({}, dict(length=2**63), "header: 9223372036854775808 bytes are declared, 100000000 are"),
    "header at its cap": ({}, dict(length=100_000_001), "header: 100000001 bytes are declared, 100000000 are allowed"),
    "header of no object": (b"[1]", {}, "header: expected a JSON object"),
    "spaces first": (b' {"a": 1}', {}, "header: expected a JSON object"),
    "half a header": (b'{"a":', {}, "header: Expecting value"),
    "text behind the header": (b"{} {}", {}, "header: Extra data"),
    "no UTF-8": (b'{"\xff": 1}', {}, "header: 'utf-8' codec can't decode"),
    "nested deeply": (DEEP, {}, "header: nested too deeply"),
    "given twice": (b'{"a": 1, "a": 2}', {}, "header: 'a' is given twice"),
    "given twice inside": (b'{"a": {"dtype": "F32", "dtype": "I8"}}', {}, "header: 'dtype' is given twice"),
    "not a number": (b'{"a": NaN}', {}, "header: NaN is not JSON"),
    "huge number": (b'{"a": ' + b"9" * 5000 + b"}", {}, "header: Exceeds the limit"),
    "metadata of numbers": ({"__metadata__": {"a": 1}}, {}, "__metadata__: expected texts by name"),
    "metadata of nothing": ({"__metadata__": []}, {}, "__metadata__: expected texts by name"),
    "no entry": ({"a": 3}, {}, "tensor 'a': expected dtype, shape and data_offsets, got 3"),
    "no dtype": ({"a": {"shape": [], "data_offsets": [0, 4]}}, {}, "dtype: expected a name, got None"),
    "no shape": ({"a": {"dtype": "F32", "data_offsets": [0, 4]}}, {}, "shape: expected lengths, got None"),
    "negative length": ({"a": entry((-2, -1))}, {}, "shape: expected lengths, got [-2, -1]"),
    "length of a fraction": ({"a": entry((2.0,))}, {}, "shape: expected lengths, got [2.0]"),
    "length that is true": ({"a": entry((True, 2))}, {}, "shape: expected lengths, got [True, 2]"),
    "too many dimensions": ({"a": entry([1] * 9)}, {}, "shape: expected lengths, got [1, 1"),
    "shape overflows": ({"a": entry((2**33, 2**33))}, {}, "73786976294838206464 values, 281474976710656 are allowed"),
    "shape wraps to the size": ({"a": entry((2**62, 4, 2), 0, 8)}, {}, "values, 281474976710656 are allowed"),
    "offsets backwards": ({"a": entry(begin=8, end=0)}, {}, "expected a beginning and an end, got [8, 0]"),
    "negative offset": ({"a": entry(begin=-8, end=0)}, {}, "expected a beginning and an end, got [-8, 0]"),
    "three offsets": ({"a": entry() | {"data_offsets": [0, 4, 8]}}, {}, "expected a beginning and an end, got [0, 4"),
    "offset past the file": ({"a": entry((4,), 0, 16)}, {}, "the tensors take 16 bytes, the file has 8"),
    "offset past 64 bits": ({"a": entry(begin=0, end=2**64)}, {}, "expected a beginning and an end"),
    "shape of another size": ({"a": entry((3,))}, {}, "F32 of shape (3,) takes 12 bytes, got 8"),
    "half a byte": ({"a": entry((15,), dtype="F4")}, {}, "F4 of shape (15,) takes 7.5 bytes, got 8"),
    "overlap": ({"a": entry(), "b": entry((1,), 4, 8)}, {}, "tensor 'b': begins at 4, overlaps another"),
    "same place twice": ({"a": entry(), "b": entry()}, {}, "begins at 0, overlaps another"),
    "hole before": ({"a": entry((1,), 4, 8)}, {}, "tensor 'a': begins at 4, leaves a hole of 4 bytes before it"),
    "hole behind": ({"a": entry((1,), 0, 4)}, {}, "the tensors take 4 bytes, the file has 8"),
    "nothing declared": ({}, {}, "the tensors take 0 bytes, the file has 8"),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_attacks(name, path):
    header, options, message = ATTACKS[name]
    if options is None:
        path.write_bytes(header)
    else:
        write(path, header, b"\0" * 8, **options)
    with pytest.raises(ModelFileError) as error:
        open_safetensors(path)
    assert str(error.value).startswith(f"{path}: ")
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    # Where we are stricter than the library: keys twice, more dimensions than any model has.
    assert not library_accepts(path) or name in ("given twice inside", "too many dimensions", "given twice")


def test_a_dtype_that_is_not_known(path):
    write(path, {"a": entry(dtype="F99")}, b"\0" * 8)
    with pytest.raises(UnsupportedError, match="tensor 'a': dtype 'F99' is not supported"):
        open_safetensors(path)


def test_no_file(path):
    with pytest.raises(ModelNotFoundError, match=r"model.safetensors: no such file"):
        open_safetensors(path)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_mutated_files_never_crash(data, tmp_path_factory):
    path = tmp_path_factory.mktemp("fuzz") / "f.safetensors"
    save_file(ARRAYS, path)
    raw = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(raw[: data.draw(st.integers(1, len(raw)))])
    try:
        for tensor in open_safetensors(path).values():
            bytes(tensor.data)
    except FreeholdError as error:
        assert "\n" not in str(error)


# Folders.


def shards(folder, files, **index):
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text('{"model_type": "llama"}')
    for name, arrays in files.items():
        save_file(arrays, folder / name)
    place = {tensor: name for name, arrays in files.items() for tensor in arrays}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": place} | index))
    return folder


HALVES = {
    "model-00001-of-00002.safetensors": {"a": np.zeros(3, np.float32)},
    "model-00002-of-00002.safetensors": {"b": np.ones(3, np.float32)},
}


def test_shards(tmp_path):
    folder = shards(tmp_path, HALVES)
    paths, tensors = open_shards(folder)
    assert [path.name for path in paths] == list(HALVES)
    assert (tensors["b"].dequantize() == 1).all()
    assert open_checkpoint(folder / "model-00002-of-00002.safetensors").tensors.keys() == {"a", "b"}


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ({"weight_map": {"a": "../secret.safetensors"}}, "expected names of .safetensors files, got '../secret"),
        ({"weight_map": {"a": "/etc/x.safetensors"}}, "expected names of .safetensors files, got '/etc/x"),
        ({"weight_map": {"a": "model.bin"}}, "expected names of .safetensors files, got 'model.bin'"),
        ({"weight_map": {"a": 1}}, "expected names of .safetensors files, got None"),
        ({"weight_map": []}, "weight_map: expected the files of tensors by name, got []"),
        ({"weight_map": {"a": "gone.safetensors"}}, "gone.safetensors: missing; model.safetensors.index.json lists it"),
        (
            {"weight_map": {"z": "model-00001-of-00002.safetensors"}},
            "tensor 'z' is in none of the files",
        ),
    ],
)
def test_a_bad_index(index, message, tmp_path):
    with pytest.raises(FreeholdError) as error:
        open_shards(shards(tmp_path, HALVES, **index))
    assert message in str(error.value)


def test_a_tensor_in_two_files(tmp_path):
    files = {name: {"a": np.zeros(3, np.float32), name: np.zeros(3, np.float32)} for name in HALVES}
    with pytest.raises(ModelFileError, match="tensor 'a' stands in two files"):
        open_shards(shards(tmp_path, files))


def make(folder, *names):
    for name in names:
        (folder / name).write_bytes(b"{}")


@pytest.mark.parametrize(
    ("files", "message", "hint"),
    [
        ([], "no model in this folder", "expected config.json with .safetensors files, or a .gguf file"),
        (["pytorch_model.bin", "config.json"], "pytorch_model.bin: refused: a pickle can run any code", ".safetensors"),
        (["a.gguf", "b.gguf"], "holds 2 models", "name one of its files: a.gguf, b.gguf"),
        (["model.safetensors"], "config.json: missing; the weights alone do not say", None),
        (["a.safetensors", "b.safetensors", "config.json"], "index.json: missing; 2 files", None),
    ],
)
def test_folders_that_are_no_model(files, message, hint, tmp_path):
    make(tmp_path, *files)
    with pytest.raises(FreeholdError) as error:
        open_checkpoint(tmp_path)
    assert message in str(error.value)
    assert hint is None or hint in error.value.hint


@pytest.mark.parametrize("name", ["model.pt", "model.PTH", "pytorch_model.bin", "m.ckpt", "m.pkl"])
def test_pickles_are_refused(name, tmp_path):
    make(tmp_path, name)
    with pytest.raises(UnsupportedError, match="refused: a pickle can run any code when it is opened") as error:
        open_checkpoint(tmp_path / name)
    assert "save_pretrained" in error.value.hint


def test_safetensors_beside_a_pickle_are_read(tmp_path):
    shards(tmp_path, HALVES)
    make(tmp_path, "pytorch_model.bin")
    assert open_checkpoint(tmp_path).tensors.keys() == {"a", "b"}


def test_room_is_made_for_the_file_and_not_for_its_cap(tmp_path):
    path = tmp_path / "small"
    path.write_bytes(b"x" * 1000)
    tracemalloc.start()
    assert read_bytes(path, 256 << 20) == b"x" * 1000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20
    with pytest.raises(ModelFileError, match="small: longer than 999 bytes"):
        read_bytes(path, 999)
