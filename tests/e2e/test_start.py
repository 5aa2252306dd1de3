"""Starting: what is imported, what is said, what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from urllib.request import urlopen

import pytest

from tests.e2e.conftest import Serve
from tests.servers import Server

PROBE = """
import socket, sys
def refuse(*args):
    raise AssertionError(f"network: {args[1:]}")
socket.socket.connect = refuse
socket.getaddrinfo = refuse
import anyio
import llmgw
assert "litellm" not in sys.modules and "uvicorn" not in sys.modules
from llmgw.apps.gateway import app
from llmgw.testing import exchange
async def main():
    body = b'{"model": "echo", "messages": [{"role": "user", "content": "hi"}]}'
    reply = await exchange(app, body, headers=[(b"content-type", b"application/json")])
    assert reply.status == 200, reply
anyio.run(main, backend=sys.argv[1])
assert "litellm" not in sys.modules
"""


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_echo_needs_neither_litellm_nor_the_network(backend: str, tmp_path: Path) -> None:
    """From import to the first answer no connection is tried and litellm is not loaded."""
    command = [sys.executable, "-c", PROBE, backend]
    env = {"PATH": "", "HOME": str(tmp_path)}
    done = subprocess.run(
        command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr


def test_the_start_says_what_is_served(echo_gateway: Server) -> None:
    """One line, the first, names the address and the offline model."""
    first = echo_gateway.output.splitlines()[0]

    assert f":{echo_gateway.port}" in first
    assert "`echo`" in first


def test_health_and_metrics_answer(echo_gateway: Server) -> None:
    """The three health paths and the exposition are there without a key."""
    seen = {}
    for path in ("/health", "/health/live", "/health/ready"):
        with urlopen(echo_gateway.base_url + path) as response:
            seen[path] = json.load(response)["status"]
    with urlopen(f"{echo_gateway.base_url}/metrics") as response:
        text = response.read().decode()

    assert seen == {"/health": "healthy", "/health/live": "alive", "/health/ready": "ready"}
    assert "http_server_request_duration_seconds" in text


def run(*words: str, cwd: Path, config: str = "") -> subprocess.CompletedProcess[str]:
    if config:
        (cwd / "llmgw.toml").write_text(config)
    command = [sys.executable, "-m", "llmgw", *words]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, timeout=60)


def test_beyond_loopback_without_keys_is_refused(tmp_path: Path) -> None:
    """An open proxy is not started by accident."""
    done = run("serve", "--host", "0.0.0.0", cwd=tmp_path)

    assert done.returncode == 2
    assert "insecure" in done.stderr


def test_all_errors_of_a_config_are_told_at_once(tmp_path: Path) -> None:
    """Each with its path, and exit code 2."""
    done = run("check", cwd=tmp_path, config="[server]\nprot = 1\n[retry]\nattempts = 0\n")

    assert done.returncode == 2
    assert "prot" in done.stderr
    assert "attempts" in done.stderr


def test_check_draws_the_stack(tmp_path: Path) -> None:
    """The layers as they will run, outermost first."""
    done = run("check", cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    assert (
        done.stdout.index("RequestID") < done.stdout.index("ErrorMap") < done.stdout.index("Retry")
    )


def test_smoke_without_keys_asks_echo(tmp_path: Path) -> None:
    """With nothing configured there is one model to try."""
    done = run("smoke", cwd=tmp_path)

    assert done.returncode == 0, done.stderr + done.stdout
    assert "echo" in done.stdout


def test_a_broken_config_stops_uvicorn_too(serve: Serve) -> None:
    """``uvicorn llmgw.apps.gateway:app`` says what is wrong and ends."""
    argv = ("-m", "uvicorn", "--port", "{port}", "llmgw.apps.gateway:app")
    with pytest.raises(AssertionError, match="prot"), serve("[server]\nprot = 1\n", argv=argv):
        pass
