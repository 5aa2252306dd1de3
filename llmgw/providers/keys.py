"""Keys: from a model's name and the environment to the place that serves it.

Our own table comes first: litellm's detection fails for bare names of its own documentation. A
prefix (``groq/...``) names the provider; a bare name is known by its beginning.

Source   the seed document's table "Supported providers"; each provider's API reference for the
         address.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import urlsplit

import attrs

from llmgw.errors import AuthError, NotFoundError
from llmgw.exchange import Deployment
from llmgw.wire import MODEL, TEMPERATURE


@attrs.frozen
class Row:
    """One provider: how its models are called, where it is, and what its variables are called.

    ``base`` None: the library behind ``via`` knows the address. ``keys``: the first variable that
    is set counts; none listed: no key is needed.
    """

    name: str  # OTel gen_ai.provider.name, and the value of X-Provider
    prefixes: tuple[str, ...]
    keys: tuple[str, ...] = ()
    base: str | None = None
    bases: tuple[str, ...] = ()  # variables that give another address
    via: str = "openai"
    bare: str | None = None  # a pattern of names without a prefix
    own: bool = False  # there is no address but the user's
    stream_options: bool = True  # it takes them, and so tells the usage of a stream


TABLE = (
    Row(
        "openai",
        ("openai",),
        ("OPENAI_API_KEY",),
        "https://api.openai.com/v1",
        ("OPENAI_BASE_URL", "OPENAI_API_BASE"),
        bare=r"(?:gpt-|chatgpt-|o\d)",
    ),
    Row(
        "anthropic",
        ("anthropic",),
        ("ANTHROPIC_API_KEY",),
        bases=("ANTHROPIC_BASE_URL", "ANTHROPIC_API_BASE"),
        via="litellm",
        bare=r"claude-",
    ),
    Row(
        "azure",
        ("azure",),
        ("AZURE_OPENAI_API_KEY", "AZURE_API_KEY"),
        bases=("AZURE_OPENAI_ENDPOINT", "AZURE_API_BASE"),
        via="litellm",
        own=True,
    ),
    Row("groq", ("groq",), ("GROQ_API_KEY",), "https://api.groq.com/openai/v1"),
    Row(
        "together_ai",
        ("together_ai", "together"),
        ("TOGETHER_API_KEY", "TOGETHERAI_API_KEY", "TOGETHER_AI_API_KEY"),
        "https://api.together.xyz/v1",
    ),
    Row(
        "gemini",
        ("gemini", "google"),
        ("GEMINI_API_KEY", "GOOGLE_API_KEY"),
        via="litellm",
        bare=r"gemini-",
    ),
    Row("mistral", ("mistral",), ("MISTRAL_API_KEY",), "https://api.mistral.ai/v1"),
    Row(
        "cohere",
        ("cohere", "cohere_chat"),
        ("COHERE_API_KEY", "CO_API_KEY"),
        "https://api.cohere.ai/compatibility/v1",  # ADR 0006: not by LiteLLM
        stream_options=False,
        bare=r"command-",
    ),
    Row(
        "ollama",
        ("ollama", "ollama_chat"),
        base="http://127.0.0.1:11434/v1",
        bases=("OLLAMA_API_BASE", "OLLAMA_HOST"),
    ),
    Row("deepseek", ("deepseek",), ("DEEPSEEK_API_KEY",), "https://api.deepseek.com/v1"),
    Row("openrouter", ("openrouter",), ("OPENROUTER_API_KEY",), "https://openrouter.ai/api/v1"),
    Row("xai", ("xai",), ("XAI_API_KEY",), "https://api.x.ai/v1"),
    Row("vllm", ("hosted_vllm", "vllm"), bases=("HOSTED_VLLM_API_BASE", "VLLM_API_BASE"), own=True),
    Row("bedrock", ("bedrock",), via="litellm"),
    Row("vertex_ai", ("vertex_ai",), via="litellm"),
    Row("echo", ("echo",), via="echo", bare=r"echo$"),
)
# A cheap model of each provider, for a smoke test
SAMPLES = {
    "openai": "gpt-4o-mini",
    "anthropic": "claude-haiku-4-5-20251001",
    "groq": "groq/llama-3.1-8b-instant",
    "together_ai": "together_ai/meta-llama/Llama-3.2-3B-Instruct-Turbo",
    "gemini": "gemini/gemini-2.0-flash",
    "mistral": "mistral/mistral-small-latest",
    "cohere": "command-r-08-2024",
}
PREFIXES = {prefix: row for row in TABLE for prefix in row.prefixes}
# Models of OpenAI that refuse a temperature; platform.openai.com/docs/guides/reasoning
NO_TEMPERATURE = re.compile(r"(?:o\d|gpt-5)")
OLLAMA_PORT = 11434
AZURE_VERSION = "2024-10-21"  # the last stable api-version with a date


def row_of(model: str) -> tuple[Row, str]:
    """The row of a model's name, and the name without its prefix. Raises NotFoundError."""
    prefix, slash, rest = model.partition("/")
    if MODEL.fullmatch(model):
        if slash and rest and prefix in PREFIXES:
            return PREFIXES[prefix], rest
        for row in TABLE:
            if row.bare and not slash and re.match(row.bare, model):
                return row, model
    raise NotFoundError(
        "The model is not known: name its provider, as in groq/NAME.", param="model"
    )


