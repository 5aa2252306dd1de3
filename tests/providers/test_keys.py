"""Provider detection: where a model's name leads, and with which key, as the upstream sees it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import attrs
import pytest

from llmgw.errors import AuthError, NotFoundError
from llmgw.exchange import Deployment
from llmgw.providers import CompletionRequest, LLMGatewayProvider
from llmgw.providers.keys import SAMPLES, TABLE, configured, detect, resolve
from tests.upstreams.recorder import TEXT, Recorder

litellm = pytest.mark.usefixtures("close_litellm")
HI = [{"role": "user", "content": "hi"}]
KEY = "sk-ours-0123456789"


@attrs.frozen
class Known:
    """What a row of the table must come to: the request that its provider's API expects."""

    model: str
    variable: str  # the key's
    provider: str
    address: str | None  # None: LiteLLM's own
    path: str
    header: str  # where the key goes, and how
    value: str = KEY


BEARER = "authorization", f"Bearer {KEY}"
KNOWN = {
    "openai": Known(
        "gpt-4o",
        "OPENAI_API_KEY",
        "openai",
        "https://api.openai.com/v1",
        "/v1/chat/completions",
        *BEARER,
    ),
    "openai-o1": Known(
        "o1-mini",
        "OPENAI_API_KEY",
        "openai",
        "https://api.openai.com/v1",
        "/v1/chat/completions",
        *BEARER,
    ),
    "openai-prefix": Known(
        "openai/gpt-4o",
        "OPENAI_API_KEY",
        "openai",
        "https://api.openai.com/v1",
        "/v1/chat/completions",
        *BEARER,
    ),
    "anthropic": Known(
        "claude-3-5-sonnet-20241022",
        "ANTHROPIC_API_KEY",
        "anthropic",
        None,
        "/v1/messages",
        "x-api-key",
    ),
    "groq": Known(
        "groq/llama-3.1-70b-versatile",
        "GROQ_API_KEY",
        "groq",
        "https://api.groq.com/openai/v1",
        "/openai/v1/chat/completions",
        *BEARER,
    ),
    "together": Known(
        "together_ai/meta-llama/Llama-3-70b-chat-hf",
        "TOGETHER_API_KEY",
        "together_ai",
        "https://api.together.xyz/v1",
        "/v1/chat/completions",
        *BEARER,
    ),
    "gemini": Known(
        "gemini/gemini-1.5-pro",
        "GEMINI_API_KEY",
        "gemini",
        None,
        "/models/gemini-1.5-pro:generateContent",
        "x-goog-api-key",
    ),
    "mistral": Known(
        "mistral/mistral-large-latest",
        "MISTRAL_API_KEY",
        "mistral",
        "https://api.mistral.ai/v1",
        "/v1/chat/completions",
        *BEARER,
    ),
    "cohere": Known(
        "command-r-plus",
        "COHERE_API_KEY",
        "cohere",
        "https://api.cohere.ai/compatibility/v1",
        "/compatibility/v1/chat/completions",
        *BEARER,
    ),
    "deepseek": Known(
        "deepseek/deepseek-chat",
        "DEEPSEEK_API_KEY",
        "deepseek",
        "https://api.deepseek.com/v1",
        "/v1/chat/completions",
        *BEARER,
    ),
    "openrouter": Known(
        "openrouter/meta-llama/llama-3.1-8b-instruct",
        "OPENROUTER_API_KEY",
        "openrouter",
        "https://openrouter.ai/api/v1",
        "/api/v1/chat/completions",
        *BEARER,
    ),
    "xai": Known(
        "xai/grok-2",
        "XAI_API_KEY",
        "xai",
        "https://api.x.ai/v1",
        "/v1/chat/completions",
        *BEARER,
    ),
}


async def say(deployment: Deployment) -> str:
    """The answer of the deployment to HI."""
    provider = LLMGatewayProvider(deployments={"it": deployment})
    try:
        request = CompletionRequest(model="it", messages=HI, max_tokens=7)
        return "".join([chunk.content async for chunk in provider.generate(request)])
    finally:
        await provider.aclose()


