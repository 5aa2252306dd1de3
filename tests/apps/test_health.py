"""The health app: alive, well and ready are three questions."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import anyio
import pytest

from llmgw import __version__
from llmgw.apps import health
from llmgw.apps.health import HealthApp
from llmgw.testing import exchange


async def ask(app: HealthApp, path: str, method: str = "GET") -> tuple[int, Any]:
    reply = await exchange(app, method=method, path=path)
    return reply.status, json.loads(reply.body or b"null")


async def good() -> None:
    return None


async def bad() -> str:
    return "no room"


async def broken() -> None:
    raise ConnectionError("secret host")


async def test_health_has_status_version_and_timestamp() -> None:
    """As the original asks; the time is UTC."""
    status, body = await ask(HealthApp({}), "/health")

    assert (status, body["status"], body["version"]) == (200, "healthy", __version__)
    offset = datetime.fromisoformat(body["timestamp"]).utcoffset()
    assert offset is not None
    assert not offset


async def test_live_asks_nobody() -> None:
    """A process whose database is away need not be killed."""
    assert await ask(HealthApp({"db": broken}), "/health/live") == (200, {"status": "alive"})


async def test_ready_when_all_checks_are_good() -> None:
    """Each is named."""
    found = await ask(HealthApp({"a": good, "b": good}), "/health/ready")

    assert found == (200, {"status": "ready", "checks": {"a": "ok", "b": "ok"}})


async def test_not_ready_when_one_fails() -> None:
    """With its reason; of an exception the class alone; and when to come again."""
    app = HealthApp({"a": good, "b": bad, "c": broken})

    reply = await exchange(app, method="GET", path="/health/ready")

    checks = {"a": "ok", "b": "no room", "c": "ConnectionError"}
    assert reply.status == 503
    assert json.loads(reply.body) == {"status": "not ready", "checks": checks}
    assert reply.headers[b"retry-after"] == b"1"


async def test_a_check_that_hangs_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """A probe is not kept waiting, and the others are told."""
    monkeypatch.setattr(health, "CHECK", 0.01)

    status, body = await ask(HealthApp({"a": anyio.sleep_forever, "b": good}), "/health/ready")

    assert (status, body["checks"]["b"]) == (503, "ok")
    assert "no answer" in body["checks"]["a"]


@pytest.mark.parametrize("path", ["/health", "/health/live", "/health/ready"])
async def test_head_has_no_body(path: str) -> None:
    """For probes that ask so."""
    assert await ask(HealthApp({}), path, "HEAD") == (200, None)