def detect(model: str) -> str:
    """The provider's name. Raises NotFoundError."""
    return row_of(model)[0].name


def first_set(names: tuple[str, ...], environ: Mapping[str, str]) -> str | None:
    """The value of the first variable that is set and not empty."""
    return next((environ[name] for name in names if environ.get(name)), None)


def ollama_base(value: str) -> str:
    """What OLLAMA_HOST or OLLAMA_API_BASE means: ``gpu``, ``gpu:11434`` or an address.

    Source   docs.ollama.com/faq; there, as the server reads it, 0.0.0.0 is every address.
    """
    try:
        url = urlsplit(value if "://" in value else f"http://{value}")
        port = url.port
    except ValueError as exc:
        raise AuthError("No address for ollama: OLLAMA_HOST is none.", provider="ollama") from exc
    host = "127.0.0.1" if url.hostname in (None, "0.0.0.0", "::") else url.hostname
    port = port or (443 if url.scheme == "https" else 80 if "://" in value else OLLAMA_PORT)
    name = f"[{host}]" if ":" in host else host
    return f"{url.scheme}://{name}:{port}{url.path.rstrip('/') or '/v1'}"


def resolve(
    model: str,
    environ: Mapping[str, str],
    *,
    api_base: str | None = None,
    api_key_env: str | None = None,
) -> Deployment:
    """Where a model is. ``api_base`` and ``api_key_env`` are a config's own words and win.

    Raises NotFoundError for an unknown name, AuthError with the variable's name when its key is
    missing.
    """
    row, name = row_of(model)
    names = (api_key_env,) if api_key_env else row.keys
    key = first_set(names, environ)
    own_server = api_base is not None and api_key_env is None  # a local server may need no key
    if key is None and names and not own_server:
        raise AuthError(f"No key for {row.name}: {names[0]} is not set.", provider=row.name)
    base = api_base or first_set(row.bases, environ) or row.base
    if row.name == "ollama" and base and not api_base:
        base = ollama_base(base)
    if row.own and base is None:
        raise AuthError(f"No address for {row.name}: {row.bases[0]} is not set.", provider=row.name)
    version = environ.get("AZURE_OPENAI_API_VERSION") or AZURE_VERSION
    return Deployment(
        row.name,
        name,
        base,
        key,
        name=model,
        via=row.via,
        include_usage=row.stream_options,
        default_temperature=None if NO_TEMPERATURE.match(name.rpartition("/")[2]) else TEMPERATURE,
        options=(("api_version", version),) if row.name == "azure" else (),
    )


def configured(environ: Mapping[str, str]) -> list[str]:
    """The providers whose key, or own address, the environment has."""
    return [row.name for row in TABLE if first_set((*row.keys, *row.bases), environ)]