@litellm
@pytest.mark.parametrize("row", KNOWN)
async def test_the_upstream_sees_its_path_and_our_key(row: str, recorder: Recorder) -> None:
    """Whatever the provider, what goes out is a request of its API, and what comes back a text."""
    known = KNOWN[row]
    found = resolve(known.model, {known.variable: KEY})
    base = urlsplit(found.api_base or "").path
    here = attrs.evolve(found, api_base=recorder.url + base)

    said = await say(here)

    [request] = recorder.requests
    assert said == TEXT
    assert request.path == known.path
    assert request.headers[known.header] == known.value
    assert KEY not in request.path + request.query


@pytest.mark.parametrize("row", KNOWN)
def test_the_name_leads_to_the_provider_and_its_address(row: str) -> None:
    """The address is the provider's own, as its API reference has it."""
    known = KNOWN[row]

    found = resolve(known.model, {known.variable: KEY})

    assert (found.provider, found.api_base, found.api_key) == (known.provider, known.address, KEY)
    assert detect(known.model) == known.provider
    assert KEY not in repr(found)


@pytest.mark.parametrize("row", KNOWN)
def test_a_missing_key_is_named(row: str) -> None:
    """The error says which variable to set; an empty one is not set."""
    known = KNOWN[row]

    with pytest.raises(AuthError, match=known.variable) as caught:
        resolve(known.model, {known.variable: ""})

    assert caught.value.provider == known.provider


AZURE = {"AZURE_OPENAI_API_KEY": KEY, "AZURE_OPENAI_ENDPOINT": "https://me.openai.azure.com"}


@litellm
async def test_azure_by_its_own_variables(recorder: Recorder) -> None:
    """The key, endpoint and api-version of Azure's variables come out in its own URL and header."""
    environ = {**AZURE, "AZURE_OPENAI_ENDPOINT": recorder.url}

    said = await say(resolve("azure/my-deployment", environ))

    [request] = recorder.requests
    assert said == TEXT
    assert request.path == "/openai/deployments/my-deployment/chat/completions"
    assert request.query == "api-version=2024-10-21"
    assert request.headers["api-key"] == KEY


@pytest.mark.parametrize("variable", AZURE)
def test_azure_needs_a_key_and_an_address(variable: str) -> None:
    """Each of the two is named when it is missing."""
    with pytest.raises(AuthError, match=variable):
        resolve("azure/my-deployment", {**AZURE, variable: ""})


@litellm
async def test_azures_version_can_be_chosen(recorder: Recorder) -> None:
    """By its variable."""
    environ = {**AZURE, "AZURE_OPENAI_API_VERSION": "2025-01-01-preview"}
    environ["AZURE_OPENAI_ENDPOINT"] = recorder.url

    await say(resolve("azure/my-deployment", environ))

    assert recorder.requests[0].query == "api-version=2025-01-01-preview"


@pytest.mark.parametrize(
    ("model", "environ", "base"),
    [
        ("ollama/llama3", {}, "http://127.0.0.1:11434/v1"),
        ("ollama/llama3", {"OLLAMA_API_BASE": "http://gpu:11434/v1"}, "http://gpu:11434/v1"),
        ("ollama/llama3", {"OLLAMA_API_BASE": "http://gpu:11434"}, "http://gpu:11434/v1"),
        ("ollama/llama3", {"OLLAMA_HOST": "gpu"}, "http://gpu:11434/v1"),
        ("ollama/llama3", {"OLLAMA_HOST": "gpu:1234"}, "http://gpu:1234/v1"),
        ("ollama/llama3", {"OLLAMA_HOST": "0.0.0.0"}, "http://127.0.0.1:11434/v1"),
        ("ollama/llama3", {"OLLAMA_HOST": "[::1]:1234"}, "http://[::1]:1234/v1"),
        ("ollama/llama3", {"OLLAMA_HOST": "https://gpu.example/"}, "https://gpu.example:443/v1"),
        ("ollama/llama3", {"OLLAMA_HOST": "http://gpu"}, "http://gpu:80/v1"),
        ("hosted_vllm/m", {"HOSTED_VLLM_API_BASE": "http://gpu/v1"}, "http://gpu/v1"),
        ("gpt-4o", {"OPENAI_API_KEY": "k", "OPENAI_BASE_URL": "http://own/v1"}, "http://own/v1"),
    ],
)
def test_the_address_of_an_own_server(model: str, environ: Mapping[str, str], base: str) -> None:
    """A server of one's own needs no key; its variable is the one that its other clients read."""
    assert resolve(model, environ).api_base == base


