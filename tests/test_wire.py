"""wire: every bad request is a 400 with its path, and nothing that is not ours is changed."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgw.errors import InvalidRequestError
from llmgw.exchange import Deployment, Usage
from llmgw.wire import Call, CompletionRequest, Event, read_call, read_chunk, read_event

HERE = Deployment("here", "real-model")
HI = [{"role": "user", "content": "hi"}]
BASE: dict[str, Any] = {"model": "m", "messages": HI}
DEEP = 500_000

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=10,
)
KEYS = ["model", "messages", "temperature", "max_tokens", "stream", "user", "n", "stream_options"]
MESSAGE = st.fixed_dictionaries({}, optional={"role": JSON, "content": JSON, "tool_calls": JSON})
LIKELY = st.fixed_dictionaries(
    {"model": st.just("m") | JSON, "messages": st.just(HI) | st.lists(MESSAGE, max_size=3) | JSON},
    optional=dict.fromkeys(KEYS[2:], JSON),
)


def body(**changes: object) -> bytes:
    """A good request, but for the changes."""
    return json.dumps({**BASE, **changes}).encode()


def with_text(field: str) -> bytes:
    """A good request with one more field, given as JSON text."""
    return body()[:-1] + b", " + field.encode() + b"}"


def message(**fields: object) -> bytes:
    """A request of a good message and this one."""
    return body(messages=[*HI, fields])


def part(*parts: object) -> bytes:
    """A request of one message with these parts."""
    return body(messages=[{"role": "user", "content": parts}])


BAD = [
    pytest.param(b"", None, id="empty"),
    pytest.param(b"not json", None, id="no-json"),
    pytest.param(body()[:-1], None, id="half"),
    pytest.param(body() + b"{}", None, id="two"),
    pytest.param(b"[]", None, id="array"),
    pytest.param(b"null", None, id="null"),
    pytest.param(b'"text"', None, id="string"),
    pytest.param(b'{"messages": [{"role": "user", "content": "x"}]}', "model", id="no-model"),
    pytest.param(b'{"model": "m"}', "messages", id="no-messages"),
    pytest.param(body(messages=[]), "messages", id="empty-messages"),
    pytest.param(body(messages=None), "messages", id="null-messages"),
    pytest.param(body(messages="hi"), "messages", id="text-messages"),
    pytest.param(body(messages={"role": "user"}), "messages", id="object-messages"),
    pytest.param(body(messages=["hi"]), "messages[0]", id="text-message"),
    pytest.param(body(messages=[{"content": "x"}]), "messages[0].role", id="no-role"),
    pytest.param(message(role=5, content="x"), "messages[1].role", id="number-role"),
    pytest.param(message(role=None, content="x"), "messages[1].role", id="null-role"),
    pytest.param(message(role="", content="x"), "messages[1].role", id="empty-role"),
    pytest.param(message(role="user"), "messages[1].content", id="no-content"),
    pytest.param(message(role="user", content=None), "messages[1].content", id="null-content"),
    pytest.param(message(role="user", content=5), "messages[1].content", id="number-content"),
    pytest.param(message(role="user", content={}), "messages[1].content", id="object-content"),
    pytest.param(message(role="assistant"), "messages[1].content", id="assistant-without"),
    pytest.param(
        message(role="assistant", tool_calls=None), "messages[1].content", id="null-tool-calls"
    ),
    pytest.param(part({}), "messages[0].content[0].type", id="part-without-type"),
    pytest.param(part({"type": "text"}, 3), "messages[0].content[1]", id="number-part"),
    pytest.param(part({"type": 3}), "messages[0].content[0].type", id="number-type"),
    pytest.param(body(temperature=3), "temperature", id="hot"),
    pytest.param(body(temperature=-0.1), "temperature", id="cold"),
    pytest.param(body(temperature="1"), "temperature", id="text-temperature"),
    pytest.param(body(temperature=True), "temperature", id="bool-temperature"),
    pytest.param(with_text('"temperature": 1e400'), "temperature", id="infinite"),
    pytest.param(with_text(f'"temperature": {"9" * 6000}'), "temperature", id="huge"),
    pytest.param(body(max_tokens=0), "max_tokens", id="no-tokens"),
    pytest.param(body(max_tokens=1.5), "max_tokens", id="part-of-a-token"),
    pytest.param(with_text(f'"max_tokens": {"9" * 6000}'), "max_tokens", id="huge-tokens"),
    pytest.param(body(stream="yes"), "stream", id="text-stream"),
    pytest.param(body(stream=1), "stream", id="number-stream"),
    pytest.param(body(user=5), "user", id="number-user"),
    pytest.param(body(n=0), "n", id="n-0"),
    pytest.param(body(n=129), "n", id="n-129"),
    pytest.param(body(stream_options=[]), "stream_options", id="array-options"),
    pytest.param(
        body(stream_options={"include_usage": 1}), "stream_options.include_usage", id="option"
    ),
    *(
        pytest.param(body(model=name), "model", id=f"model-{number}")
        for number, name in enumerate(
            [
                "",
                "a" * 201,
                "huggingface/http://x",
                "http://x/v1",
                "a b",
                "a\n",
                "é",
                5,
                None,
                "a?b",
            ]
        )
    ),
    pytest.param(with_text('"x": ' + "[" * DEEP + "]" * DEEP), None, id="deep-unknown"),
    pytest.param(with_text('"x": ' + '{"a":' * DEEP), None, id="deep-objects"),
    pytest.param(b"[" * DEEP, None, id="deep-top"),
    pytest.param(with_text('"messages": ' + "[" * DEEP), "messages[0]", id="deep-messages"),
    pytest.param(with_text('"messages": [{"a":' + "[" * DEEP), None, id="deep-message"),
    pytest.param(with_text('"temperature": ' + "[" * DEEP), "temperature", id="deep-known"),
    pytest.param(with_text('"stream_options": {"a":' + "[" * DEEP), None, id="deep-options"),
    pytest.param(body().replace(b"hi", b"\xff\xfe"), None, id="bad-utf8"),
    pytest.param(body().replace(b"hi", b"\xed\xa0\x80"), None, id="utf8-surrogate"),
    pytest.param(b"\xef\xbb\xbf" + body(), None, id="bom"),
    pytest.param(body().decode().encode("utf-16"), None, id="utf-16"),
    pytest.param(with_text('"x": NaN'), None, id="nan"),
    pytest.param(with_text('"temperature": NaN'), None, id="nan-temperature"),
    pytest.param(with_text('"x": [Infinity, -Infinity]'), None, id="infinity"),
    pytest.param(with_text('"x": "\\ud800"'), None, id="lone-surrogate"),
    pytest.param(with_text('"user": "\\ude00"'), None, id="lone-low-surrogate"),
    pytest.param(body(messages=[{"role": "user", "content": "\ud800"}]), None, id="in-content"),
    pytest.param(with_text('"x": "\\q"'), None, id="bad-escape"),
    pytest.param(with_text('"x": "a\nb"'), None, id="raw-line-break"),
    pytest.param(with_text('"x": 01'), None, id="octal"),
    pytest.param(with_text('"model": 5'), "model", id="second-model"),
]


@pytest.mark.parametrize(("data", "param"), BAD)
def test_bad_requests_are_400_with_the_path(data: bytes, param: str | None) -> None:
    """Each gives OpenAI's 400 and names the field at fault, where there is one."""
    with pytest.raises(InvalidRequestError) as caught:
        read_call(data)
    error = caught.value
    assert (error.status, error.type) == (400, "invalid_request_error")
    assert error.param == param
    assert len(error.message) < 300
    msgspec.json.decode(error.body())


