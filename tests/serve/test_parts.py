"""Parts of the server by themselves: what is kept of responses, an engine that has failed."""

import asyncio
import threading

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from freehold.errors import EngineError, UnsupportedError
from freehold.serve.app import _answer_errors
from freehold.serve.errors import ServeError
from freehold.serve.metrics import Metrics
from freehold.serve.pool import ModelPool
from freehold.serve.reports import Reports
from freehold.serve.response_store import ResponseStore
from freehold.serve.settings import Settings


def keep(store, ident, salt=b"", text="x"):
    store.put(salt, {"id": ident, "text": text}, [{"role": "user", "content": text}], [])


def test_only_the_latest_responses_are_kept():
    store = ResponseStore(max_responses=3)
    for ident in "abc":
        keep(store, ident)
    store.get(b"", "a")  # used again, so that b is the oldest
    keep(store, "d")
    assert [store.get(b"", ident).response["id"] for ident in "acd"] == ["a", "c", "d"]
    with pytest.raises(ServeError, match="response 'b': not here, or no longer"):
        store.get(b"", "b")


def test_what_is_kept_is_bounded_by_its_size():
    store = ResponseStore(max_bytes=5000)
    for index in range(50):
        keep(store, str(index), text="y" * 700)
    kept = [index for index in range(50) if (b"", str(index)) in store._kept]
    assert kept == list(range(50 - len(kept), 50)) and 1 <= len(kept) <= 3
    keep(store, "huge", text="z" * 9000)
    with pytest.raises(ServeError):
        store.get(b"", "huge")
    assert store._num_bytes == 0


def test_responses_are_each_key_s_own():
    store = ResponseStore()
    keep(store, "a", salt=b"alice")
    with pytest.raises(ServeError):
        store.get(b"bob", "a")
    with pytest.raises(ServeError):
        store.delete(b"bob", "a")
    store.delete(b"alice", "a")
    with pytest.raises(ServeError):
        store.get(b"alice", "a")


def test_a_report_is_made_once_and_goes_on_when_its_asker_leaves():
    asked, gate = [], threading.Event()

    def examine(ref):
        asked.append(ref)
        gate.wait(10)
        return {"summary": {"verdict": "open-weight"}, "report": {}}

    async def run():
        reports = Reports(examine, {"a": "folder/a"})
        assert reports.known("a") is None
        leaving = asyncio.create_task(reports.of("a"))
        await asyncio.sleep(0.01)
        leaving.cancel()
        gate.set()
        assert (await reports.of("a"))["summary"] == {"verdict": "open-weight"}
        assert reports.known("a") == await reports.of("a")

    asyncio.run(run())
    assert asked == ["folder/a"]


def test_a_model_that_cannot_be_examined_is_said_to_be():
    def examine(ref):
        raise UnsupportedError("a report needs the package yaml", "pip install 'freehold[inspect]'")

    told = asyncio.run(Reports(examine, {"a": "folder/a"}).of("a"))
    error = "a report needs the package yaml; pip install 'freehold[inspect]'"
    assert told == {"summary": {"error": error}, "report": None}


def test_a_failed_engine_is_replaced(smollm):
    async def run():
        pool = ModelPool(Settings(models=(str(smollm),), context=256), Metrics())
        first = await pool.get(pool.default)
        first.model.engine._give_up(EngineError("the engine has failed"))
        with pytest.raises(EngineError, match="the engine has failed"):
            await first.model.agenerate("Hi", max_tokens=1)
        second = await pool.get(pool.default)
        assert second is not first and (await second.model.agenerate("Hi", max_tokens=1)).tokens
        pool.close()

    asyncio.run(run())


@pytest.mark.parametrize(("path", "field"), [("/v1/messages", "type"), ("/v1/x", "error"), ("/api/x", "error")])
def test_a_bug_is_answered_in_the_shape_of_its_protocol(path, field):
    app = FastAPI()
    _answer_errors(app)

    @app.get(path)
    def fails():
        raise ZeroDivisionError

    answer = TestClient(app, raise_server_exceptions=False).get(path)
    assert answer.status_code == 500
    assert field in answer.json() and "internal error" in answer.text and "ZeroDivision" not in answer.text
