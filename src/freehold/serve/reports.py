"""What an examination says of each served model: made once, in a thread, when somebody asks for it."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from freehold.errors import FreeholdError
from freehold.serve.logs import note

Examine = Callable[[str], dict[str, Any]]  # of a model's reference: its "summary" and its "report"


class Reports:
    """`refs`: models by the names under which they are served."""

    def __init__(self, examine: Examine, refs: Mapping[str, str]):
        self._examine, self._refs = examine, refs
        self._tasks: dict[str, asyncio.Task[dict[str, Any]]] = {}

    def known(self, name: str) -> dict[str, Any] | None:
        """What is known by now; None when nobody has asked or the files are still being read. Begins to read them."""
        task = self._task(name)
        return task.result() if task.done() else None

    async def of(self, name: str) -> dict[str, Any]:
        """With an "error" in its place where a model cannot be examined."""
        return await asyncio.shield(self._task(name))  # it goes on for others when this asker leaves

    def _task(self, name: str) -> asyncio.Task[dict[str, Any]]:
        if name not in self._tasks:
            self._tasks[name] = asyncio.create_task(self._made(name))
        return self._tasks[name]

    async def _made(self, name: str) -> dict[str, Any]:
        try:
            return await asyncio.to_thread(self._examine, self._refs[name])
        except FreeholdError as error:
            told = "; ".join(filter(None, (error.message, error.hint)))
            note("model not examined", model=name, error=told)
            return {"summary": {"error": told}, "report": None}