def check_total(data: bytes) -> None:
    """Only a Call or InvalidRequestError comes out, and the Call encodes to what it came from."""
    try:
        call = read_call(data)
    except InvalidRequestError as exc:
        exc.body()
        return
    assert isinstance(call, Call)
    sent = msgspec.json.decode(call.encode(HERE), type=dict[str, msgspec.Raw])
    assert bytes(sent["messages"]) == bytes(call.fields["messages"])


@given(st.binary(max_size=50))
def test_any_bytes_are_a_call_or_a_400(data: bytes) -> None:
    """No bytes make read_call fail in any other way."""
    check_total(data)
    check_total(b'{"model":"m","messages":[{"role":"user","content":' + data + b"}]}")
    check_total(body()[:-1] + b"," + data + b"}")


@given(JSON | LIKELY)
def test_any_json_is_a_call_or_a_400(value: object) -> None:
    """No JSON does either; NaN, Infinity and lone surrogates included."""
    check_total(json.dumps(value).encode())


@pytest.mark.parametrize("name", ["m", "openai/gpt-4o", "a:b@c", "ft:gpt-4o:org::id", "x" * 200])
def test_model_names(name: str) -> None:
    """Names as providers spell them are fine."""
    assert read_call(body(model=name)).model == name


def test_what_is_read_of_a_request() -> None:
    """The facts that layers need."""
    options = {"include_usage": True}
    call = read_call(
        body(stream=True, temperature=1, max_tokens=5, n=2, stream_options=options, user="u")
    )
    assert (call.stream, call.include_usage, call.temperature) == (True, True, 1.0)
    assert (call.max_tokens, call.choices) == (5, 2)


