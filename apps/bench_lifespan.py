"""The lifespan of an app under the bench: started before it is measured, ended after."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import anyio
import attrs

from llmgw.apps.bench_drive import BenchError
from llmgw.asgi import ASGIApp, Message

T = TypeVar("T")


@attrs.define(eq=False)
class Lifespan:
    """One lifespan scope of an app, driven as servers do."""

    app: ASGIApp
    state: dict[str, Any] = attrs.field(factory=dict[str, Any])
    failure: str | None = None
    supported: bool = False
    told: bool = False  # the app knows of the startup
    started: anyio.Event = attrs.field(factory=anyio.Event)
    stop: anyio.Event = attrs.field(factory=anyio.Event)

    async def run(self) -> None:
        """Live. An app that raises before it has started knows no lifespan, as for uvicorn."""
        scope = {
            "type": "lifespan",
            "asgi": {"version": "3.0", "spec_version": "2.0"},
            "state": self.state,
        }
        try:
            await self.app(scope, self._receive, self._send)
        except Exception as exc:
            if self.supported:
                self.failure = f"its lifespan raised {type(exc).__name__}: {exc}"
        finally:
            self.started.set()

    async def _receive(self) -> Message:
        if not self.told:
            self.told = True
            return {"type": "lifespan.startup"}
        await self.stop.wait()
        return {"type": "lifespan.shutdown"}

    async def _send(self, message: Message) -> None:
        kind = message["type"]
        if kind.endswith(".failed"):
            said = str(message.get("message", "")).strip().splitlines()[-1:]  # of a traceback
            self.failure = f"{kind.removesuffix('.failed')} failed: {''.join(said)}"
        self.supported = self.supported or kind == "lifespan.startup.complete"
        if kind.startswith("lifespan.startup"):
            self.started.set()


async def alive(app: ASGIApp, main: Callable[[dict[str, Any] | None], Awaitable[T]]) -> T:
    """``await main(state)`` while the app lives; state is None where it knows no lifespan.

    Raises BenchError: main's own, or that the app did not start or end well.
    """
    life = Lifespan(app)
    result: T | None = None
    error: BenchError | None = None
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(life.run)
        await life.started.wait()
        if life.failure is None:
            try:
                result = await main(life.state if life.supported else None)
            except BenchError as exc:
                error = exc  # out of the group's reach
        life.stop.set()
    if error is None and life.failure is not None:
        error = BenchError(life.failure)
    if error is not None or result is None:
        raise error or BenchError("nothing was measured")
    return result
