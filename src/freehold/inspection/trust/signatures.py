"""OpenSSF model signatures by a key of one's own, offline, as the `model-signing` package writes and checks them.

The signature is a Sigstore bundle around an in-toto statement that lists the digest of every file: whoever has the
public key can tell which file was changed, added or taken away since. Format: the OpenSSF Model Signing
Specification 1.0.
"""

import base64
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from freehold.errors import FreeholdError, ModelFileError, ModelNotFoundError, UnsupportedError
from freehold.inspection.artefacts import Artefacts
from freehold.inspection.trust.finding import visible

FOLDER_SIGNATURE = "model.sig"  # the package's own default
_KEY_HINT = (
    "a key is made by: openssl ecparam -name prime256v1 -genkey -noout -out key.pem; "
    "its public half by: openssl ec -in key.pem -pubout -out key.pub"
)
MAX_SIGNATURE_BYTES = 64 << 20


@dataclass(frozen=True)
class Verified:
    """What a sound signature covers: file names, and those that its signer left out."""

    files: tuple[str, ...]
    ignored: tuple[str, ...]


def signature_path(model: Path) -> Path:
    """Where a model's signature is when nobody says: in its folder, or beside its file."""
    return model / FOLDER_SIGNATURE if model.is_dir() else model.with_name(f"{model.name}.sig")


def sign(model: Path, key: Path, signature: Path, ask_password: Callable[[], str] | None = None) -> int:
    """Sign every file of a model; returns how many. `ask_password` is called for a key that is encrypted.

    Raises ModelFileError for a link out of the folder, UnsupportedError without `model-signing`.
    """
    signing, hashing = _package("signing"), _package("hashing")
    _check(model, key)
    with _said_plainly(key):
        config = signing.Config()
        _use_key(config, key, ask_password)
        of_files = hashing.Config().set_ignored_paths(paths=_within(signature, model)).set_allow_symlinks(True)
        config.set_hashing_config(of_files).sign(model, signature)
    return len(_statement(signature)["resources"])


def verify(model: Path, key: Path, signature: Path) -> Verified:
    """Check a model's files against its signature and a public key.

    Raises ModelFileError that names each file that was changed, added or is missing, or says that the signature is
    not this key's.
    """
    verifying, hashing = _package("verifying"), _package("hashing")
    _check(model, key)
    if not signature.is_file():
        hint = "freehold sign makes one; --signature says where it is"
        raise ModelNotFoundError(f"{signature}: no such signature", hint)
    if signature.stat().st_size > MAX_SIGNATURE_BYTES:
        size = signature.stat().st_size
        raise ModelFileError(f"{signature}: {size} bytes, a signature has at most {MAX_SIGNATURE_BYTES}")
    with _said_plainly(key):
        config = verifying.Config().use_elliptic_key_verifier(public_key=key)
    try:
        config.verify(model, signature)
    except Exception as error:
        _explain(error, model, signature, hashing)
    predicate = _statement(signature)
    ignored = predicate["serialization"].get("ignore_paths", [])
    own = {FOLDER_SIGNATURE, signature.name, ".git", ".gitattributes", ".github", ".gitignore"}
    return Verified(
        tuple(_name(resource["name"], model) for resource in predicate["resources"]),
        tuple(path for path in ignored if path not in own),
    )


def _explain(error: Exception, model: Path, signature: Path, hashing: Any) -> None:
    """Raise what a reader can act on. The package checks the signature itself before it compares any file."""
    message = str(error)
    if message.startswith("Key mismatch") or type(error).__name__ == "InvalidSignature":
        raise ModelFileError(f"{signature}: not signed by this key, or changed since") from None
    if not message.startswith("Signature mismatch"):
        reason = visible(message) or type(error).__name__
        raise ModelFileError(f"{signature}: not a signature that can be read: {reason}") from None
    changes = "; ".join(_differences(model, signature, hashing)) or "other files than were signed"
    raise ModelFileError(f"{model}: not as it was signed: {changes}") from None


def _differences(model: Path, signature: Path, hashing: Any) -> Iterator[str]:
    predicate = _statement(signature)
    method = predicate["serialization"]
    config = hashing.Config().set_allow_symlinks(True)
    config.set_ignored_paths(paths=[*method.get("ignore_paths", []), *_within(signature, model)])
    actual = {_name(d.identifier, model): d.digest.digest_hex for d in config.hash(model).resource_descriptors()}
    signed = {_name(resource["name"], model): resource["digest"] for resource in predicate["resources"]}
    if method.get("hash_type") == "sha256" and method.get("method") == "files":
        changed = sorted(name for name in signed.keys() & actual.keys() if signed[name] != actual[name])
        if changed:
            yield f"changed: {_names(changed)}"
    if added := sorted(actual.keys() - signed.keys()):
        yield f"added: {_names(added)}"
    if missing := sorted(signed.keys() - actual.keys()):
        yield f"missing: {_names(missing)}"


def _name(identifier: str, model: Path) -> str:
    return model.name if identifier == "." else identifier  # how the package calls a model of one file


def _names(names: list[str]) -> str:
    return ", ".join(visible(name, 80) for name in names)


def _statement(signature: Path) -> dict[str, Any]:
    """The predicate that a bundle carries: `serialization` and `resources`. Says nothing about who signed it."""
    payload = json.loads(signature.read_text())["dsseEnvelope"]["payload"]
    return json.loads(base64.b64decode(payload))["predicate"]


def _within(signature: Path, model: Path) -> list[Path]:
    """The signature's own path, when it lies in the folder that it signs."""
    inside = model.is_dir() and signature.resolve().is_relative_to(model.resolve())
    return [signature.resolve().relative_to(model.resolve())] if inside else []


def _check(model: Path, key: Path) -> None:
    for file in Artefacts(model).files:
        if file.outside:
            hint = "only files of the model are signed"
            raise ModelFileError(f"{visible(file.name)}: a link that leaves the folder", hint)
    if not key.is_file():
        raise ModelNotFoundError(f"{key}: no such key", _KEY_HINT)


def _use_key(config: Any, key: Path, ask_password: Callable[[], str] | None) -> None:
    try:
        config.use_elliptic_key_signer(private_key=key)
    except TypeError:  # it is encrypted
        if ask_password is None:
            hint = "sign from a terminal, which asks for its password"
            raise FreeholdError(f"{key}: the key is encrypted", hint) from None
        # The package passes it on to `cryptography`, which takes bytes.
        config.use_elliptic_key_signer(private_key=key, password=ask_password().encode())


@contextmanager
def _said_plainly(key: Path) -> Iterator[None]:
    try:
        yield
    except FreeholdError:
        raise
    except (ValueError, TypeError) as error:
        raise FreeholdError(f"{key}: not a key that can be used: {visible(error)}", _KEY_HINT) from None
    except OSError as error:
        raise FreeholdError(f"{error.filename or key}: {error.strerror or error}") from None


def _package(name: str) -> Any:
    import importlib

    try:
        return importlib.import_module(f"model_signing.{name}")
    except ImportError as error:
        missing = "model-signing" if "model_signing" in str(error) else str(error)
        raise UnsupportedError(f"signatures need {missing}", "pip install 'freehold[inspect]'") from None
