"""hf:, ms: and pypi: references through the command, against a hub on the loopback that speaks their interfaces."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from freehold.errors import ModelNotFoundError, RequestError, UnsupportedError
from freehold.store.catalogue import CATALOGUE
from freehold.store.hub import parse
from freehold.store.selection import RemoteFile, choose

COMMAND = str(Path(sys.executable).with_name("freehold"))
WEIGHTS = bytes(range(256)) * 4000
COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPOSITORIES = {
    "lab/model": {
        "config.json": b'{"model_type": "llama", "auto_map": {"AutoModel": "modeling.Evil"}}',
        "model-00001-of-00002.safetensors": WEIGHTS,
        "model-00002-of-00002.safetensors": WEIGHTS[:1000],
        "consolidated.safetensors": WEIGHTS,
        "original/model.safetensors": WEIGHTS,
        "pytorch_model.bin": b"\x80\x04pickle",
        "modeling.py": b"import os",
        "tokenizer.json": b"{}",
        "README.md": b"# a card",
        "LICENSE": b"MIT",
    },
    "lab/gguf": {"m-Q4_K_M.gguf": WEIGHTS, "m-Q8_0.gguf": WEIGHTS[:500], "mmproj-m.gguf": b"x", "README.md": b"card"},
    "lab/pickled": {"config.json": b"{}", "pytorch_model.bin": b"\x80\x04pickle"},
}


class Hub(BaseHTTPRequestHandler):
    """The parts of the hub's and of ModelScope's interfaces that fetching uses."""

    protocol_version = "HTTP/1.1"
    seen: list[tuple[str, dict[str, str]]]
    corrupt: str | None = None
    down = False
    break_after: int | None = None  # bytes of a large file, once

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        url = urlsplit(self.path)
        path, query = unquote(url.path), parse_qs(url.query)
        type(self).seen.append((self.path, dict(self.headers)))
        if type(self).down:
            return self.answer(500, b"{}")
        parts = path.strip("/").split("/")
        if path.startswith("/api/models/"):
            self.model_info("/".join(parts[2:4]))
        elif path.startswith("/api/v1/models/"):
            repository = "/".join(parts[3:5])
            self.scope_list(repository) if parts[-1] == "files" else self.send_file(repository, query["FilePath"][0])
        elif len(parts) > 4 and parts[2] == "resolve":
            self.send_file("/".join(parts[:2]), "/".join(parts[4:]))
        else:
            self.answer(404, b"{}")

    def model_info(self, repository):
        if repository == "lab/gated":
            return self.answer(403, b"{}", {"X-Error-Code": "GatedRepo", "X-Error-Message": "gated"})
        if repository not in REPOSITORIES:
            return self.answer(404, b"{}", {"X-Error-Code": "RepoNotFound", "X-Error-Message": "not found"})
        siblings = []
        for name, content in REPOSITORIES[repository].items():
            entry = {"rfilename": name, "size": len(content), "blobId": hashlib.sha1(content).hexdigest()}
            if is_large(name):
                entry["lfs"] = {"sha256": digest(content), "size": len(content), "pointerSize": 130}
            siblings.append(entry)
        info = {"id": repository, "modelId": repository, "sha": COMMIT, "siblings": siblings, "tags": []}
        self.answer(200, json.dumps(info | {"cardData": {"license": "mit"}}).encode())

    def scope_list(self, repository):
        if repository not in REPOSITORIES:
            return self.answer(404, b"{}")
        files = [
            {"Path": name, "Size": len(content), "Sha256": digest(content), "Type": "blob"}
            for name, content in REPOSITORIES[repository].items()
        ]
        files.append({"Path": "original", "Size": 0, "Type": "tree"})
        self.answer(200, json.dumps({"Code": 200, "Data": {"Files": files}}).encode())

    def send_file(self, repository, name):
        content = REPOSITORIES[repository][name]
        etag = digest(content) if is_large(name) else hashlib.sha1(content).hexdigest()
        if name == type(self).corrupt:
            content = b"\1" + content[1:]
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        start = 0
        if self.headers.get("Range"):
            start = int(self.headers["Range"].removeprefix("bytes=").split("-")[0])
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        cut = type(self).break_after
        if cut and is_large(name) and self.command == "GET" and start == 0:
            type(self).break_after = None
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[:cut])
            self.close_connection = True
            return
        self.answer(206 if start else 200, content[start:], headers)

    def answer(self, status, content, headers=None):
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def is_large(name):
    return name.endswith((".safetensors", ".gguf", ".bin"))


def digest(content):
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def hub():
    handler = type("Handler", (Hub,), {"seen": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    handler.url = f"http://127.0.0.1:{server.server_port}"
    yield handler
    server.shutdown()
    server.server_close()


@pytest.fixture
def run(hub, tmp_path):
    environment = {
        **os.environ,
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(tmp_path / "hf"),
        "HF_TOKEN": "hf_secret",
        "HF_HUB_DISABLE_XET": "1",
        "MODELSCOPE_DOMAIN": hub.url,
        "FREEHOLD_HOME": str(tmp_path / "home"),
        "NO_PROXY": "127.0.0.1",
    }

    def command(*arguments, fails=False):
        done = subprocess.run(
            [COMMAND, *arguments],
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == (2 if fails else 0), done.stderr
        return done.stderr if fails else done.stdout

    return command


def test_a_folder_from_the_hub(run, hub, tmp_path):
    path, details = run("pull", "hf:lab/model").splitlines()
    assert "licence mit" in details and f"revision {COMMIT}" in details
    assert Path(path).is_relative_to(tmp_path / "hf")  # the hub's own cache, in place
    names = sorted(file.name for file in Path(path).iterdir())
    expected = ["LICENSE", "README.md", "config.json", "model-00001-of-00002.safetensors"]
    assert names == [*expected, "model-00002-of-00002.safetensors", "tokenizer.json"]
    assert (Path(path) / "model-00001-of-00002.safetensors").read_bytes() == WEIGHTS
    requests = len(hub.seen)
    listed = json.loads(run("list", "--json"))
    assert [(row["ref"], row["licence"], row["path"]) for row in listed] == [("hf:lab/model", "mit", path)]
    run("show", "hf:lab/model", fails=True)  # these are no real weights; but it is found without asking the hub again
    assert len(hub.seen) == requests
    assert "are free again" in run("rm", "hf:lab/model")
    assert not Path(path).exists() and json.loads(run("list", "--json")) == []


def test_a_quantization(run):
    path, details = run("pull", "hf:lab/gguf:q4_k_m").splitlines()
    assert Path(path).name == "m-Q4_K_M.gguf" and f"sha256 {digest(WEIGHTS)}" in details
    assert Path(run("pull", "hf:lab/gguf:m-Q8_0.gguf").splitlines()[0]).name == "m-Q8_0.gguf"
    error = run("pull", "hf:lab/gguf", fails=True)
    assert "several models in the repository" in error
    assert "hint: choose one by hf:lab/gguf:NAME of m-Q4_K_M.gguf, m-Q8_0.gguf" in error
    assert "no file or quantization 'q5_0'" in run("pull", "hf:lab/gguf:q5_0", fails=True)


def test_what_the_hub_refuses(run):
    assert "hf:lab/nothing: no such repository at the hub, or it is private" in run(
        "pull", "hf:lab/nothing", fails=True
    )
    error = run("pull", "hf:lab/gated", fails=True)
    assert "its lab gives it only to those who accept its terms" in error
    assert "hf auth login" in error


@pytest.mark.parametrize("ref", ["hf:lab/pickled", "ms:lab/pickled", "hf:lab/model:pytorch_model.bin"])
def test_pickles_are_refused(run, ref):
    error = run("pull", ref, fails=True)
    assert f"{ref}: pytorch_model.bin is a pickle, which can run code when it is read" in error
    assert "hint: many repositories have a converted copy" in error


@pytest.mark.parametrize("source", ["hf", "ms"])
def test_damaged_files_are_not_kept(run, hub, source):
    hub.corrupt = "m-Q4_K_M.gguf"
    error = run("pull", f"{source}:lab/gguf:q4_k_m", fails=True)
    assert f"m-Q4_K_M.gguf: expected sha256 {digest(WEIGHTS)}, got" in error
    hub.corrupt = None
    run("pull", f"{source}:lab/gguf:q4_k_m")


def test_modelscope_goes_on_where_it_was_interrupted(run, hub, tmp_path):
    hub.break_after = 400_000
    error = run("pull", "ms:lab/model", fails=True)
    assert "did not answer" in error or "expected" in error
    partial = next((tmp_path / "home").rglob("*.partial"))
    have = partial.stat().st_size
    assert 0 < have <= 400_000
    path = Path(run("pull", "ms:lab/model").splitlines()[0])
    assert (path / "model-00001-of-00002.safetensors").read_bytes() == WEIGHTS
    assert not (path / "modeling.py").exists() and not list(path.rglob("*.partial"))
    assert any(
        headers.get("Range") == f"bytes={have}-" or headers.get("range") == f"bytes={have}-" for _, headers in hub.seen
    )
    tokens = [headers for request, headers in hub.seen if "/api/v1/" in request and "hf_secret" in str(headers)]
    assert not tokens  # the hub's token goes to no other server
    run("rm", "ms:lab/model")
    assert not path.exists()


@pytest.mark.parametrize("source", ["hf", "ms"])
def test_rm_leaves_what_another_reference_holds(run, source):
    """Two quantizations of one revision lie in one folder."""
    large, small = (Path(run("pull", f"{source}:lab/gguf:{form}").splitlines()[0]) for form in ("q4_k_m", "q8_0"))
    assert large.parent == small.parent
    assert f"{len(WEIGHTS) / 1e6:.1f} MB are free again" in run("rm", f"{source}:lab/gguf:q4_k_m")
    assert not large.exists() and small.read_bytes() == WEIGHTS[:500]
    assert (small.parent / "README.md").exists()
    assert [row["ref"] for row in json.loads(run("list", "--json"))] == [f"{source}:lab/gguf:q8_0"]
    run("rm", f"{source}:lab/gguf:q8_0")
    assert not small.parent.exists()


def test_rm_leaves_what_others_have_put_into_the_hubs_cache(run):
    path = Path(run("pull", "hf:lab/gguf:q8_0").splitlines()[0])
    theirs = path.with_name("theirs.json")
    theirs.write_text("{}")
    run("rm", "hf:lab/gguf:q8_0")
    assert theirs.exists() and not path.exists()
    assert not list((path.parents[2] / "blobs").iterdir())


def test_a_pull_that_fails_leaves_what_is_there(run, hub):
    path = run("pull", "hf:lab/gguf:q8_0").splitlines()[0]
    hub.down = True
    assert "the hub did not answer" in run("pull", "hf:lab/gguf:q8_0", fails=True)
    assert [row["path"] for row in json.loads(run("list", "--json"))] == [path]


def test_no_network():
    done = subprocess.run(
        [COMMAND, "pull", "ms:lab/model"],
        env=os.environ | {"MODELSCOPE_DOMAIN": "http://127.0.0.1:9"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "error: ms:lab/model: ModelScope did not answer" in done.stderr


def test_lists_and_names(run):
    everything = json.loads(run("list", "--all", "--json"))
    assert {row["lab"] for row in everything} >= {"DeepSeek", "Zhipu", "MiniMax", "Moonshot", "Baidu", "Alibaba"}
    assert {row["lab"] for row in everything} >= {"Meta", "OpenAI"}
    assert [row["fits"] for row in everything if row["name"] == "kimi-k2"] == [False]
    assert "qwq-32b" in run("list", "--all", "alibaba")
    assert run("list").startswith("none yet")
    error = run("show", "kimi", fails=True)
    assert "kimi: several models" in error and "kimi-k2, kimi-k2-thinking, kimi-linear-48b, moonlight-16b" in error
    assert "not a model that was fetched" in run("rm", "kimi-k2", fails=True)


def test_files_of_the_user_are_not_deleted(run, tmp_path):
    mine = tmp_path / "mine.gguf"
    mine.write_bytes(b"GGUF")
    assert "it is a file of yours" in run("rm", str(mine), fails=True)
    assert mine.exists()


# Parts by themselves.


@pytest.mark.parametrize(
    "ref", ["hf:org", "hf:../../etc", "hf:org/name@", "hf:org/name:", "hf:org/na me", "hf:org/name@../..", "hf:org//x"]
)
def test_malformed_references(ref):
    with pytest.raises(RequestError, match="expected hf:org/name"):
        parse(ref)


def test_references():
    assert parse("hf:a/b") == ("a/b", None, None)
    assert parse("ms:a/b@refs/pr/1:Q4_K_M") == ("a/b", "refs/pr/1", "Q4_K_M")
    assert parse("hf:a/b:sub/x.gguf") == ("a/b", None, "sub/x.gguf")


def chosen(names, wanted=None):
    return [file.name for file in choose([RemoteFile(name, 1) for name in names], wanted, "hf:a/b")]


def test_split_gguf_files_belong_together():
    names = ["q/m-Q4_0-00001-of-00002.gguf", "q/m-Q4_0-00002-of-00002.gguf", "m-Q8_0.gguf"]
    assert chosen(names, "Q4_0") == names[:2]
    assert chosen(names, "q/m-Q4_0-00001-of-00002.gguf") == names[:2]
    with pytest.raises(ModelNotFoundError, match="several models"):
        chosen(["a-Q4_0.gguf", "b-Q4_0.gguf"], "Q4_0")
    with pytest.raises(ModelNotFoundError, match="neither safetensors nor GGUF"):
        chosen(["README.md"])


@pytest.mark.parametrize("name", ["../x.gguf", "/etc/x.gguf", "a/../../x.gguf", "a\\..\\x.gguf"])
def test_names_that_leave_the_folder(name):
    with pytest.raises(UnsupportedError, match="leaves its folder"):
        chosen([name, "m.gguf"])


def test_the_catalogue_is_sound():
    assert len({entry.name for entry in CATALOGUE}) == len(CATALOGUE)
    for entry in CATALOGUE:
        assert entry.ref.startswith(("hf:", "ms:", "pypi:")) and entry.active <= entry.parameters
        if entry.ref.startswith("hf:"):
            parse(entry.ref)
