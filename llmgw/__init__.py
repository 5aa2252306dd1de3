"""Pure-ASGI layers for traffic to large language models, and a gateway built from them."""

from llmgw.asgi import ASGIApp, Message, Receive, Scope, Send
from llmgw.body import Body, read_body
from llmgw.exchange import Attempt, Deployment, Exchange
from llmgw.stack import Layer, Place, describe, layer, stack

__version__ = "0.1.0"

__all__ = [
    "ASGIApp",
    "Attempt",
    "Body",
    "Deployment",
    "Exchange",
    "Layer",
    "Message",
    "Place",
    "Receive",
    "Scope",
    "Send",
    "describe",
    "layer",
    "read_body",
    "stack",
]
