from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from tests.examples.checks import CHECKS, EXAMPLES
from tests.servers import Server, free_port, serve_process


@pytest.fixture(scope="module")
def service() -> Iterator[Server]:
    port = free_port()
    argv = [sys.executable, "-m", "uvicorn", "fastapi_service:app", "--port", str(port)]
    with serve_process(argv, port=port, cwd=EXAMPLES) as server:
        yield server


@pytest.mark.parametrize("promise", CHECKS)
def test_service(service: Server, promise: str) -> None:
    """The FastAPI example keeps its promises under uvicorn."""
    CHECKS[promise](service)
