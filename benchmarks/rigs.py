"""Rigs: the gateways and floors that are compared, and how each is started.

A peer that is not installed is skipped, by name. LiteLLM proxy: ``litellm`` on PATH or
``BENCH_LITELLM``; Portkey: ``BENCH_PORTKEY``, its ``build/start-server.js``; TensorZero:
``BENCH_TENSORZERO``, a Python that has its wheel; nginx: on PATH.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path

import attrs

from benchmarks import load

KEY = "sk-bench-0123456789abcdef"
CORE, OTHER = 0, 1  # the gateway's core; the upstream's and the load's
START = 60.0  # seconds a gateway may take to start
HERE = Path(__file__).parent

LLMGW = """
[[models]]
name = "m"
deployments = [ {{ model = "openai/m", api_base = "{base}", via = "{via}" }} ]
[[keys]]
name = "team"
sha256 = "{hash}"
"""
LITELLM = """
model_list:
  - model_name: m
    litellm_params: {{ model: openai/m, api_base: "{base}", api_key: sk-bench }}
litellm_settings: {{ telemetry: false }}
general_settings: {{ disable_spend_logs: true, disable_error_logs: true }}
"""
NGINX = """
worker_processes 1;
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/nginx.err;
events {{ worker_connections 10000; }}
http {{
  access_log off;
  client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder};
  uwsgi_temp_path {folder}; scgi_temp_path {folder};
  upstream model {{ server 127.0.0.1:{upstream}; keepalive 128; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://model; proxy_http_version 1.1; proxy_set_header connection "";
      proxy_buffering off;
    }}
  }}
}}
"""
TENSORZERO = """
[models.m]
routing = ["upstream"]
[models.m.providers.upstream]
type = "openai"
model_name = "m"
api_base = "{base}/"
api_key_location = "none"
[gateway]
bind_address = "127.0.0.1:{port}"
observability.enabled = false
"""


@attrs.frozen
class Rig:
    """One gateway or floor, as it is started."""

    name: str
    command: Sequence[str]
    port: int
    model: str = "m"
    path: str = "/v1/chat/completions"
    headers: Mapping[str, str] = attrs.field(factory=dict[str, str])
    environ: Mapping[str, str] = attrs.field(factory=dict[str, str])
    streams: bool = True

    def request(self, *, stream: bool = False, prompt: str = load.PROMPT) -> bytes:
        """A request for it, as bytes."""
        return load.request_of(
            self.port,
            self.model,
            path=self.path,
            headers=dict(self.headers),
            stream=stream,
            prompt=prompt,
        )


@attrs.frozen
class Running:
    """A rig that runs."""

    rig: Rig
    pid: int
    started_s: float  # until its first answer


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def floor(
    name: str, app: str, upstream: int, *, streams: bool = True, factory: bool = False
) -> Rig:
    """An app of floors.py under uvicorn."""
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", f"benchmarks.floors:{app}", "--no-access-log"]
    command += ["--port", str(port), "--log-level", "warning", *(["--factory"] if factory else [])]
    environ = {"BENCH_UPSTREAM": f"http://127.0.0.1:{upstream}/v1", **LITELLM_ENVIRON}
    return Rig(name, command, port, environ=environ, streams=streams)


LITELLM_ENVIRON = {
    "LITELLM_MODE": "PRODUCTION",
    "LITELLM_LOG": "ERROR",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
}


def llmgw(name: str, via: str, upstream: int, folder: Path) -> Rig:
    """llmgw, its default stack and one key."""
    port = free_port()
    path = folder / f"llmgw-{via}.toml"
    base = f"http://127.0.0.1:{upstream}/v1"
    path.write_text(LLMGW.format(base=base, via=via, hash=sha256(KEY.encode()).hexdigest()))
    command = [sys.executable, "-m", "llmgw", "serve", "--port", str(port), "--config", str(path)]
    environ = {"OPENAI_API_KEY": "sk-bench", **LITELLM_ENVIRON}
    return Rig(name, command, port, headers={"authorization": f"Bearer {KEY}"}, environ=environ)


def rigs(upstream: int, folder: Path) -> tuple[list[Rig], list[str]]:
    """Those that are here, and a line for each that is not."""
    base = f"http://127.0.0.1:{upstream}/v1"
    found = [
        floor("uvicorn hello", "hello", upstream, streams=False),
        floor("raw ASGI, our client", "bare", upstream),
        llmgw("llmgw", "openai", upstream, folder),
        llmgw("llmgw via LiteLLM", "litellm", upstream, folder),
    ]
    absent: list[str] = []

    def peer(name: str, here: object, rig: Rig, hint: str) -> None:
        if here:
            found.append(rig)
        else:
            absent.append(f"{name}: {hint}")

    path = folder / "nginx.conf"
    port = free_port()
    path.write_text(NGINX.format(folder=folder, upstream=upstream, port=port))
    nginx = shutil.which("nginx")
    peer("nginx", nginx, Rig("nginx", [nginx or "", "-c", str(path)], port), "not on PATH")

    rig = floor("raw ASGI, aiohttp", "by_aiohttp", upstream)
    peer("aiohttp", find_spec("aiohttp"), rig, "not installed")

    rig = floor("Starlette + litellm", "starlette_with_litellm", upstream, factory=True)
    peer(
        "Starlette + litellm", find_spec("starlette") and find_spec("litellm"), rig, "not installed"
    )

    path = folder / "litellm.yaml"
    path.write_text(LITELLM.format(base=base))
    port = free_port()
    proxy = os.environ.get("BENCH_LITELLM") or shutil.which("litellm")
    command = [proxy or "", "--config", str(path), "--port", str(port), "--host", "127.0.0.1"]
    command += ["--num_workers", "1", "--telemetry", "False"]
    rig = Rig("LiteLLM proxy", command, port, environ=LITELLM_ENVIRON)
    peer("LiteLLM proxy", os.environ.get("BENCH_LITELLM"), rig, "BENCH_LITELLM names no `litellm`")

    script, port = os.environ.get("BENCH_PORTKEY"), free_port()
    rig = Rig(
        "Portkey",
        ["node", script or "", "--headless", f"--port={port}"],
        port,
        headers={
            "x-portkey-provider": "openai",
            "x-portkey-custom-host": base,
            "authorization": "Bearer sk-bench",
        },
    )
    peer("Portkey", script, rig, "BENCH_PORTKEY names no start-server.js")

    python, port = os.environ.get("BENCH_TENSORZERO"), free_port()
    path = folder / "tensorzero.toml"
    path.write_text(TENSORZERO.format(base=base, port=port))
    program = HERE / "tensorzero_gateway.py"
    rig = Rig(
        "TensorZero",
        [python or "", str(program), str(path), str(port)],
        port,
        model="tensorzero::model_name::m",
        path="/openai/v1/chat/completions",
    )
    peer("TensorZero", python, rig, "BENCH_TENSORZERO names no Python with its wheel")
    return found, absent


def pinned(command: Sequence[str], core: int, environ: Mapping[str, str], log: Path) -> int:
    """Start a process on one core; its pid."""
    with log.open("wb") as file:
        return subprocess.Popen(
            command,
            stdout=file,
            stderr=file,
            env={**os.environ, **environ},
            cwd=HERE.parent,
            start_new_session=True,
            preexec_fn=lambda: os.sched_setaffinity(0, {core}),
        ).pid


@contextmanager
def upstream() -> Generator[int]:
    """The upstream on the other core; its port."""
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.upstream", str(port)]
    pid = pinned(command, OTHER, {}, Path(os.devnull))
    try:
        until_it_listens(port)
        yield port
    finally:
        end(pid)


def until_it_listens(port: int) -> None:
    """Wait for a listener."""
    for _ in range(int(START / 0.02)):
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            time.sleep(0.02)
        else:
            return
    raise TimeoutError(f"nobody listens on {port}")


@contextmanager
def running(rig: Rig, folder: Path) -> Generator[Running]:
    """A rig on its core, until its first good answer; then what it is."""
    log = folder / f"{rig.name.replace(' ', '-')}.log"
    began = time.monotonic()
    pid = pinned(rig.command, CORE, rig.environ, log)
    try:
        until_it_listens(rig.port)
        while True:
            found = asyncio.run(load.closed(rig.port, rig.request(), 1, 0))
            if found.answers:
                break
            if time.monotonic() - began > START:
                text = f"{rig.name} does not answer: {found.failure}\n{log.read_text()[-2000:]}"
                raise TimeoutError(text)
            time.sleep(0.02)
        yield Running(rig, pid, time.monotonic() - began)
    finally:
        end(pid)


def end(pid: int) -> None:
    """End a process and what it started."""
    try:
        os.killpg(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    except (ProcessLookupError, ChildProcessError):
        pass


@contextmanager
def all_running(found: Sequence[Rig], folder: Path) -> Generator[list[Running]]:
    """All rigs at once: they are measured in turns."""
    with ExitStack() as stack:
        yield [stack.enter_context(running(rig, folder)) for rig in found]