def test_explicit_null_equals_absent() -> None:
    """A null of an optional field is no error and means the default."""
    nulls = dict.fromkeys(KEYS[2:])
    call, plain = read_call(body(**nulls)), read_call(body())
    for name in ("model", "stream", "include_usage", "temperature", "max_tokens", "choices"):
        assert getattr(call, name) == getattr(plain, name)
    assert msgspec.json.decode(call.encode(HERE))["temperature"] == 0.7


@pytest.mark.parametrize(
    "fields",
    [
        {"role": "assistant", "tool_calls": [{"id": "1"}]},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]},
        {"role": "assistant", "content": None},
        {"role": "assistant", "refusal": "no"},
        {"role": "assistant", "audio": {"id": "a"}},
        {"role": "assistant", "function_call": {"name": "f"}, "content": None},
        {"role": "tool", "content": "4", "tool_call_id": "1"},
        {"role": "user", "content": ""},
        {"role": "user", "content": []},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]},
        {"role": "a-new-role", "content": "x", "name": "n"},
    ],
)
def test_messages_that_openai_takes(fields: dict[str, object]) -> None:
    """Content may be missing where something else speaks; parts and roles are not judged."""
    assert read_call(message(**fields)).model == "m"


def test_what_is_not_ours_goes_through_byte_for_byte() -> None:
    """Messages and unknown fields keep their spelling: spaces, escapes, number forms, order."""
    messages = r'[ {"role":"user" , "content":"\u00e9 \ud83d\ude00 <\/b>", "x": 1.50, "x": 2E+3} ]'
    tools = '[{"type":"function", "function": {"b": 1, "a": [ ]}}]'
    big = "9" * 6000
    data = f'{{"model":"m","messages": {messages},"tools":{tools},"seed":{big}}}'.encode()
    sent = msgspec.json.decode(read_call(data).encode(HERE), type=dict[str, msgspec.Raw])
    assert bytes(sent["messages"]) == messages.encode()
    assert bytes(sent["tools"]) == tools.encode()
    assert bytes(sent["seed"]) == big.encode()
    assert bytes(sent["model"]) == b'"real-model"'


def test_what_was_checked_is_what_is_sent() -> None:
    """Of a key given twice, or spelt with escapes, the last is checked, and it alone is sent."""
    call = read_call(with_text('"model": "second", "temperatur\\u0065": 1.5'))
    assert (call.model, call.temperature) == ("second", 1.5)
    sent = call.encode(HERE)
    assert sent.count(b'"model"') == 1
    assert msgspec.json.decode(sent)["temperature"] == 1.5


@pytest.mark.parametrize(
    ("given_", "default", "sent"),
    [(None, 0.7, 0.7), (None, None, None), (0, 0.7, 0), (1.5, 0.7, 1.5), (1.5, None, 1.5)],
)
def test_default_temperature(
    given_: float | None, default: float | None, sent: float | None
) -> None:
    """The deployment's default goes out only where the client names none."""
    place = Deployment("here", "m", default_temperature=default)
    fields = msgspec.json.decode(read_call(body(temperature=given_)).encode(place))
    assert fields.get("temperature") == sent
    assert ("temperature" in fields) == (sent is not None)


@pytest.mark.parametrize(
    ("stream", "options", "understood", "sent"),
    [
        (True, None, True, {"include_usage": True}),
        (True, None, False, None),
        (True, {}, True, {"include_usage": True}),
        (True, {"x": 1, "include_usage": False}, True, {"x": 1, "include_usage": True}),
        (True, {"x": 1, "include_usage": False}, False, None),
        (True, {"x": 1, "include_usage": True}, True, {"x": 1, "include_usage": True}),
        (True, {"include_usage": True}, False, None),
        (False, {"include_usage": True}, True, None),
        (False, None, True, None),
    ],
)
def test_stream_options(
    stream: bool, options: object, understood: bool, sent: dict[str, object] | None
) -> None:
    """Usage is asked for where options are understood; the client's others stay, there."""
    place = Deployment("here", "m", include_usage=understood)
    call = read_call(body(stream=stream, stream_options=options))
    fields = msgspec.json.decode(call.encode(place))
    assert fields.get("stream_options") == sent


def test_encoding_needs_no_deeper_stack_than_reading() -> None:
    """Options that were nested just not too deeply to be read can also be sent."""

    def encode_below(call: Call, frames: int) -> bytes:
        return encode_below(call, frames - 1) if frames else call.encode(HERE)

    accepted = 0
    for depth in range(1000, 100, -50):
        try:
            nested = '{"a":' + "[" * depth + "]" * depth + "}"
            call = read_call(with_text(f'"stream": true, "stream_options": {nested}'))
        except InvalidRequestError:
            continue
        accepted += 1
        assert b"include_usage" in encode_below(call, 100)
        break
    assert accepted


