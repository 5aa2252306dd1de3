"""Health: is the process alive, and is it ready for traffic?

``/health`` and ``/health/live`` never wait for anything; ``/health/ready`` runs its checks at once,
each within CHECK seconds, and answers 503 when one fails.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime

import anyio
import attrs
import msgspec

from llmgw import __version__
from llmgw.asgi import Receive, Scope, Send, respond

CHECK = 1.0  # seconds a check may take; chosen, below a probe's usual time-out
OK = "ok"

Check = Callable[[], Awaitable[str | None]]  # why not ready, None if it is


async def run(checks: Mapping[str, Check]) -> dict[str, str]:
    """What each check says: ``ok`` or the reason."""
    results: dict[str, str] = {}

    async def note(name: str, check: Check) -> None:
        results[name] = f"no answer within {CHECK:g} s"
        with anyio.move_on_after(CHECK):
            try:
                results[name] = await check() or OK
            except Exception as exc:
                results[name] = type(exc).__name__

    async with anyio.create_task_group() as tasks:
        for name, check in checks.items():
            tasks.start_soon(note, name, check)
    return {name: results[name] for name in checks}


@attrs.frozen
class HealthApp:
    """The three health paths."""

    checks: Mapping[str, Check] = attrs.field(factory=dict[str, Check])

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one exchange."""
        status, found = await self._look(scope["path"])
        body = msgspec.json.encode(found)
        headers = [(b"retry-after", b"1")] if status == 503 else []
        await respond(send, status, b"" if scope["method"] == "HEAD" else body, headers=headers)

    async def _look(self, path: str) -> tuple[int, dict[str, object]]:
        if path.endswith("/live"):
            return 200, {"status": "alive"}
        if path.endswith("/ready"):
            results = await run(self.checks)
            ready = all(result == OK for result in results.values())
            word = "ready" if ready else "not ready"
            return 200 if ready else 503, {"status": word, "checks": results}
        now = datetime.now(UTC).isoformat()
        return 200, {"status": "healthy", "version": __version__, "timestamp": now}
