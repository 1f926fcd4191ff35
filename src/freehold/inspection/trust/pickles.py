"""What a pickle would import, read from its opcodes: nothing is unpickled.

A pickle is a program; whoever loads it runs it. Its opcodes say which functions it calls, also where the rest of the
file is damaged, since a loader runs them up to the damage.
"""

import pickletools
import re
from collections.abc import Iterable
from dataclasses import dataclass
from io import BufferedReader
from typing import Any

MAX_OPCODES = 1_000_000
MAX_ARGUMENT_BYTES = 128 << 20
MAX_PICKLES = 64  # one after the other in a file, as torch's old format has five

_DANGEROUS = {
    "__builtin__", "_posixsubprocess", "asyncio", "bdb", "builtins", "cloudpickle", "code", "codeop", "commands",
    "cProfile", "ctypes", "dill", "distutils", "doctest", "ensurepip", "ftplib", "functools", "http", "idlelib",
    "importlib", "imaplib", "joblib", "linecache", "marshal", "multiprocessing", "nt", "operator", "os",
    "pdb", "pickle", "pip", "pkgutil", "platform", "posix", "posixpath", "profile", "pty", "pydoc", "requests",
    "runpy", "setuptools", "shelve", "shutil", "signal", "smtplib", "socket", "ssl", "subprocess", "sys",
    "test", "timeit", "trace", "urllib", "uuid", "venv", "webbrowser", "zipfile", "zipimport",
}  # fmt: skip
# What tensors and arrays are made with, and Python's plain containers.
_HARMLESS_BUILTINS = {"set", "frozenset", "dict", "list", "tuple", "int", "float", "complex", "bytes", "bytearray",
                      "slice", "str", "bool", "object", "range"}  # fmt: skip
_HARMLESS = {
    "_codecs.encode", "collections.OrderedDict", "collections.defaultdict", "collections.Counter",
    "copyreg._reconstructor", "copy_reg._reconstructor", "numpy.core.multiarray._reconstruct",
    "numpy._core.multiarray._reconstruct", "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar",
    "numpy._core.numeric._frombuffer", "numpy.core.numeric._frombuffer", "numpy.dtype", "numpy.ndarray", "torch.Size",
    "torch.device", "torch.serialization._get_layout", "torch.storage.TypedStorage", "torch.storage.UntypedStorage",
    "torch.Tensor", "torch.nn.parameter.Parameter",
}  # fmt: skip
_GLOBAL = re.compile(r"[A-Za-z_][\w.]*")
_TEXT_OPCODES = {"STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"}


@dataclass(frozen=True)
class Pickle:
    """`imports`: module.name of each global; `opcodes`: how many were read; `is_whole`: read to its end."""

    imports: frozenset[str]
    opcodes: int
    is_whole: bool

    @property
    def dangerous(self) -> list[str]:
        return sorted(name for name in self.imports if _is_dangerous(name))

    @property
    def unknown(self) -> list[str]:
        """Imports that neither tensors nor plain values need."""
        return sorted(name for name in self.imports if not _is_dangerous(name) and not _is_harmless(name))


def read_pickles(stream: BufferedReader) -> Pickle | None:
    """All pickles that stand one after the other from here; None when there is not even one opcode of a pickle."""
    imports: set[str] = set()
    opcodes, whole = 0, False
    for number in range(MAX_PICKLES):
        first = stream.peek(1)[:1]
        if not first or (number and first != b"\x80"):
            break
        reader = _Reader()
        reader.read(pickletools.genops(_Capped(stream)), MAX_OPCODES - opcodes)  # type: ignore[arg-type]
        imports |= reader.imports
        opcodes += reader.opcodes
        whole = reader.is_whole
        if not whole or opcodes >= MAX_OPCODES:
            break
    return Pickle(frozenset(imports), opcodes, whole) if opcodes else None


def looks_like_pickle(head: bytes, found: Pickle | None) -> bool:
    """Whether bytes that parse as a pickle are one: lists of words parse too, for a while."""
    if found is None:
        return False
    if head[:1] == b"\x80" and len(head) > 1 and head[1] <= 5:
        return found.is_whole or found.opcodes >= 5
    # Protocols 0 and 1 have no mark.
    return all(_GLOBAL.fullmatch(name) for name in found.imports) and (
        bool(found.dangerous) or (found.is_whole and bool(found.imports))
    )


class _Capped:
    """A stream that does not give more at once than an honest pickle asks for."""

    def __init__(self, stream: BufferedReader):
        self._stream = stream

    def read(self, count: int) -> bytes:
        return self._stream.read(count) if count <= MAX_ARGUMENT_BYTES else b""

    def readline(self) -> bytes:
        return self._stream.readline(1 << 20)


class _Reader:
    """Follows the strings on the stack and in the memo, from which STACK_GLOBAL takes its name."""

    def __init__(self) -> None:
        self.imports: set[str] = set()
        self.opcodes = 0
        self.is_whole = False
        self._recent: list[str] = []
        self._memo: dict[int, str] = {}
        self._pushed: str | None = None

    def read(self, opcodes: Iterable[tuple[Any, Any, Any]], limit: int) -> None:
        try:
            for opcode, argument, _ in opcodes:
                self.opcodes += 1
                self._take(opcode.name, argument)
                if opcode.name == "STOP":
                    self.is_whole = True
                if self.opcodes >= limit:
                    return
        except Exception:  # pickletools raises what it meets in a damaged file; what stands before it counts
            return

    def _take(self, name: str, argument: Any) -> None:
        if name in ("GLOBAL", "INST"):
            self.imports.add(str(argument).replace(" ", ".", 1))
        elif name == "STACK_GLOBAL":
            self.imports.add(".".join(self._recent[-2:]) if len(self._recent) > 1 else "?")
        elif name == "MEMOIZE":
            self._remember(len(self._memo))
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            self._remember(int(argument))
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            self._push(self._memo.get(int(argument)))
        elif name in _TEXT_OPCODES:
            self._push(argument if isinstance(argument, str) else str(argument))
        else:
            self._pushed = None

    def _push(self, text: str | None) -> None:
        self._pushed = text
        if text is not None:
            self._recent = [*self._recent[-3:], text]

    def _remember(self, index: int) -> None:
        self._memo[index] = self._pushed or ""


def _is_dangerous(name: str) -> bool:
    module, _, attribute = name.rpartition(".")
    if module in ("builtins", "__builtin__"):
        return attribute not in _HARMLESS_BUILTINS
    return name.split(".", 1)[0] in _DANGEROUS or name == "?" or name.startswith(("torch.hub.", "torch.jit."))


def _is_harmless(name: str) -> bool:
    if name in _HARMLESS or name.startswith(("torch._utils._rebuild_", "builtins.", "__builtin__.")):
        return True
    module, _, attribute = name.rpartition(".")
    return module == "torch" and (attribute.endswith("Storage") or attribute in _TORCH_TYPES)


_TORCH_TYPES = {"float32", "float16", "bfloat16", "float64", "int8", "uint8", "int16", "int32", "int64", "bool",
                "float8_e4m3fn", "float8_e5m2", "strided"}  # fmt: skip
