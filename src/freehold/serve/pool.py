"""The models of one server: loaded when they are asked for, unloaded by least use when memory is short."""

import asyncio
import os
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import freehold
from freehold.api import Model
from freehold.errors import FreeholdError, MemoryBudgetError
from freehold.serve.errors import ServeError
from freehold.serve.logs import log, note
from freehold.serve.metrics import Metrics
from freehold.serve.settings import Settings
from freehold.serve.thinking import reasoning_efforts
from freehold.store.catalogue import CATALOGUE
from freehold.store.digest import sha256_of_files
from freehold.store.references import source_of
from freehold.text.reply import ReplyFormat


class Served:
    """A loaded model with what the protocols need of it."""

    def __init__(self, name: str, model: Model, metrics: Metrics):
        self.name, self.model, self.metrics = name, model, metrics
        self.loaded_at = self.used_at = time.time()
        self.users = 0
        template = model.template if model.has_template else None
        self.format = ReplyFormat.detect(template.source if template else None, model.tokenizer.special_tokens)
        self.reasoning_efforts = reasoning_efforts(template, self.format)
        self._grammars: Any = None
        self._lock = threading.Lock()

    @property
    def memory_bytes(self) -> int:
        memory = self.model.info["memory"]
        cache = memory["kv_bytes_per_token"] * self.model.info["kv_tokens"]
        return memory["weights_bytes"] + memory["activations_bytes"] + cache

    def matcher(self, grammar: str) -> Any:
        """A constraint for one reply. Takes a second at the first call: not for the event loop."""
        from freehold.text.grammar import Grammars

        with self._lock:
            if self._grammars is None:
                self._grammars = Grammars(self.model.tokenizer, self.model.info["vocabulary_size"])
        return self._grammars.matcher(grammar)


class ModelPool:
    """Raises RequestError for two models of one name."""

    def __init__(self, settings: Settings, metrics: Metrics):
        self._settings, self._metrics = settings, metrics
        refs = settings.models or (CATALOGUE[0].name,)
        self.refs = {_name(ref): ref for ref in refs}  # by the name under which it is served
        if len(self.refs) < len(refs):
            raise freehold.errors.RequestError(f"two models of one name: {', '.join(map(_name, refs))}")
        self.loaded: dict[str, Served] = {}
        self.failure: FreeholdError | None = None  # why the first model could not be loaded
        self._described: dict[str, dict[str, Any]] = {}
        self._digests: dict[str, str] = {}
        self._loading: dict[str, asyncio.Future[Served]] = {}
        self._lock = asyncio.Lock()

    @property
    def default(self) -> str:
        return next(iter(self.refs))

    def resolve(self, name: str | None) -> str:
        """The name of a served model. Raises ServeError for another."""
        wanted = name or self.default
        for known in (wanted, wanted.removesuffix(":latest")):
            if known in self.refs:
                return known
        names = ", ".join(self.refs)
        raise ServeError(404, f"model {wanted[:200]!r}: not served here; there are {names}", "model_not_found", "model")

    @asynccontextmanager
    async def use(self, name: str | None) -> AsyncIterator[Served]:
        """A model that stays loaded meanwhile."""
        known = self.resolve(name)
        served = await self.get(known)
        while self.loaded.get(known) is not served:  # it was unloaded for another before its turn came
            served = await self.get(known)
        served.users += 1
        try:
            yield served
        finally:
            served.users -= 1
            served.used_at = time.time()

    async def get(self, name: str) -> Served:
        served = self.loaded.get(name)
        if served and served.model.engine.failure:  # by a bug: another engine may do better
            served = None
            await asyncio.to_thread(self.loaded.pop(name).model.close)
        if served is None and self._lock.locked() and not self.loaded:
            raise ServeError(503, "the model is being loaded", "loading", retry_after_s=1)
        return served or await asyncio.shield(self._loading_of(name))

    def _loading_of(self, name: str) -> "asyncio.Future[Served]":
        """One for all that wait for the model: it goes on when they are gone, since a thread cannot be stopped."""
        loading = self._loading.get(name)
        if loading is None:
            loading = self._loading[name] = asyncio.ensure_future(self._load_in_turn(name))
            loading.add_done_callback(lambda done: done.cancelled() or done.exception())  # is taken note of
            loading.add_done_callback(lambda _: self._loading.pop(name))
        return loading

    async def _load_in_turn(self, name: str) -> Served:
        async with self._lock:
            return await self._load(name)

    async def unload(self, name: str) -> bool:
        """Whether it was loaded. Raises ServeError while it answers."""
        served = self.loaded.get(name)
        if served is None:
            return False
        if served.users:
            raise ServeError(409, f"model {name!r}: {served.users} requests use it", "in_use")
        del self.loaded[name]
        await asyncio.to_thread(served.model.close)
        note("model unloaded", model=name)
        return True

    def close(self) -> None:
        for served in self.loaded.values():
            served.model.close()
        self.loaded.clear()

    async def facts(self, name: str) -> dict[str, Any]:
        """What the model is, loaded or not; `sha256` is None until the file has been read for it."""
        served = self.loaded.get(name)
        if served is None and name not in self._described:
            context = self._settings.context
            self._described[name] = await asyncio.to_thread(_describe, self.refs[name], context)
        info = served.model.info if served else self._described[name]
        return info | {"sha256": info["sha256"] or self._digests.get(name)}

    def compute_digests(self) -> None:
        """Read the files for their digests, in a thread that yields to all other work."""
        threading.Thread(target=self._read_digests, daemon=True, name="freehold-digests").start()

    def _read_digests(self) -> None:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)
        for name, ref in self.refs.items():
            if Path(ref).is_file():
                self._digests |= sha256_of_files({name: Path(ref)})

    async def load_first(self) -> None:
        """Load the default model; what goes wrong is said and ends the server."""
        try:
            await self.get(self.default)
        except FreeholdError as error:
            log.error("model not loaded", extra={"fields": {"model": self.default, "error": str(error)}})
            self.failure = error
            raise

    async def _load(self, name: str) -> Served:
        began = time.monotonic()
        while True:
            try:
                model = await asyncio.to_thread(self._open, name)
                break
            except MemoryBudgetError:
                idle = [served for served in self.loaded.values() if not served.users]
                if not idle:
                    raise
                await self.unload(min(idle, key=lambda served: served.used_at).name)
        served = self.loaded[name] = Served(name, model, self._metrics)
        note("model loaded", model=name, seconds=round(time.monotonic() - began, 3), context=model.info["context"])
        return served

    def _open(self, name: str) -> Model:
        settings = self._settings
        left = None
        if settings.memory_bytes is not None:
            left = max(0, settings.memory_bytes - sum(served.memory_bytes for served in self.loaded.values()))
        return freehold.load(
            self.refs[name],
            threads=settings.threads,
            context=_context(self.refs[name], settings.context),
            kv_format=settings.kv_type,
            quantize=settings.quantize,
            max_waiting=settings.max_waiting,
            memory_bytes=left,
        )


def _context(ref: str, wanted: int | None) -> int | None:
    """Of several models one may be trained for less than is wanted of all."""
    return None if wanted is None else min(wanted, freehold.describe(ref)["trained_context"])


def _describe(ref: str, context: int | None) -> dict[str, Any]:
    return freehold.describe(ref, context=_context(ref, context))


def _name(ref: str) -> str:
    if source_of(ref):
        return ref.partition(":")[2]
    path = Path(ref)
    return path.stem if path.suffix == ".gguf" else path.resolve().name if path.is_dir() else ref
