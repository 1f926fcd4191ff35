"""Reading a model's files: mapped, or whole with a cap."""

import json
import mmap
import os
from pathlib import Path
from typing import Any

from freehold.errors import ModelFileError, ModelNotFoundError

MAX_JSON_BYTES = 16 << 20


def map_file(path: Path) -> mmap.mmap:
    """The file, mapped for reading. Raises ModelNotFoundError, or ModelFileError when it is empty or unreadable."""
    try:
        with path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    except FileNotFoundError:
        raise ModelNotFoundError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise ModelNotFoundError(f"{path}: is a folder, expected a file") from None
    except ValueError:
        raise ModelFileError(f"{path}: the file is empty") from None
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be read: {error.strerror}") from None


def read_bytes(path: Path, max_bytes: int) -> bytes:
    """The whole file. Raises ModelNotFoundError, ModelFileError when it is longer than `max_bytes` or unreadable."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size  # room is made for all that is asked for
            raw = file.read(min(size, max_bytes) + 1)
    except FileNotFoundError:
        raise ModelNotFoundError(f"{path}: no such file") from None
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be read: {error.strerror}") from None
    if len(raw) > max_bytes:
        raise ModelFileError(f"{path}: longer than {max_bytes} bytes")
    return raw


def read_json(path: Path, max_bytes: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """A JSON object. Raises ModelNotFoundError, ModelFileError when it is too long, not JSON or not an object."""
    raw = read_bytes(path, max_bytes)
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise ModelFileError(f"{path}: not JSON: {error}") from None
    if not isinstance(value, dict):
        raise ModelFileError(f"{path}: expected a JSON object, got {type(value).__name__}")
    return value