@pytest.mark.parametrize("value", ["gpu:port", "gpu:99999", "[::1"])
def test_an_address_that_is_none_is_named(value: str) -> None:
    """A typing error in the variable is no crash."""
    with pytest.raises(AuthError, match="OLLAMA_HOST"):
        resolve("ollama/llama3", {"OLLAMA_HOST": value})


def test_a_server_without_an_address_is_named() -> None:
    """vLLM has no usual place: the variable is told."""
    with pytest.raises(AuthError, match="HOSTED_VLLM_API_BASE"):
        resolve("hosted_vllm/m", {})


@pytest.mark.parametrize(
    "model",
    [
        "no-such-model",
        "",
        "groq/",
        "/groq",
        "nobody/model",
        "huggingface/http://127.0.0.1/x",
        "gpt-4o\nx",
        "x" * 500,
    ],
)
def test_an_unknown_name_is_not_found(model: str) -> None:
    """A name is never guessed at, and never an address."""
    with pytest.raises(NotFoundError) as caught:
        resolve(model, {"OPENAI_API_KEY": KEY})

    assert caught.value.param == "model"


def test_the_configs_own_words_win() -> None:
    """``api_base`` and ``api_key_env`` stand before the table; an own server may need no key."""
    environ = {"OPENAI_API_KEY": KEY, "OTHER": "sk-other"}

    own = resolve("openai/m", environ, api_base="http://own/v1", api_key_env="OTHER")
    keyless = resolve("openai/m", {}, api_base="http://own/v1")

    assert (own.api_base, own.api_key) == ("http://own/v1", "sk-other")
    assert keyless.api_key is None
    with pytest.raises(AuthError, match="OTHER"):
        resolve("openai/m", {}, api_base="http://own/v1", api_key_env="OTHER")


@pytest.mark.parametrize(
    ("model", "temperature"),
    [("gpt-4o", 0.7), ("gpt-5-mini", None), ("o1", None), ("o3-mini", None), ("openai/o4", None)],
)
async def test_the_default_temperature_goes_to_models_that_take_one(
    model: str, temperature: float | None, recorder: Recorder
) -> None:
    """The request's default is 0.7; models that refuse one get none."""
    found = resolve(model, {"OPENAI_API_KEY": KEY})

    await say(attrs.evolve(found, api_base=recorder.url + "/v1"))

    asked: dict[str, Any] = json.loads(recorder.requests[0].body)
    assert asked.get("temperature") == temperature
    assert asked["max_tokens"] == 7


async def test_cohere_gets_no_stream_options(recorder: Recorder) -> None:
    """Its API refuses a request that has them, whoever asked."""
    found = resolve("command-r-plus", {"COHERE_API_KEY": KEY})
    here = attrs.evolve(found, api_base=recorder.url + "/v1")
    provider = LLMGatewayProvider(deployments={"it": here})
    request = CompletionRequest(
        model="it",
        messages=HI,
        stream=True,
        extra={"stream_options": {"include_usage": True}},
    )

    said = [chunk.content async for chunk in provider.generate(request)]
    await provider.aclose()

    assert "".join(said) == TEXT
    assert "stream_options" not in recorder.requests[0].json()


def test_what_is_configured_is_what_has_a_key_or_an_address() -> None:
    """By it the start says what it serves."""
    environ = {"GROQ_API_KEY": "k", "OLLAMA_HOST": "gpu", "OPENAI_API_KEY": ""}

    assert configured(environ) == ["groq", "ollama"]


@pytest.mark.parametrize("name", SAMPLES)
def test_the_sample_of_a_provider_is_a_model_of_it(name: str) -> None:
    """What the smoke test asks is asked of the provider that is meant."""
    assert detect(SAMPLES[name]) == name


def test_no_prefix_stands_twice() -> None:
    """A prefix names one provider."""
    prefixes = [prefix for row in TABLE for prefix in row.prefixes]

    assert len(prefixes) == len(set(prefixes))
