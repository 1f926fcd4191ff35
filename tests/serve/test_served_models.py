"""Several models in one server: loaded when they are asked for, within a budget, the least used unloaded."""

import httpx
import pytest
from server_process import Server

ADMIN = {"authorization": "Bearer the-admin-key"}


def chat(server, model, timeout=60):
    body = {"model": model, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2, "temperature": 0}
    return server.http.post("/v1/chat/completions", json=body, timeout=timeout)


def loaded(server):
    return {model["id"] for model in server.http.get("/v1/models").json()["data"] if model["loaded"]}


@pytest.fixture(scope="module")
def pool(smollm, tmp_path_factory):
    """Three models of which two fit: with a context of 512, the cache takes what is left of each one's share."""
    folder = tmp_path_factory.mktemp("models")
    paths = []
    for name in ("one", "two", "three"):
        (folder / f"{name}.gguf").symlink_to(smollm)
        paths.append(folder / f"{name}.gguf")
    with Server(*paths, "--context", 512, "--memory", 0.7, "--admin-key", "the-admin-key") as server:
        yield server


def test_the_least_used_goes_first(pool):
    assert loaded(pool) == {"one"}
    facts = {model["id"]: model for model in pool.http.get("/v1/models").json()["data"]}
    assert facts["three"]["context"] == 512 and facts["three"]["quantization"]["ffn_up"] == {"Q4_1": 30}
    assert chat(pool, "two").status_code == 200
    assert loaded(pool) == {"one", "two"}
    assert chat(pool, "one").status_code == 200
    assert chat(pool, "three").status_code == 200
    assert loaded(pool) == {"one", "three"}
    (unloaded,) = pool.events("model unloaded")
    assert unloaded["model"] == "two"
    used = sum(model["size"] for model in pool.http.get("/api/ps").json()["models"])
    assert 0.3e9 < used <= 0.7e9


def test_each_has_a_report(pool):
    model = pool.http.get("/v1/models/two").json()
    assert model["summary"]["verdict"] == model["report"]["verdict"] == "open-weight"
    assert model["summary"]["rows"][0]["label"] == "Openness"
    assert "path" not in model["report"]
    listed = {model["id"]: model["summary"] for model in pool.http.get("/v1/models").json()["data"]}
    assert listed["two"] == model["summary"]


def test_a_model_that_answers_is_not_unloaded(pool):
    long = {"max_tokens": 400, "ignore_eos": True, "stream": True}
    body = {"messages": [{"role": "user", "content": "Hi"}], "temperature": 0}
    streams = []
    for model in sorted(loaded(pool)):
        request = pool.http.build_request("POST", "/v1/chat/completions", json=body | long | {"model": model})
        streams.append(pool.http.send(request, stream=True))
    (other,) = {"one", "two", "three"} - loaded(pool)
    answer = chat(pool, other)
    if answer.status_code == 503:  # unless the replies have ended meanwhile
        assert answer.headers["retry-after"] == "5"
        assert "GB of memory" in answer.json()["error"]["message"]
    path = f"/admin/models/{sorted(loaded(pool))[0]}/unload"
    refused = pool.http.post(path, headers=ADMIN)
    if refused.status_code == 409:
        assert "requests use it" in refused.json()["error"]["message"]
    for stream in streams:
        assert b"[DONE]" in stream.read()


def test_a_model_whose_asker_has_gone_is_loaded_once_and_kept(pool):
    pool.wait_until(lambda: not pool.metric("vllm:num_requests_running"))
    (other,) = {"one", "two", "three"} - loaded(pool)
    before = len(pool.events("model loaded"))
    with pytest.raises(httpx.ReadTimeout):
        chat(pool, other, timeout=0.05)
    assert chat(pool, other).status_code == 200
    assert [line["model"] for line in pool.events("model loaded")[before:]] == [other]
    used = sum(model["size"] for model in pool.http.get("/api/ps").json()["models"])
    assert used <= 0.7e9


def test_load_and_unload(pool):
    name = sorted(loaded(pool))[0]
    pool.wait_until(lambda: not pool.metric("vllm:num_requests_running"))
    answer = pool.http.post(f"/admin/models/{name}/unload", headers=ADMIN)
    assert answer.json() == {"model": name, "loaded": False, "was_loaded": True}
    assert name not in loaded(pool)
    assert not pool.http.post(f"/admin/models/{name}/unload", headers=ADMIN).json()["was_loaded"]
    assert pool.http.post(f"/admin/models/{name}/load", headers=ADMIN).json() == {"model": name, "loaded": True}
    assert name in loaded(pool)
    assert pool.http.post("/admin/models/four/load", headers=ADMIN).status_code == 404
    assert pool.http.post(f"/admin/models/{name}/load").status_code == 401


def test_a_file_that_cannot_be_read_hides_no_other_model(smollm, tmp_path):
    (tmp_path / "bad.gguf").write_bytes(smollm.read_bytes()[:10_000_000])
    with Server(smollm, tmp_path / "bad.gguf") as server:
        good, bad = server.http.get("/v1/models").json()["data"]
        assert good["id"] == "smollm2-135m-q4_1" and good["context"] == 8192
        assert bad["id"] == "bad" and not bad["loaded"] and "truncated?" in bad["error"]
        (listed,) = server.http.get("/api/tags").json()["models"]
        assert listed["name"] == "smollm2-135m-q4_1:latest"
        assert server.http.get("/v1/models/bad").status_code == 400
