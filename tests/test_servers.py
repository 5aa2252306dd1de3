from __future__ import annotations

import http.client
import sys
from pathlib import Path

import pytest

from tests.servers import free_port, printed, serve_process

APP = """
async def app(scope, receive, send):
    if scope["type"] != "http":
        raise NotImplementedError  # a lifespan that only returns ends hypercorn's worker
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body"})
"""
STUBBORN = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("ready")
time.sleep(60)
"""


@pytest.mark.parametrize(
    "command",
    [
        ["uvicorn", "served:app", "--port", "{port}"],
        ["hypercorn", "served:app", "-k", "trio", "--bind", "127.0.0.1:{port}"],
    ],
    ids=["uvicorn", "hypercorn on trio"],
)
def test_server_answers_until_it_is_stopped(tmp_path: Path, command: list[str]) -> None:
    """A server answers within the block, and its process has ended after it."""
    (tmp_path / "served.py").write_text(APP)
    port = free_port()
    argv = [sys.executable, "-m", *(word.format(port=port) for word in command)]
    with serve_process(argv, port=port, cwd=tmp_path) as server:
        client = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        client.request("GET", "/")
        assert client.getresponse().status == 204
        client.close()
        assert server.process.poll() is None
    assert server.process.returncode is not None


def test_server_that_fails_says_why() -> None:
    """A server that ends before it answers fails the test with what it printed."""
    with (
        pytest.raises(AssertionError, match=r"(?s)ended with 3.*no such app"),
        serve_process(
            [sys.executable, "-c", "print('no such app'); raise SystemExit(3)"], port=free_port()
        ),
    ):
        pass


def test_server_that_will_not_stop_is_killed() -> None:
    """A server that ignores SIGTERM is killed and reaped."""
    argv = [sys.executable, "-c", STUBBORN]
    with serve_process(argv, port=0, ready=printed("ready")) as server:
        assert server.stop(0.1) == -9
