"""llama.cpp by its C interface, out of the wheel xllamacpp: logits and tokens of a GGUF file, by code of others."""

import ctypes
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest


class _Parameters(ctypes.Structure):
    """Any parameter struct of llama.h, larger than all of them (they are passed by value, in memory)."""

    _fields_ = [("words", ctypes.c_int32 * 256)]


# Words of llama_context_params, and what they are unless set: to see that this is the layout of the library at hand.
_DEFAULTS = {"n_ctx": (0, 512), "flash": (13, -1), "type_k": (26, 1), "type_v": (27, 1)}
_FLOAT32 = {"flash": 0, "type_k": 0, "type_v": 0}  # keys and values in float32, attention as written


class _Batch(ctypes.Structure):
    _fields_ = [
        ("n_tokens", ctypes.c_int32),
        ("token", ctypes.POINTER(ctypes.c_int32)),
        ("embd", ctypes.c_void_p),
        ("pos", ctypes.POINTER(ctypes.c_int32)),
        ("n_seq_id", ctypes.POINTER(ctypes.c_int32)),
        ("seq_id", ctypes.POINTER(ctypes.POINTER(ctypes.c_int32))),
        ("logits", ctypes.POINTER(ctypes.c_int8)),
    ]


def library() -> Any:
    found = importlib.util.find_spec("xllamacpp")
    if found is None or not found.submodule_search_locations:
        pytest.skip("xllamacpp, which carries llama.cpp, is not installed")
    made = ctypes.CDLL(str(next(Path(found.submodule_search_locations[0]).glob("*.so"))))
    pointer, number = ctypes.c_void_p, ctypes.c_int32
    for name, result, arguments in (
        ("llama_model_default_params", _Parameters, []),
        ("llama_context_default_params", _Parameters, []),
        ("llama_model_load_from_file", pointer, [ctypes.c_char_p, _Parameters]),
        ("llama_init_from_model", pointer, [pointer, _Parameters]),
        ("llama_batch_init", _Batch, [number, number, number]),
        ("llama_decode", number, [pointer, _Batch]),
        ("llama_get_logits_ith", ctypes.POINTER(ctypes.c_float), [pointer, number]),
        ("llama_model_get_vocab", pointer, [pointer]),
        ("llama_vocab_n_tokens", number, [pointer]),
        ("llama_tokenize", number, [pointer, ctypes.c_char_p, number, pointer, number, ctypes.c_bool, ctypes.c_bool]),
        ("llama_free", None, [pointer]),
        ("llama_model_free", None, [pointer]),
        ("llama_log_set", None, [pointer, pointer]),
    ):
        function = getattr(made, name)
        function.restype, function.argtypes = result, arguments
    words = made.llama_context_default_params().words
    for name, (place, value) in _DEFAULTS.items():
        assert words[place] == value, f"{name}: llama.cpp's parameters are laid out otherwise than these tests know"
    return made


_Logger = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)


class LlamaCpp:
    def __init__(self, path: Path):
        self._library, self.messages = library(), []
        self._logger = _Logger(lambda _, text, __: self.messages.append(text.decode(errors="replace")))
        self._library.llama_log_set(ctypes.cast(self._logger, ctypes.c_void_p), None)
        self._model = self._library.llama_model_load_from_file(
            str(path).encode(), self._library.llama_model_default_params()
        )
        assert self._model, "".join(self.messages[-12:])
        self._vocabulary = self._library.llama_model_get_vocab(self._model)

    def __enter__(self) -> "LlamaCpp":
        return self

    def __exit__(self, *_: object) -> None:
        self._library.llama_model_free(self._model)

    def logits(self, ids: list[int]) -> Any:
        """float32 (len(ids), vocabulary)."""
        api = self._library
        parameters = api.llama_context_default_params()
        for name, value in _FLOAT32.items():
            parameters.words[_DEFAULTS[name][0]] = value
        context = api.llama_init_from_model(self._model, parameters)
        assert context, "".join(self.messages[-12:])
        batch = api.llama_batch_init(len(ids), 0, 1)
        batch.n_tokens = len(ids)
        for i, token in enumerate(ids):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = token, i, 1, 1
            batch.seq_id[i][0] = 0
        assert api.llama_decode(context, batch) == 0, "".join(self.messages[-12:])
        size = api.llama_vocab_n_tokens(self._vocabulary)
        rows = [np.ctypeslib.as_array(api.llama_get_logits_ith(context, i), (size,)).copy() for i in range(len(ids))]
        api.llama_free(context)
        return np.array(rows)

    def tokenize(self, text: str, *, special: bool, bos: bool = False) -> list[int]:
        raw = text.encode()
        out = (ctypes.c_int32 * (len(raw) + 16))()
        count = self._library.llama_tokenize(
            self._vocabulary, raw, len(raw), ctypes.cast(out, ctypes.c_void_p), len(out), bos, special
        )
        assert count >= 0
        return list(out[:count])
