"""Rigs: the gateways and floors that are compared, and how each is started.

Floors are apps of floors.py under uvicorn, and nginx; peers stand in peers.py. What is not
installed is skipped, by name.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path

import attrs

from benchmarks import client
from llmgw.apps.bench_report import version_of

KEY = "sk-bench-0123456789abcdef"
OURS = "llmgw"

LLMGW = """
[[models]]
name = "m"
deployments = [ {{ model = "openai/m", api_base = "{base}", via = "{via}" }} ]
[[keys]]
name = "team"
sha256 = "{hash}"
[limits]
max_concurrent = 10000
[timeouts]
idle_s = 600
"""
NGINX = """
worker_processes 1;
worker_rlimit_nofile 20000;
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/nginx.err;
events {{ worker_connections 10000; }}
http {{
  access_log off;
  keepalive_requests 1000000000;
  client_max_body_size 100m;
  client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder};
  uwsgi_temp_path {folder}; scgi_temp_path {folder};
  upstream model {{
    server 127.0.0.1:{upstream};
    keepalive 128;
    keepalive_requests 1000000000;
  }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://model; proxy_http_version 1.1; proxy_set_header connection "";
      proxy_buffering off; proxy_read_timeout 700s;
    }}
  }}
}}
"""
LITELLM_ENVIRON = {
    "LITELLM_MODE": "PRODUCTION",
    "LITELLM_LOG": "ERROR",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
}


@attrs.frozen
class Rig:
    """One gateway or floor, as it is started."""

    name: str
    command: Sequence[str]
    port: int  # 0: it tells one in its log
    version: str = ""
    model: str = "m"
    path: str = "/v1/chat/completions"
    headers: Mapping[str, str] = attrs.field(factory=dict[str, str])
    environ: Mapping[str, str] = attrs.field(factory=dict[str, str])
    streams: bool = True

    def request(self, *, stream: bool = False, prompt: str = client.PROMPT) -> bytes:
        """A request for it, as bytes."""
        return client.request_of(
            self.port,
            self.model,
            path=self.path,
            headers=dict(self.headers),
            stream=stream,
            prompt=prompt,
        )


@attrs.define
class Found:
    """The rigs that are here, and a line for each that is not."""

    rigs: list[Rig] = attrs.field(factory=list[Rig])
    absent: list[str] = attrs.field(factory=list[str])

    def add(self, rig: Rig, here: object, hint: str) -> None:
        """Add a rig if it is here."""
        if here:
            self.rigs.append(rig)
        else:
            self.absent.append(f"{rig.name}: {hint}")


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def base_of(upstream: int) -> str:
    """The upstream's address, as OpenAI's clients want it."""
    return f"http://127.0.0.1:{upstream}/v1"


def llmgw(name: str, via: str, upstream: int, folder: Path) -> Rig:
    """llmgw with its default stack and one key."""
    port, path = free_port(), folder / f"llmgw-{via}.toml"
    known = sha256(KEY.encode()).hexdigest()
    path.write_text(LLMGW.format(base=base_of(upstream), via=via, hash=known))
    command = [sys.executable, "-m", "llmgw", "serve", "--port", str(port), "--config", str(path)]
    environ = {"OPENAI_API_KEY": "sk-bench", **LITELLM_ENVIRON}
    headers = {"authorization": f"Bearer {KEY}"}
    return Rig(name, command, port, headers=headers, environ=environ)


def floor(name: str, app: str, upstream: int, *, version: str = "", streams: bool = True) -> Rig:
    """An app of floors.py under uvicorn."""
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", f"benchmarks.floors:{app}", "--no-access-log"]
    command += ["--port", str(port), "--log-level", "warning"]
    if app.startswith("make_"):
        command.append("--factory")
    environ = {"BENCH_UPSTREAM": base_of(upstream), **LITELLM_ENVIRON}
    return Rig(name, command, port, version, environ=environ, streams=streams)


def nginx(upstream: int, folder: Path) -> tuple[Rig, str | None]:
    """nginx as a reverse proxy, and where it is."""
    port, path, found = free_port(), folder / "nginx.conf", shutil.which("nginx")
    path.write_text(NGINX.format(folder=folder, upstream=upstream, port=port))
    version = ""
    if found:
        told = subprocess.run([found, "-v"], capture_output=True, text=True, check=False).stderr
        version = told.strip().rpartition("/")[2]
    return Rig("nginx", [found or "nginx", "-c", str(path)], port, version), found


def own(upstream: int, folder: Path) -> Found:
    """Ours, and the floors."""
    found = Found()
    found.add(llmgw(OURS, "openai", upstream, folder), True, "")
    found.add(llmgw("llmgw via LiteLLM", "litellm", upstream, folder), find_spec("litellm"), "")
    found.add(floor("uvicorn hello", "hello", upstream, streams=False), True, "")
    found.add(floor("raw ASGI + our client", "bare", upstream), True, "")
    version = version_of("aiohttp") or ""
    rig = floor("raw ASGI + aiohttp", "by_aiohttp", upstream, version=version)
    found.add(rig, version, "not installed")
    rig, here = nginx(upstream, folder)
    found.add(rig, here, "not on PATH")
    version = version_of("litellm") or ""
    rig = floor("Starlette + litellm", "make_starlette_with_litellm", upstream, version=version)
    found.add(rig, version and find_spec("starlette"), "not installed")
    return found
