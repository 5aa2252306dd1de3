"""OpenAI's wire: what a chat request must look like, and the few facts a layer needs of an answer.

A request's top level is decoded as ``dict[str, Raw]``, so that what is not ours goes through
untouched; the fields we know are checked once beside it. Answers are never rebuilt: an ``Event`` is
one JSON text with facts about it. The decode-only shapes are msgspec Structs, twice as fast as
attrs classes there.

Source   platform.openai.com/docs/api-reference/chat; defaults and bounds: the seed's table.
"""

from __future__ import annotations

import math
import re
from collections.abc import Container, Mapping, Sequence
from typing import Annotated, Any

import attrs
import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from llmgw.errors import InvalidRequestError
from llmgw.exchange import Deployment, Usage

TEMPERATURE = 0.7  # the seed's default
MODEL = re.compile(r"(?!.*://)[\w.:@/-]{1,200}", re.ASCII)  # a model name must not be an address
MESSAGES, CHOICES = 10_000, 128  # bounds of one request; the second is OpenAI's
PATH = re.compile(r"(?P<text>.*?)(?: - at `\$\.?(?P<path>.*)`)?$", re.DOTALL)
MISSING = re.compile(r"Object missing required field `(\w+)`")
SILENT = re.compile(rb'null|""|\[\s*\]|\{\s*\}')  # values of a delta that say nothing
NULL = b"null"
QUOTE, NOTHING = ord(b'"'), b"?"  # how a content begins that is a string, or missing

DONE = b"[DONE]"


class StreamOptions(Struct):
    """What we read of ``stream_options``."""

    include_usage: bool | None = None


class MessageShape(Struct):
    """What is checked of one message; the rest is the provider's matter."""

    role: Annotated[str, Meta(min_length=1, max_length=64)]
    content: Raw = Raw(NOTHING)
    tool_calls: Raw = Raw()
    function_call: Raw = Raw()
    audio: Raw = Raw()
    refusal: Raw = Raw()


class PartShape(Struct):
    """What is checked of one part of a message's content."""

    type: str


class RequestShape(Struct):
    """What is checked of a request."""

    model: Annotated[str, Meta(min_length=1, max_length=200)]
    messages: Annotated[list[MessageShape], Meta(min_length=1, max_length=MESSAGES)]
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    max_tokens: Annotated[int, Meta(ge=1)] | None = None
    stream: bool | None = None
    user: str | None = None
    n: Annotated[int, Meta(ge=1, le=CHOICES)] | None = None
    stream_options: StreamOptions | None = None


_request = msgspec.json.Decoder(RequestShape)
_fields = msgspec.json.Decoder(dict[str, Raw])
_options = msgspec.json.Decoder(dict[str, Raw] | None)
_parts = msgspec.json.Decoder(list[PartShape])


class Call(Struct, frozen=True, eq=False):
    """A checked request: ``fields`` as they came (JSON texts), and what was read of them."""

    fields: dict[str, Raw]
    model: str
    stream: bool = False
    include_usage: bool = False  # the client asked for the usage event
    temperature: float | None = None
    max_tokens: int | None = None
    choices: int = 1
    size: int = 0  # bytes of the messages
    options: dict[str, Raw] = {}  # the client's stream_options

    def forget(self) -> None:
        """Drop the fields, and with them the bytes of the request: it will not be sent again."""
        self.fields.clear()
        self.options.clear()

    def encode(self, deployment: Deployment) -> bytes:
        """The body for a deployment.

        It is the client's, but for ``model``, ``stream_options`` and a default temperature.
        """
        return msgspec.json.encode(self.fields_for(deployment))

    def fields_for(self, deployment: Deployment) -> dict[str, Any]:
        """The top-level fields for a deployment; messages are never rebuilt."""
        fields: dict[str, Any] = {**self.fields, "model": deployment.model}
        if self.temperature is None:
            fields.pop("temperature", None)
            if deployment.default_temperature is not None:
                fields["temperature"] = deployment.default_temperature
        if self.stream and deployment.include_usage and not self.include_usage:
            fields["stream_options"] = {**self.options, "include_usage": True}
        if not self.stream or not deployment.include_usage:
            fields.pop("stream_options", None)  # OpenAI refuses it without stream
        return fields


def fault_of(error: msgspec.ValidationError) -> tuple[str, str]:
    """What is wrong, and the path of the field, "" where it is the whole."""
    match = PATH.fullmatch(str(error))
    return (match["text"], match["path"] or "") if match else (str(error), "")


def invalid(error: Exception) -> InvalidRequestError:
    """A msgspec error as ours, with the path of the field."""
    if not isinstance(error, msgspec.ValidationError):
        return InvalidRequestError("The request body is not valid JSON.", code="invalid_json")
    text, path = fault_of(error)
    if missing := MISSING.fullmatch(text):
        path = f"{path}.{missing[1]}" if path else missing[1]
        text = f"The required field {missing[1]!r} is missing"
    at = f" at {path!r}" if path else ""
    return InvalidRequestError(f"Invalid request{at}: {text}.", param=path or None)


