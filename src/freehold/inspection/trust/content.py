"""What a file is, by its bytes and never by its name."""

import os
import re
from collections.abc import Callable

HEAD_BYTES = 4096

# (offset, magic number, kind); executables first.
_MAGIC: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\x7fELF", "ELF executable"),
    (0, b"\xfe\xed\xfa\xce", "Mach-O executable"),
    (0, b"\xfe\xed\xfa\xcf", "Mach-O executable"),
    (0, b"\xce\xfa\xed\xfe", "Mach-O executable"),
    (0, b"\xcf\xfa\xed\xfe", "Mach-O executable"),
    (0, b"\xca\xfe\xba\xbe", "Mach-O or Java executable"),
    (0, b"\0asm", "WebAssembly executable"),
    (0, b"#!", "script"),
    (0, b"GGUF", "gguf"),
    (0, b"PK\x03\x04", "zip"),
    (0, b"PK\x05\x06", "zip"),
    (0, b"\x1f\x8b", "gzip"),
    (0, b"BZh", "bzip2"),
    (0, b"\xfd7zXZ\0", "xz"),
    (0, b"\x28\xb5\x2f\xfd", "zstd"),
    (0, b"7z\xbc\xaf\x27\x1c", "7z"),
    (0, b"Rar!\x1a\x07", "rar"),
    (257, b"ustar", "tar"),
    (0, b"\x93NUMPY", "numpy array"),
    (0, b"\x89HDF\r\n\x1a\n", "hdf5"),
    (0, b"%PDF-", "pdf"),
    (0, b"\x89PNG\r\n\x1a\n", "image"),
    (0, b"\xff\xd8\xff", "image"),
    (0, b"GIF8", "image"),
    (0, b"RIFF", "media"),
)
ARCHIVES = frozenset({"zip", "gzip", "bzip2", "xz", "zstd", "7z", "rar", "tar"})
_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]")


def kind_of(head: bytes, num_bytes: int) -> str:
    """The kind of a file from its first HEAD_BYTES and its size; "text" and "data" are what is left over.

    Pickles without a mark (protocols 0 and 1) are text or data here: `pickles.read_pickles` tells.
    """
    if not num_bytes:
        return "empty"
    for offset, magic, kind in _MAGIC:
        if head[offset : offset + len(magic)] == magic:
            return kind
    if head[:2] == b"MZ" and _is_pe(head):
        return "Windows executable"
    # Before pickles: a header of 1,152 bytes gives the first bytes of one.
    if len(head) > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= max(num_bytes, HEAD_BYTES):
        return "safetensors"
    if head[:1] == b"\x80" and head[1:2] and head[1] <= 5:
        return "pickle"
    if len(head) > 4 and head[2:4] == b"\r\n" and 0x0C < head[1] < 0x10:
        return "compiled Python"
    if head.startswith(b"version https://git-lfs.github.com/spec/v1"):
        return "git-lfs pointer"
    return "text" if _is_text(head) else "data"


def is_executable(kind: str) -> bool:
    return kind.endswith("executable") or kind in ("script", "compiled Python")


def _is_pe(head: bytes) -> bool:
    at = int.from_bytes(head[0x3C:0x40], "little")
    return at > len(head) - 4 or head[at : at + 4] == b"PE\0\0"


def _is_text(head: bytes) -> bool:
    if _CONTROL.search(head):
        return False
    try:
        head.decode()
    except UnicodeDecodeError as error:
        return error.end >= len(head) - 1 and error.reason == "unexpected end of data"  # cut within a character
    return True


# What a name promises: kinds that its ending stands for. Endings that are not here promise nothing.
_PROMISED: dict[str, frozenset[str]] = {
    ".safetensors": frozenset({"safetensors", "git-lfs pointer"}),
    ".gguf": frozenset({"gguf", "git-lfs pointer"}),
    **dict.fromkeys(
        (".json", ".md", ".txt", ".jinja", ".yaml", ".yml", ".toml", ".csv", ".jsonl"), frozenset({"text", "empty"})
    ),
    **dict.fromkeys((".py", ".ipynb"), frozenset({"text", "empty", "script"})),
    **dict.fromkeys((".png", ".jpg", ".jpeg", ".gif", ".webp"), frozenset({"image", "media"})),
    ".pdf": frozenset({"pdf"}),
}


def broken_promise(name: str, kind: str) -> bool:
    """Whether the content is another than the name says."""
    promised = _PROMISED.get(os.path.splitext(name.lower())[1])  # noqa: PTH122  (a name in an archive is no path)
    return promised is not None and kind not in promised


def looks_like_python(source: str) -> list[str] | None:
    """What Python source imports and defines at its top; None for text that is not Python.

    Prose and configuration do not parse, or hold neither an import nor a definition.
    """
    import ast

    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    kinds = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef, ast.AsyncFunctionDef)
    if not any(isinstance(node, kinds) for node in tree.body):
        return None
    return sorted({name for node in ast.walk(tree) for name in _suspicious(node)})


def _suspicious(node) -> list[str]:
    import ast

    names: Callable[[str], bool] = lambda name: name.split(".")[0] in _REACHES_OUT  # noqa: E731
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names if names(alias.name)]
    if isinstance(node, ast.ImportFrom):
        return [node.module] if node.module and names(node.module) else []
    if isinstance(node, ast.Call):
        called = ast.unparse(node.func)
        return [f"{called}()"] if called in _RUNS_CODE else []
    return []


_REACHES_OUT = {"subprocess", "socket", "requests", "urllib", "http", "httpx", "aiohttp", "ftplib", "smtplib", "ctypes",
                "pty", "pickle", "marshal", "dill", "cloudpickle", "winreg", "paramiko", "base64"}  # fmt: skip
_RUNS_CODE = {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "os.execv", "os.spawnv",
              "importlib.import_module"}  # fmt: skip
