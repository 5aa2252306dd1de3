"""Peers: other gateways, when they are installed. Environment variables name them:

LiteLLM proxy: ``BENCH_LITELLM``, its ``litellm`` (``pip install 'litellm[proxy]'``). Portkey:
``BENCH_PORTKEY``, its ``build/start-server.js`` (``npm install @portkey-ai/gateway
@hono/node-server@1.13.8``: from 1.14.4 on, its streams fail on Node 20). TensorZero:
``BENCH_TENSORZERO``, a Python that has it (``pip install tensorzero``).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from hashlib import sha256
from pathlib import Path

from benchmarks.rigs import KEY, LITELLM_ENVIRON, Found, Rig, base_of, free_port, own

HERE = Path(__file__).parent

MASTER = f"sk-{sha256(KEY.encode()).hexdigest()}"  # LiteLLM's proxy wants a long one
LITELLM = """
model_list:
  - model_name: m
    litellm_params: {{ model: openai/m, api_base: "{base}", api_key: sk-bench }}
litellm_settings: {{ telemetry: false }}
general_settings: {{ disable_spend_logs: true, disable_error_logs: true, master_key: {key} }}
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
observability.enabled = false
"""


def distribution(python: Path, name: str) -> str:
    """A distribution's version, by the Python that has it."""
    code = f"from importlib.metadata import version; print(version({name!r}))"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    return done.stdout.strip()


def litellm(upstream: int, folder: Path, script: str) -> Rig:
    """LiteLLM's proxy: one worker, its logs of spending and errors off."""
    port, path = free_port(), folder / "litellm.yaml"
    path.write_text(LITELLM.format(base=base_of(upstream), key=MASTER))
    command = [script, "--config", str(path), "--port", str(port), "--host", "127.0.0.1"]
    command += ["--num_workers", "1", "--telemetry", "False"]
    version = distribution(Path(script).parent / "python", "litellm") if script else ""
    headers = {"authorization": f"Bearer {MASTER}"}
    return Rig("LiteLLM proxy", command, port, version, headers=headers, environ=LITELLM_ENVIRON)


def portkey(upstream: int, script: str) -> Rig:
    """Portkey's gateway under Node."""
    port = free_port()
    package = Path(script).parent.parent / "package.json"
    version = json.loads(package.read_text())["version"] if package.is_file() else ""
    headers = {
        "x-portkey-provider": "openai",
        "x-portkey-custom-host": base_of(upstream),
        "authorization": "Bearer sk-bench",
    }
    command = ["node", script, "--headless", f"--port={port}"]
    return Rig("Portkey", command, port, version, headers=headers)


def tensorzero(upstream: int, folder: Path, python: str) -> Rig:
    """TensorZero's embedded gateway, observability off."""
    path = folder / "tensorzero.toml"
    path.write_text(TENSORZERO.format(base=base_of(upstream)))
    return Rig(
        "TensorZero",
        [python, str(HERE / "tensorzero_gateway.py"), str(path)],
        0,
        distribution(Path(python), "tensorzero") if python else "",
        model="tensorzero::model_name::m",
        path="/openai/v1/chat/completions",
    )


def everything(upstream: int, folder: Path) -> Found:
    """Ours, the floors and the peers."""
    found = own(upstream, folder)
    where = os.environ.get
    script = where("BENCH_LITELLM", "")
    found.add(litellm(upstream, folder, script), script, "BENCH_LITELLM names no litellm")
    script = where("BENCH_PORTKEY", "")
    here = script and shutil.which("node")
    found.add(portkey(upstream, script), here, "BENCH_PORTKEY names no start-server.js, or no node")
    python = where("BENCH_TENSORZERO", "")
    found.add(tensorzero(upstream, folder, python), python, "BENCH_TENSORZERO names no Python")
    return found
