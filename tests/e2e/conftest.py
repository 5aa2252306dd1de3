"""The gateway as users run it: a process of its own, before real upstreams."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from hashlib import sha256
from pathlib import Path

import pytest

from tests.servers import Llama, Server, free_port, serve_process

KEY = "sk-client-0123456789"
NO_KEYS = ("OPENAI", "ANTHROPIC", "GROQ", "TOGETHER", "MISTRAL", "GEMINI", "COHERE", "AZURE_OPENAI")

CONFIG = """
[retry]
backoff_s = 0.01

[timeouts]
idle_s = 5

[[models]]
name = "llama"
deployments = [{{ model = "openai/random", api_base = "{llama}/v1", api_key_env = "UPSTREAM_KEY" }}]

[[models]]
name = "llama-litellm"
[[models.deployments]]
model = "openai/random"
api_base = "{llama}/v1"
api_key_env = "UPSTREAM_KEY"
via = "litellm"

[[models]]
name = "llama-anthropic"
deployments = [{{ model = "anthropic/random", api_base = "{llama}", api_key_env = "UPSTREAM_KEY" }}]

[[keys]]
name = "team-a"
sha256 = "{key}"
"""

Serve = Callable[..., AbstractContextManager[Server]]


@pytest.fixture(scope="session")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Serve:
    """Start the gateway with a config and an environment, by the command or by another server."""
    tmp_path_factory.getbasetemp()  # made here once: tests may start two gateways in threads

    @contextmanager
    def start(
        config: str = "",
        env: Mapping[str, str] | None = None,
        argv: tuple[str, ...] = ("-m", "llmgw", "serve", "--port", "{port}"),
        port: int | None = None,
    ) -> Generator[Server]:
        folder: Path = tmp_path_factory.mktemp("gateway")
        port = port or free_port()
        settings = {f"{name}_API_KEY": "" for name in NO_KEYS}
        if config:
            (folder / "llmgw.toml").write_text(config)
            settings["LLMGW_CONFIG"] = str(folder / "llmgw.toml")
        command = [sys.executable, *(word.format(port=port) for word in argv)]
        with serve_process(command, {**settings, **(env or {})}, port=port, cwd=folder) as server:
            yield server

    return start


@pytest.fixture(scope="session")
def llama_config(llama_with_key: Llama) -> str:
    """A config of three models that are the same real server, by three ways."""
    return CONFIG.format(llama=llama_with_key.url, key=sha256(KEY.encode()).hexdigest())


@pytest.fixture(scope="session")
def gateway(serve: Serve, llama_config: str) -> Iterator[Server]:
    """The gateway under uvicorn, before llama.cpp's server."""
    with serve(llama_config, {"UPSTREAM_KEY": "sk-upstream"}) as server:
        yield server


@pytest.fixture(scope="session")
def trio_gateway(serve: Serve, llama_config: str) -> Iterator[Server]:
    """The whole gateway under hypercorn on trio."""
    argv = ("-m", "hypercorn", "-k", "trio", "-b", "127.0.0.1:{port}", "llmgw.apps.gateway:app")
    with serve(llama_config, {"UPSTREAM_KEY": "sk-upstream"}, argv) as server:
        yield server


@pytest.fixture(scope="session")
def echo_gateway(serve: Serve) -> Iterator[Server]:
    """The gateway with no key and no config: it serves the model ``echo``."""
    with serve() as server:
        yield server
