"""Signatures by a key: made and checked here and by the package's own command, from which the format comes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from model_signing import signing, verifying

from freehold.cli import cli
from freehold.errors import FreeholdError, ModelFileError, ModelNotFoundError
from freehold.inspection.trust.signatures import sign, signature_path, verify


def keys(folder, name="key", password=None):
    private = ec.generate_private_key(ec.SECP256R1())
    how = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    pem, pub = folder / f"{name}.pem", folder / f"{name}.pub"
    pem.write_bytes(private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, how))
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    pub.write_bytes(private.public_key().public_bytes(serialization.Encoding.PEM, form))
    return pem, pub


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "m"
    (folder / "sub").mkdir(parents=True)
    for name, content in (("config.json", "{}"), ("model.safetensors", "weights"), ("sub/x.txt", "x")):
        (folder / name).write_text(content)
    return folder


@pytest.fixture
def signed(model, tmp_path):
    pem, pub = keys(tmp_path)
    assert sign(model, pem, signature_path(model)) == 3
    return model, pub


def changed(folder, change):
    {
        "changed": lambda: (folder / "model.safetensors").write_text("weighty"),
        "added": lambda: (folder / "sub" / "new.bin").write_text("x"),
        "missing": lambda: (folder / "config.json").unlink(),
    }[change]()


def test_what_was_signed_is_as_it_was(signed):
    model, pub = signed
    assert set(verify(model, pub, signature_path(model)).files) == {"config.json", "model.safetensors", "sub/x.txt"}


@pytest.mark.parametrize(
    ("change", "text"),
    [("changed", "changed: model.safetensors"), ("added", "added: sub/new.bin"), ("missing", "missing: config.json")],
)
def test_each_change_is_named_with_its_file(signed, change, text):
    model, pub = signed
    changed(model, change)
    with pytest.raises(ModelFileError) as error:
        verify(model, pub, signature_path(model))
    assert error.value.message == f"{model}: not as it was signed: {text}"


def test_all_changes_at_once(signed):
    model, pub = signed
    for change in ("changed", "added", "missing"):
        changed(model, change)
    with pytest.raises(ModelFileError, match=r"changed: model.safetensors; added: sub/new.bin; missing: config.json"):
        verify(model, pub, signature_path(model))


def test_another_key_has_not_signed(signed, tmp_path):
    model, _ = signed
    _, other = keys(tmp_path, "other")
    with pytest.raises(ModelFileError, match="not signed by this key, or changed since"):
        verify(model, other, signature_path(model))


def test_a_signature_that_was_changed(signed):
    model, pub = signed
    where = signature_path(model)
    bundle = json.loads(where.read_text())
    payload = bundle["dsseEnvelope"]["payload"]
    bundle["dsseEnvelope"]["payload"] = payload[:80] + ("B" if payload[80] != "B" else "C") + payload[81:]
    where.write_text(json.dumps(bundle))
    with pytest.raises(ModelFileError, match="not signed by this key, or changed since"):
        verify(model, pub, where)


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"mediaType": 1}', "\x00"])
def test_what_is_no_signature(signed, content):
    model, pub = signed
    signature_path(model).write_text(content)
    with pytest.raises(ModelFileError, match="not a signature that can be read"):
        verify(model, pub, signature_path(model))


def test_a_single_file(model, tmp_path):
    pem, pub = keys(tmp_path)
    file = model / "model.safetensors"
    sign(file, pem, signature_path(file))
    assert signature_path(file).name == "model.safetensors.sig"
    assert verify(file, pub, signature_path(file)).files == ("model.safetensors",)
    file.write_text("other")
    with pytest.raises(ModelFileError, match=r"changed: model\.safetensors"):
        verify(file, pub, signature_path(file))


def test_an_encrypted_key_asks_for_its_password(model, tmp_path):
    pem, pub = keys(tmp_path, password=b"secret")
    with pytest.raises(FreeholdError, match="the key is encrypted"):
        sign(model, pem, signature_path(model))
    with pytest.raises(FreeholdError, match="not a key that can be used"):
        sign(model, pem, signature_path(model), lambda: "wrong")
    sign(model, pem, signature_path(model), lambda: "secret")
    verify(model, pub, signature_path(model))


def test_what_is_missing_or_no_key(model, tmp_path):
    pem, pub = keys(tmp_path)
    where = signature_path(model)
    with pytest.raises(ModelNotFoundError, match="no such signature"):
        verify(model, pub, where)
    with pytest.raises(ModelNotFoundError, match="no such key") as error:
        sign(model, tmp_path / "none.pem", where)
    assert "openssl ecparam -name prime256v1 -genkey" in error.value.hint
    with pytest.raises(FreeholdError, match="not a key that can be used"):
        sign(model, pub, where)
    with pytest.raises(ModelNotFoundError, match="no such file or folder"):
        sign(tmp_path / "none", pem, where)


def test_a_link_out_of_the_folder_is_not_signed(model, tmp_path):
    pem, _ = keys(tmp_path)
    (tmp_path / "secret").write_text("x")
    (model / "link").symlink_to(tmp_path / "secret")
    with pytest.raises(ModelFileError, match="link: a link that leaves the folder"):
        sign(model, pem, signature_path(model))


def test_the_package_agrees_with_its_own_defaults(signed, tmp_path):
    model, pub = signed
    theirs = verifying.Config().use_elliptic_key_verifier(public_key=pub)
    theirs.verify(model, signature_path(model))
    own = tmp_path / "their.sig"
    signing.Config().use_elliptic_key_signer(private_key=tmp_path / "key.pem").sign(model / "sub", own)
    assert verify(model / "sub", pub, own).files == ("x.txt",)
    changed(model, "changed")
    with pytest.raises(ValueError, match=r"model\.safetensors"):
        verifying.Config().use_elliptic_key_verifier(public_key=pub).verify(model, signature_path(model))


def test_from_the_command_line(model, tmp_path):
    pem, pub = keys(tmp_path)
    run = CliRunner().invoke
    assert run(cli, ["sign", str(model), "--key", str(pem)]).output == f"3 files signed: {model / 'model.sig'}\n"
    done = run(cli, ["verify", str(model), "--key", str(pub)])
    assert done.output == f"3 files are as signed by the owner of {pub}\n"
    assert "openssl ecparam -name prime256v1 -genkey -noout -out key.pem" in run(cli, ["sign", "--help"]).output
    changed(model, "changed")
    command = [Path(sys.executable).with_name("freehold"), "verify", model, "--key", pub]
    failed = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert failed.returncode == 2
    assert failed.stderr == f"error: {model}: not as it was signed: changed: model.safetensors\n"
