"""The metrics app: a registry for Prometheus."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Counter

from llmgw.apps.metrics import metrics_app
from llmgw.testing import exchange


@pytest.fixture
def registry() -> CollectorRegistry:
    made = CollectorRegistry()
    Counter("things", "Things.", registry=made).inc(3)
    return made


@pytest.mark.parametrize(
    ("accept", "kind"),
    [(b"*/*", b"text/plain"), (b"application/openmetrics-text", b"application/openmetrics-text")],
)
async def test_the_format_is_chosen_by_accept(
    accept: bytes, kind: bytes, registry: CollectorRegistry
) -> None:
    """Text as ever, or OpenMetrics for who asks."""
    reply = await exchange(metrics_app(registry), method="GET", headers=[(b"accept", accept)])

    assert reply.headers[b"content-type"].startswith(kind)
    assert b"things_total 3.0" in reply.body


async def test_head_has_no_body(registry: CollectorRegistry) -> None:
    """For probes that ask so."""
    assert (await exchange(metrics_app(registry), method="HEAD")).body == b""


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """A folder into which two workers have counted."""
    program = "from prometheus_client import Counter; Counter('things', 'Things.').inc(2)"
    for _ in range(2):
        env = {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
        subprocess.run([sys.executable, "-c", program], env=env, check=True)
    return tmp_path


async def test_all_workers_are_in_one_exposition(written: Path) -> None:
    """With PROMETHEUS_MULTIPROC_DIR each worker writes files; any of them answers for all."""
    reply = await exchange(metrics_app(multiprocess=str(written)), method="GET")

    assert b"things_total 4.0" in reply.body
