from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from tests.examples.checks import CHECKS, EXAMPLES
from tests.servers import Server, free_port, serve_process

SERVERS = {
    "uvicorn": ["uvicorn", "fastapi_service:app", "--port", "{port}"],
    "hypercorn on trio": [
        *("hypercorn", "-k", "trio", "--bind", "127.0.0.1:{port}"),
        "fastapi_service:app",
    ],
}


@pytest.fixture(scope="module", params=SERVERS)
def service(request: pytest.FixtureRequest) -> Iterator[Server]:
    port = free_port()
    argv = [sys.executable, "-m", *(word.format(port=port) for word in SERVERS[request.param])]
    with serve_process(argv, port=port, cwd=EXAMPLES) as server:
        yield server


@pytest.mark.parametrize("promise", CHECKS)
def test_service(service: Server, promise: str) -> None:
    """The FastAPI example keeps its promises on asyncio and on trio."""
    CHECKS[promise](service)
