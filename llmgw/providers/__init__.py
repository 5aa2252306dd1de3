"""The way out to a model, and the Python API.

Importing this package imports no provider's library; ``LLMGatewayProvider`` loads what a call
needs.
"""

from llmgw.errors import (
    AuthError,
    GatewayError,
    InvalidRequestError,
    NotFoundError,
    OverloadedError,
    PermissionDeniedError,
    ProviderUnavailableError,
    RateLimitError,
    TimeoutError,
)
from llmgw.exchange import Deployment, Usage
from llmgw.providers.gateway import LLMGatewayProvider
from llmgw.wire import CompletionChunk, CompletionRequest

__all__ = [
    "AuthError",
    "CompletionChunk",
    "CompletionRequest",
    "Deployment",
    "GatewayError",
    "InvalidRequestError",
    "LLMGatewayProvider",
    "NotFoundError",
    "OverloadedError",
    "PermissionDeniedError",
    "ProviderUnavailableError",
    "RateLimitError",
    "TimeoutError",
    "Usage",
]