def test_a_call_does_not_change() -> None:
    """Encoding for one deployment leaves nothing behind for the next."""
    call = read_call(body(stream=True))
    first = call.encode(HERE)
    assert call.encode(Deployment("other", "o", default_temperature=None)) != first
    assert call.encode(HERE) == first


def test_completion_request_says_the_same_as_http() -> None:
    """The defaults are the table's; extra goes through; absent is absent."""
    request = CompletionRequest(
        model="m", messages=HI, extra={"seed": 7, "tools": [{"x": 1}], "n": 2}
    )
    assert (request.temperature, request.max_tokens, request.stream) == (0.7, None, False)
    sent = msgspec.json.decode(request.call.encode(HERE))
    want = {"seed": 7, "tools": [{"x": 1}], "n": 2, "temperature": 0.7}
    assert sent == {**want, "model": "real-model", "messages": HI}
    assert request.call.choices == 2


def test_completion_request_fields_go_out() -> None:
    """Every field of the class arrives under its name."""
    request = CompletionRequest(
        model="m", messages=HI, temperature=0, max_tokens=9, stream=True, user="u"
    )
    sent = msgspec.json.decode(request.call.fields_for(HERE)["messages"])
    assert sent == HI
    call = request.call
    assert (call.temperature, call.max_tokens, call.stream) == (0.0, 9, True)
    assert bytes(call.fields["user"]) == b'"u"'


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"model": ""}, "model"),
        ({"messages": []}, "messages"),
        ({"messages": None}, "messages"),
        ({"messages": [{"content": "x"}]}, "messages[0].role"),
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"temperature": float("inf")}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"stream": "yes"}, "stream"),
        ({"stream": 0}, "stream"),
        ({"user": 5}, "user"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, None),
        ({"extra": {"x": object()}}, None),
        ({"extra": {"x": {(1,): 1}}}, None),
        ({"extra": {"n": 0}}, "n"),
        *(({"extra": {name: 1}}, f"extra.{name}") for name in KEYS[:6]),
    ],
)
def test_bad_completion_requests(changes: dict[str, Any], param: str | None) -> None:
    """They fail when they are built, with the path; extra never stands for a field of its own."""
    with pytest.raises(InvalidRequestError) as caught:
        CompletionRequest(**{**BASE, **changes})
    assert caught.value.param == param


def test_an_endless_request_is_refused() -> None:
    """A value that holds itself is no JSON."""
    loop: list[object] = []
    loop.append(loop)
    with pytest.raises(InvalidRequestError, match="RecursionError"):
        CompletionRequest(model="m", messages=HI, extra={"x": loop})


def chunk(*choices: object, **rest: object) -> bytes:
    """A chunk of a stream."""
    return json.dumps({"id": "c1", "model": "r", "choices": choices, **rest}).encode()


def delta(reason: str | None = None, index: int = 0, **said: object) -> bytes:
    """A chunk with one choice."""
    return chunk({"index": index, "delta": said, "finish_reason": reason})


@pytest.mark.parametrize(
    ("data", "content"),
    [
        (delta(role="assistant"), False),
        (delta(role="assistant", content=""), False),
        (delta(content=None, tool_calls=[], audio={}), False),
        (b'{"choices":[{"delta":{"tool_calls":[ ],"audio":{ }}}]}', False),
        (delta(), False),
        (delta(""), False),
        (delta(content="x"), True),
        (delta(content=" "), True),
        (delta(role="assistant", content="x"), True),
        (delta(tool_calls=[{"index": 0}]), True),
        (delta(function_call={"name": "f"}), True),
        (delta(reasoning_content="hm"), True),
        (delta(reasoning="hm"), True),
        (delta(refusal="no"), True),
        (delta("stop"), True),
        (chunk({"index": 0, "delta": None, "finish_reason": "stop"}), True),
        (chunk({"index": 0, "message": {"role": "assistant", "content": "x"}}), True),
        (chunk({"index": 0}), False),
        (chunk(), False),
    ],
)
def test_what_begins_an_answer(data: bytes, content: bool) -> None:
    """Any delta member that says something but the role does, and a finish reason."""
    event = read_event(data)
    assert event.content is content
    assert event.data is data


