"""The models of one server: loaded when they are asked for, unloaded by least use when memory is short."""

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import freehold
from freehold.api import Completion, Model
from freehold.errors import FreeholdError, MemoryBudgetError
from freehold.serve.errors import ServeError
from freehold.serve.settings import Settings
from freehold.serve.thinking import reasoning_efforts
from freehold.store.catalogue import CATALOGUE
from freehold.text.reply import ReplyFormat

log = logging.getLogger("freehold.serve")


class Served:
    """A loaded model with what the protocols need of it."""

    def __init__(self, name: str, model: Model, on_reply: Callable[[str, Completion], None]):
        self.name, self.model, self._on_reply = name, model, on_reply
        self.loaded_at = self.used_at = time.time()
        self.users = 0
        tokenizer = model.tokenizer
        template = model.template if model.has_template else None
        self.format = ReplyFormat.detect(template.source if template else None, tokenizer.special_tokens)
        self.reasoning_efforts = reasoning_efforts(template, self.format)
        self._grammars: Any = None
        self._lock = threading.Lock()

    def replied(self, completion: Completion) -> None:
        self._on_reply(self.name, completion)

    def matcher(self, grammar: str) -> Any:
        """A constraint for one reply. Takes a second at the first call: not for the event loop."""
        from freehold.text.grammar import Grammars

        with self._lock:
            if self._grammars is None:
                self._grammars = Grammars(self.model.tokenizer, self.model.info["vocabulary_size"])
        return self._grammars.matcher(grammar)


class ModelPool:
    def __init__(self, settings: Settings, on_reply: Callable[[str, Completion], None]):
        self._settings, self._on_reply = settings, on_reply
        refs = settings.models or (CATALOGUE[0].name,)
        self.refs = {_name(ref): ref for ref in refs}  # by the name under which it is served
        if len(self.refs) < len(refs):
            raise ServeError(400, "two models have the same name")
        self.loaded: dict[str, Served] = {}
        self._lock = asyncio.Lock()

    @property
    def default(self) -> str:
        return next(iter(self.refs))

    @property
    def is_ready(self) -> bool:
        return self.default in self.loaded or bool(self.loaded)

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
        served = await self.get(self.resolve(name))
        served.users += 1
        try:
            yield served
        finally:
            served.users -= 1
            served.used_at = time.time()

    async def get(self, name: str) -> Served:
        served = self.loaded.get(name)
        if served is None and self._lock.locked() and not self.loaded:
            raise ServeError(503, "the model is being loaded", "loading", retry_after_s=1)
        if served is None:
            async with self._lock:
                served = self.loaded.get(name) or await self._load(name)
        return served

    async def unload(self, name: str) -> bool:
        """Whether it was loaded. Raises ServeError while it answers."""
        served = self.loaded.get(name)
        if served is None:
            return False
        if served.users:
            raise ServeError(409, f"model {name!r}: {served.users} requests use it", "in_use")
        del self.loaded[name]
        await asyncio.to_thread(served.model.close)
        log.info("model unloaded", extra={"fields": {"model": name}})
        return True

    def close(self) -> None:
        for served in self.loaded.values():
            served.model.close()
        self.loaded.clear()

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
        served = self.loaded[name] = Served(name, model, self._on_reply)
        fields = {"model": name, "seconds": round(time.monotonic() - began, 3), "context": model.info["context"]}
        log.info("model loaded", extra={"fields": fields})
        return served

    def _open(self, name: str) -> Model:
        settings = self._settings
        context = settings.context
        if context is not None:
            context = min(context, freehold.describe(self.refs[name])["trained_context"])
        return freehold.load(
            self.refs[name],
            threads=settings.threads,
            context=context,
            kv_format=settings.kv_type,
            max_waiting=settings.max_waiting,
        )

    async def load_first(self) -> None:
        """Load the default model; what goes wrong is said and ends the server."""
        try:
            await self.get(self.default)
        except FreeholdError as error:
            log.error("model not loaded", extra={"fields": {"model": self.default, "error": str(error)}})
            raise


def _name(ref: str) -> str:
    return Path(ref).stem if "/" in ref or ref.endswith(".gguf") else ref
