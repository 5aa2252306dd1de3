from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from llmgw import portal


@pytest.fixture
async def close_litellm() -> AsyncIterator[None]:
    """LiteLLM keeps a client for each event loop: close them while the test's loop runs."""
    yield
    import litellm
    from litellm.llms.custom_httpx.async_client_cleanup import close_litellm_async_clients

    await portal.call(close_litellm_async_clients)
    litellm.in_memory_llm_clients_cache.flush_cache()