def check_message(number: int, message: MessageShape) -> None:
    """Raise InvalidRequestError when a message whose content is no string has no usable one."""
    path = f"messages[{number}].content"
    first = bytes(memoryview(message.content)[:1])  # a view: content may be megabytes
    if first == b"[":
        try:
            _parts.decode(message.content)
        except msgspec.ValidationError as exc:
            found = invalid(exc)
            at = f"{path}{found.param or ''}"
            text = f"Invalid request at {at!r}: each part is an object with a type."
            raise InvalidRequestError(text, param=at) from exc
        return
    instead = (message.tool_calls, message.function_call, message.audio, message.refusal)
    if first in (NOTHING, b"n") and any(bytes(other) not in (b"", NULL) for other in instead):
        return
    if first == NOTHING:
        text = f"Invalid request at {path!r}: the required field is missing."
        raise InvalidRequestError(text, param=path)
    if first == b"n" and message.role in ("assistant", "function"):
        return
    text = f"Invalid request at {path!r}: must be a string or an array of parts."
    raise InvalidRequestError(text, param=path)


def read_call(data: bytes) -> Call:
    """A request body, checked. Raises InvalidRequestError with the path of the field at fault."""
    try:
        data.decode()  # once, here: msgspec does not look into the strings it skips
        shape = _request.decode(data)
        fields = _fields.decode(data)
        options = _options.decode(fields["stream_options"]) if shape.stream_options else None
        for number, message in enumerate(shape.messages):
            if memoryview(message.content)[0] != QUOTE:
                check_message(number, message)
    except UnicodeDecodeError as exc:
        text = "The request body is not valid UTF-8."
        raise InvalidRequestError(text, code="invalid_json") from exc
    except RecursionError as exc:
        text = "The request body is nested too deeply."
        raise InvalidRequestError(text, code="invalid_json") from exc
    except msgspec.DecodeError as exc:
        raise invalid(exc) from exc
    if not MODEL.fullmatch(shape.model):
        raise InvalidRequestError("Invalid request at 'model': not a model name.", param="model")
    return Call(
        fields=fields,
        model=shape.model,
        stream=bool(shape.stream),
        include_usage=bool(shape.stream_options and shape.stream_options.include_usage),
        temperature=shape.temperature,
        max_tokens=shape.max_tokens,
        choices=shape.n or 1,
        size=memoryview(fields["messages"]).nbytes,
        options=options or {},
    )


@attrs.define(kw_only=True)
class CompletionRequest:
    """A chat request of the Python API.

    ``messages`` are OpenAI's dicts; ``temperature`` in [0.0, 2.0], where the default is not sent to
    models that refuse one; ``max_tokens`` None leaves it to the provider; ``extra`` carries every
    other parameter of OpenAI's API or of a vendor's (``tools``, ``seed``), never one of these
    again. Raises InvalidRequestError, with the field's path, when it is built.
    """

    model: str
    messages: Sequence[Mapping[str, Any]]
    temperature: float | None = TEMPERATURE
    max_tokens: int | None = None
    stream: bool = False
    user: str | None = None
    extra: Mapping[str, Any] = attrs.field(factory=dict[str, Any])
    call: Call = attrs.field(init=False, repr=False, eq=False)

    def __attrs_post_init__(self) -> None:
        """Check by the rules of the HTTP API: they are the same."""
        # The default is left to the deployment: o1 takes no temperature
        temperature = None if self.temperature == TEMPERATURE else self.temperature
        known = {"model": self.model, "messages": self.messages, "temperature": temperature}
        rest = {"max_tokens": self.max_tokens, "stream": self.stream, "user": self.user}
        if twice := [name for name in (*known, *rest) if name in self.extra]:
            text = f"Invalid request at 'extra.{twice[0]}': it has a field of its own."
            raise InvalidRequestError(text, param=f"extra.{twice[0]}")
        if isinstance(self.temperature, float) and not math.isfinite(self.temperature):
            text = "Invalid request at 'temperature': not a finite number."
            raise InvalidRequestError(text, param="temperature")
        told = {
            name: value for name, value in rest.items() if value is not None and value is not False
        }
        fields = {**self.extra, **known, **told}
        if self.stream:  # who iterates in Python reads ``chunk.usage`` without asking for it first
            fields.setdefault("stream_options", {"include_usage": True})
        try:
            data = msgspec.json.encode(fields)
        except (TypeError, ValueError, OverflowError, RecursionError) as exc:
            text = f"The request cannot be written as JSON: {type(exc).__name__}."
            raise InvalidRequestError(text) from exc
        self.call = read_call(data)


@attrs.frozen
class CompletionChunk:
    """One part of an answer, or all of it: ``raw`` is the whole decoded JSON.

    ``content`` is the text of the first choice ("" where the chunk has none).
    """

    id: str | None
    model: str | None
    content: str
    finish_reason: str | None
    usage: Usage | None
    raw: Mapping[str, Any] = attrs.field(repr=False)


class DetailsShape(Struct):
    """What is read of the details of a usage object: numbers, if they are any."""

    cached_tokens: object = None
    reasoning_tokens: object = None