def test_finish_reasons_by_choice() -> None:
    """Each choice has its own; an empty one, as some vendors send on every chunk, is none."""
    choices = [
        {"index": 1, "finish_reason": "stop"},
        {"index": 0},
        {"index": 2, "finish_reason": ""},
    ]
    event = read_event(chunk(*choices))
    assert event.choices == {1: "stop", 0: None, 2: None}
    assert (event.id, event.model, event.error) == ("c1", "r", None)


USAGE = {
    "prompt_tokens": 3,
    "completion_tokens": 4,
    "total_tokens": 7,
    "prompt_tokens_details": {"cached_tokens": 2, "audio_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 1},
}


@pytest.mark.parametrize(
    ("said", "usage"),
    [
        (None, None),
        (USAGE, Usage(3, 4, 7, 2, 1)),
        ({"prompt_tokens": 3, "completion_tokens": 4}, Usage(3, 4, 7)),
        ({"prompt_tokens": 3, "prompt_tokens_details": None}, Usage(3, 0, 3)),
        ({"prompt_tokens": -3, "total_tokens": -3}, Usage()),
        ({"prompt_tokens": 3, "prompt_tokens_details": {"cached_tokens": "2"}}, Usage(3, 0, 3)),
        ({"prompt_tokens": 3, "prompt_tokens_details": {"cached_tokens": True}}, Usage(3, 0, 3)),
    ],
)
def test_usage(said: object, usage: Usage | None) -> None:
    """What is missing counts 0, the total is the sum, and no count is negative."""
    assert read_event(chunk(usage=said)).usage == usage
    assert read_chunk(chunk(usage=said)).usage == usage


def test_usage_without_choices() -> None:
    """A usage event may leave choices out."""
    event = read_event(json.dumps({"usage": USAGE, "choices": None}).encode())
    assert (event.usage, event.choices, event.content) == (Usage(3, 4, 7, 2, 1), {}, False)


def test_azures_first_chunk() -> None:
    """Azure begins with filter results and no choices: neither content nor an error."""
    data = b'{"choices":[],"id":"","model":"","prompt_filter_results":[{"prompt_index":0}]}'
    event = read_event(data)
    assert (event.content, event.choices, event.error, event.usage) == (False, {}, None, None)


def test_in_band_error() -> None:
    """An error is one whatever stands beside it; null is none."""
    assert read_event(b'{"error": {"code": 429}}').error == b'{"code": 429}'
    assert read_event(b'{"error": "no", "choices": []}').error == b'"no"'
    assert read_event(b'{"error": null, "choices": []}').error is None


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b"<html>",
        b"[DONE]",
        b'{"choices": 1}',
        b'{"choices": [1]}',
        b'{"choices": [{"delta": []}]}',
        b'{"choices": [], "id": "\xff"}',
        b'{"choices": [], "x": ' + b"[" * DEEP,
    ],
)
def test_what_is_no_answer(data: bytes) -> None:
    """Everything else is a DecodeError, for both readers."""
    for read in (read_event, read_chunk):
        if read is read_chunk and data == b"{}":
            continue
        with pytest.raises(msgspec.DecodeError):
            read(data)


ANSWER = st.fixed_dictionaries(
    {},
    optional={
        "choices": JSON
        | st.lists(
            st.fixed_dictionaries(
                {}, optional={"index": JSON, "delta": JSON, "message": JSON, "finish_reason": JSON}
            ),
            max_size=3,
        ),
        "usage": JSON | st.fixed_dictionaries({"prompt_tokens_details": JSON}),
        "error": JSON,
    },
)


@given(st.binary(max_size=50) | (JSON | ANSWER).map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_an_event_or_a_decode_error(data: bytes) -> None:
    """Nothing that an upstream sends makes the readers fail in any other way."""
    for read in (read_event, read_chunk):
        try:
            found = read(data)
        except msgspec.DecodeError:
            continue
        assert not isinstance(found, Event) or found.data == data


def test_read_chunk() -> None:
    """The Python API's view: text and reason of the first choice, and all of it in raw."""
    found = read_chunk(chunk({"index": 1, "delta": {"content": "b"}}, {"delta": {"content": "a"}}))
    assert (found.id, found.model, found.content, found.finish_reason) == ("c1", "r", "a", None)
    assert len(found.raw["choices"]) == 2
    whole = read_chunk(
        chunk({"index": 0, "message": {"content": "all"}, "finish_reason": "stop"}, usage=USAGE)
    )
    assert (whole.content, whole.finish_reason) == ("all", "stop")
    assert whole.usage == Usage(3, 4, 7, 2, 1)
    assert read_chunk(delta(tool_calls=[{"index": 0}], content=None)).content == ""
    assert read_chunk(delta("")).finish_reason is None
    assert read_chunk(chunk()).content == ""
