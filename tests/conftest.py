from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from tests.servers import Llama, serve_llama
from tests.upstreams.recorder import Recorder

Backend = tuple[str, dict[str, Any]]
BACKENDS: dict[str, Backend] = {"asyncio": ("asyncio", {"debug": True}), "trio": ("trio", {})}

hypothesis.settings.register_profile("llmgw", deadline=None)  # a busy machine is no failure
hypothesis.settings.load_profile("llmgw")


@pytest.fixture(params=BACKENDS, scope="module")
def anyio_backend(request: pytest.FixtureRequest) -> Backend:
    return BACKENDS[request.param]


@pytest.fixture(scope="session")
def llama_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("llama")


@pytest.fixture(scope="session")
def llama(llama_folder: Path) -> Iterator[Llama]:
    with serve_llama(llama_folder) as server:
        yield server


@pytest.fixture(scope="session")
def llama_with_key(llama_folder: Path) -> Iterator[Llama]:
    with serve_llama(llama_folder, key="sk-upstream") as server:
        yield server


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    with Recorder() as running:
        yield running
