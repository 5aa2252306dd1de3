from __future__ import annotations

from typing import Any

import hypothesis
import pytest

Backend = tuple[str, dict[str, Any]]
BACKENDS: dict[str, Backend] = {"asyncio": ("asyncio", {"debug": True}), "trio": ("trio", {})}

hypothesis.settings.register_profile("llmgw", deadline=None)  # a busy machine is no failure
hypothesis.settings.load_profile("llmgw")


@pytest.fixture(params=BACKENDS, scope="module")
def anyio_backend(request: pytest.FixtureRequest) -> Backend:
    return BACKENDS[request.param]