class UsageShape(Struct):
    """OpenAI's usage object, as far as it is read."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None
    prompt_tokens_details: DetailsShape | None = None
    completion_tokens_details: DetailsShape | None = None


class ChoiceShape(Struct):
    """One choice of a chunk (``delta``) or of a whole answer (``message``)."""

    index: int = 0
    delta: dict[str, Raw] | None = None
    message: dict[str, Raw] | None = None
    finish_reason: str | None = None


class AnswerShape(Struct):
    """A chunk or a whole answer."""

    choices: list[ChoiceShape] | UnsetType | None = UNSET
    id: str | None = None
    model: str | None = None
    usage: UsageShape | None = None
    error: Raw | UnsetType = UNSET


_answer = msgspec.json.Decoder(AnswerShape)


class Event(Struct, frozen=True):
    """One JSON text of an answer, and the facts about it.

    ``content``: it begins the answer (a delta member other than ``role`` that says something, or a
    finish reason; an empty finish reason is none). ``choices``: index -> finish reason or None;
    ``finished``: one of them has a reason. ``error``: an in-band error's JSON.
    """

    data: bytes
    content: bool
    choices: dict[int, str | None]
    id: str | None = None
    model: str | None = None
    usage: Usage | None = None
    error: bytes | None = None
    finished: bool = False


def tokens(value: object) -> int:
    """A number of tokens, 0 for what is none: counters never go back."""
    return value if type(value) is int and value > 0 else 0


def read_usage(shape: UsageShape) -> Usage:
    """OpenAI's usage object as ours."""
    prompt, completion = shape.prompt_tokens or 0, shape.completion_tokens or 0
    total = shape.total_tokens or 0
    if prompt < 0 or completion < 0 or total <= 0:
        prompt, completion = tokens(prompt), tokens(completion)
        total = tokens(total) or prompt + completion
    sent, said = shape.prompt_tokens_details, shape.completion_tokens_details
    cached = tokens(sent.cached_tokens) if sent is not None and sent.cached_tokens else 0
    reasoning = tokens(said.reasoning_tokens) if said is not None and said.reasoning_tokens else 0
    return Usage(prompt, completion, total, cached, reasoning)


def speaks(said: dict[str, Raw] | None) -> bool:
    """Whether a delta has a member other than ``role`` that is neither null nor empty."""
    if said is not None:
        for key, raw in said.items():
            if key != "role" and SILENT.fullmatch(raw) is None:
                return True
    return False


def read_answer(data: bytes) -> AnswerShape:
    """The shape of an answer. Raises msgspec.DecodeError, whatever is wrong with it."""
    try:
        return _answer.decode(data)
    except UnicodeDecodeError as exc:
        raise msgspec.DecodeError("the answer is not valid UTF-8") from exc
    except RecursionError as exc:
        raise msgspec.DecodeError("the answer is nested too deeply") from exc


def read_event(data: bytes) -> Event:
    """The facts of a chunk or a whole answer. Raises msgspec.DecodeError when it is neither."""
    shape = read_answer(data)
    if shape.error is not UNSET and (error := bytes(shape.error)) != NULL:
        return Event(data, False, {}, error=error)
    if shape.choices is UNSET or shape.choices is None:
        if shape.usage is None:
            raise msgspec.ValidationError("Object missing required field `choices`")
        return Event(data, False, {}, shape.id, shape.model, read_usage(shape.usage))
    content = finished = False
    choices: dict[int, str | None] = {}
    for choice in shape.choices:
        reason = choices[choice.index] = choice.finish_reason or None
        finished = finished or reason is not None
        content = content or finished or speaks(choice.delta or choice.message)
    usage = None if shape.usage is None else read_usage(shape.usage)
    return Event(data, content, choices, shape.id, shape.model, usage, finished=finished)


def read_word(data: bytes, known: Container[int]) -> bool | None:
    """Whether a chunk of the choices ``known`` says something; None for any that does more.

    Most chunks are a further word. For one that finishes a choice, tells the usage, is malformed,
    there is read_event, which takes 1 us longer.
    """
    try:
        shape = _answer.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if not shape.choices or shape.usage is not None or shape.error is not UNSET:
        return None
    said = False
    for choice in shape.choices:
        if choice.finish_reason or choice.index not in known:
            return None
        said = said or speaks(choice.delta or choice.message)
    return said


def read_chunk(data: bytes) -> CompletionChunk:
    """One event of an answer as the Python API gives it. Raises msgspec.DecodeError."""
    shape = read_answer(data)
    try:
        raw: dict[str, Any] = msgspec.json.decode(data)
    except (UnicodeDecodeError, RecursionError) as exc:
        raise msgspec.DecodeError("the answer cannot be decoded") from exc
    choices: list[dict[str, Any]] = raw.get("choices") or []
    first = next((one for one in choices if not one.get("index")), dict[str, Any]())
    said: dict[str, Any] = first.get("delta") or first.get("message") or {}
    content = said.get("content")
    return CompletionChunk(
        id=shape.id,
        model=shape.model,
        content=content if isinstance(content, str) else "",
        finish_reason=first.get("finish_reason") or None,
        usage=None if shape.usage is None else read_usage(shape.usage),
        raw=raw,
    )
