from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from llmgw import logs
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


@pytest.fixture
def log_stream() -> Iterator[io.StringIO]:
    """What our own handler writes."""
    text = io.StringIO()
    log = logging.getLogger("llmgw")
    before = log.level, log.propagate
    logs.set_up_logging(text)
    yield text
    log.handlers = [one for one in log.handlers if not isinstance(one, logs.LineHandler)]
    log.level, log.propagate = before
