"""Settings: one TOML file, ``.env`` and the environment, checked at once; what they mean.

Every key is in DESIGN's contract (docs/configuration.md); units are in the names. Secrets are named
by their environment variable, never written in the file.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, cast

import attrs
import cattrs
from attrs.validators import ge, gt, in_, le, matches_re, min_len, optional
from dotenv import dotenv_values

from llmgw.cooldown import FAILURES, FOR, RATE, WINDOW
from llmgw.errors import NotFoundError
from llmgw.exchange import Deployment
from llmgw.exporters import exporter_of
from llmgw.middlewares.loopback import is_loopback
from llmgw.providers import keys
from llmgw.providers.echo import read_options
from llmgw.routing import STRATEGIES

FILE = "llmgw.toml"
PREFIX, SEPARATOR = "LLMGW_", "__"
VALIDATED = re.compile(r"(?:Length of )?'(?P<name>\w+)' ")  # how attrs' validators begin
NOT_SETTINGS = frozenset({"LLMGW_CONFIG"})


class SettingsError(ValueError):
    """All that is wrong with the settings, a line each."""

    def __init__(self, errors: list[str]) -> None:
        super().__init__("\n".join(errors))
        self.errors = errors


@attrs.frozen(kw_only=True)
class Server:
    """Where the gateway listens."""

    host: str = "127.0.0.1"
    port: int = attrs.field(default=8000, validator=[ge(0), le(65535)])
    workers: int = attrs.field(default=1, validator=ge(1))
    insecure: bool = False  # listen beyond loopback without client keys
    drain_s: float = attrs.field(default=30, validator=ge(0))
    metrics: Literal["open", "key"] = "open"
    open_models: bool | None = None  # serve names outside the groups; None: on loopback only


@attrs.frozen(kw_only=True)
class Retry:
    """How often and when the same deployment is asked again."""

    attempts: int = attrs.field(default=3, validator=ge(1))  # a deployment
    attempts_total: int = attrs.field(default=6, validator=ge(1))  # over all deployments
    backoff_s: float = attrs.field(default=0.5, validator=ge(0))
    backoff_max_s: float = attrs.field(default=8, validator=ge(0))
    retry_after_max_s: float = attrs.field(default=10, validator=ge(0))
    budget: float = attrs.field(default=0.2, validator=ge(0))  # repeats a request, over all


@attrs.frozen(kw_only=True)
class Timeouts:
    """How long is waited, each clock for itself."""

    connect_s: float = attrs.field(default=5, validator=gt(0))
    first_token_s: float = attrs.field(default=30, validator=gt(0))
    failover_first_token_s: float = attrs.field(default=10, validator=gt(0))
    idle_s: float = attrs.field(default=15, validator=gt(0))
    answer_s: float = attrs.field(default=300, validator=gt(0))
    failover_first_byte_s: float = attrs.field(default=30, validator=gt(0))
    total_s: float = attrs.field(default=600, validator=gt(0))
    hold_s: float = attrs.field(default=10, validator=gt(0))
    heartbeat_s: float = attrs.field(default=10, validator=gt(0))
    body_s: float = attrs.field(default=30, validator=gt(0))
    send_s: float = attrs.field(default=30, validator=gt(0))


@attrs.frozen(kw_only=True)
class CooldownSettings:
    """When a deployment that keeps failing is left alone, and for how long."""

    failures: int = attrs.field(default=FAILURES, validator=ge(1))  # requests within the window
    failure_rate: float = attrs.field(default=RATE, validator=[gt(0), le(1)])  # of all of them
    window_s: float = attrs.field(default=WINDOW, validator=gt(0))
    for_s: float = attrs.field(default=FOR, validator=gt(0))


@attrs.frozen(kw_only=True)
class Limits:
    """Bounds on what comes in."""

    max_body_bytes: int = attrs.field(default=10 << 20, validator=gt(0))
    max_concurrent: int = attrs.field(default=1000, validator=gt(0))


@attrs.frozen(kw_only=True)
class DeploymentSettings:
    """One place that serves a group's model."""

    model: str
    api_base: str | None = None
    api_key_env: str | None = None
    via: str | None = attrs.field(
        default=None, validator=optional(in_(("openai", "litellm", "echo")))
    )
    weight: float = attrs.field(default=1, validator=gt(0))
    default_temperature: float | bool | None = None  # false: send none
    include_usage: bool = True  # the server understands stream_options
    options: dict[str, str | float] = attrs.field(factory=dict[str, str | float])


@attrs.frozen(kw_only=True)
class Model:
    """A model group."""

    name: str = attrs.field(validator=matches_re(r"[\w.:@/-]{1,200}"))
    deployments: list[DeploymentSettings] = attrs.field(validator=min_len(1))
    strategy: str = attrs.field(default="order", validator=in_(tuple(STRATEGIES)))
    fallbacks: list[str] = attrs.field(factory=list[str])  # other groups, in order
    limit_wait_s: float = attrs.field(default=0, validator=ge(0))  # before another is asked


def hexadecimal(_: object, attribute: attrs.Attribute[str], value: str) -> None:
    """Validate without repeating the value: it may be a key that stands in the wrong place."""
    if not re.fullmatch(r"[0-9a-f]{64}", value):
        text = f"'{attribute.name}' must be 64 hexadecimal digits, as `llmgw keys hash` prints them"
        raise ValueError(text)


@attrs.frozen(kw_only=True)
class Key:
    """A client's key, by its hash."""

    name: str = attrs.field(validator=min_len(1))
    sha256: str = attrs.field(validator=hexadecimal, repr=False)
    models: list[str] = attrs.field(factory=list[str])  # empty: all


@attrs.frozen(kw_only=True)
class Settings:
    """All of them."""

    server: Server = attrs.field(factory=Server)
    retry: Retry = attrs.field(factory=Retry)
    timeouts: Timeouts = attrs.field(factory=Timeouts)
    cooldown: CooldownSettings = attrs.field(factory=CooldownSettings)
    limits: Limits = attrs.field(factory=Limits)
    models: list[Model] = attrs.field(factory=list[Model])
    keys: list[Key] = attrs.field(factory=list[Key])

    @property
    def exposed(self) -> bool:
        """Whether the gateway can be reached from other machines."""
        return not is_loopback(self.server.host)


def converter() -> cattrs.Converter:
    """Strict: unknown keys are errors, and so is a text where a number is meant."""
    made = cattrs.Converter(forbid_extra_keys=True, detailed_validation=True)
    for kind in (bool, int, float, str):
        made.register_structure_hook(kind, strict(kind))
    made.register_structure_hook(float | bool | None, lambda value, _: value)
    made.register_structure_hook(str | float, lambda value, _: value)
    return made


def strict(kind: type) -> Any:
    """A hook that takes only ``kind`` (an int is a float too)."""

    def structure(value: Any, _: Any) -> Any:
        fits = isinstance(value, kind) or (kind is float and isinstance(value, int))
        if not fits or (isinstance(value, bool) and kind is not bool):
            raise ValueError(f"must be {kind.__name__}, not {value!r}")
        return kind(value)

    return structure


def given_by(environ: Mapping[str, str]) -> dict[str, str]:
    """What ``LLMGW_SERVER__PORT=8080`` and the like set: a text for each path (``server.port``)."""
    return {
        name.removeprefix(PREFIX).lower().replace(SEPARATOR, "."): text
        for name, text in environ.items()
        if name.startswith(PREFIX) and SEPARATOR in name and name not in NOT_SETTINGS
    }


def overlay(data: dict[str, Any], given: Mapping[str, str]) -> dict[str, Any]:
    """The file's data with what the environment gives laid over it."""
    for name, text in given.items():
        *path, last = name.split(".")
        table = data
        for step in path:
            inner = table.setdefault(step, {})
            table = inner if isinstance(inner, dict) else {}
        table[last] = literal(text)
    return data


def literal(text: str) -> Any:
    """A value of the environment as TOML would read it, else as text."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def messages_of(exc: BaseException, path: str = "") -> list[str]:
    """Every error in cattrs' group, each with the path of its key."""
    if isinstance(exc, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", exc)
        return [
            message
            for inner in group.exceptions
            for message in messages_of(inner, path + "".join(map(step_of, notes_of(inner))))
        ]
    if isinstance(exc, cattrs.ForbiddenExtraKeysError):
        return [f"{path}.{name}: unknown key".lstrip(".") for name in sorted(exc.extra_fields)]
    if isinstance(exc, KeyError):
        return [f"{path}: is missing".lstrip(".")]
    if isinstance(exc, TypeError):
        return [f"{path}: is no table or list".lstrip(".")]
    text = str(exc.args[0]) if exc.args else type(exc).__name__
    if validated := VALIDATED.match(text):  # attrs' validators run when the whole table is there
        path, text = f"{path}.{validated['name']}", text[validated.end() :].strip()
    return [f"{path}: {text}".lstrip(".")]


def notes_of(exc: BaseException) -> list[Any]:
    """cattrs' notes on an error: where in the data it is."""
    return getattr(exc, "__notes__", [])


def step_of(note: Any) -> str:
    """A note as one step of a path: ``.name`` or ``[0]``."""
    if isinstance(note, cattrs.IterableValidationNote):
        return f"[{note.index}]"
    return f".{note.name}" if isinstance(note, cattrs.AttributeValidationNote) else ""


def load(path: Path | None, environ: Mapping[str, str]) -> tuple[Settings, Mapping[str, str]]:
    """The settings, and the environment with ``.env`` below it. Raises SettingsError.

    The file is ``path``, else LLMGW_CONFIG, else ``llmgw.toml`` in the working directory if there
    is one.
    """
    dotenv = {name: value for name, value in dotenv_values(".env").items() if value is not None}
    environ = {**dotenv, **environ}
    named = path or (Path(environ["LLMGW_CONFIG"]) if environ.get("LLMGW_CONFIG") else None)
    file = named or Path(FILE)
    data: dict[str, Any] = {}
    if named or file.exists():
        try:
            data = tomllib.loads(file.read_text())
        except OSError as exc:
            raise SettingsError([f"{file}: {exc.strerror}"]) from exc
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
            raise SettingsError([f"{file}: {exc}"]) from exc
    given = given_by(environ)
    try:
        settings = converter().structure(overlay(data, given), Settings)
    except cattrs.BaseValidationError as exc:
        raise SettingsError(located(messages_of(exc), file, given)) from exc
    if wrong := contradictions(settings):
        raise SettingsError(located(wrong, file, given))
    try:
        exporter_of(environ)
    except ValueError as exc:
        raise SettingsError([str(exc)]) from exc
    return settings, environ


def located(errors: list[str], file: Path, given: Mapping[str, str]) -> list[str]:
    """The errors, with the file's name where it is not the environment that set the key."""
    found: list[str] = []
    for error in errors:
        path = error.partition(": ")[0]
        set_here = any(f"{name}.".startswith(f"{path}.") for name in given)
        found.append(error if set_here else f"{file}: {error}")
    return found


def contradictions(settings: Settings) -> list[str]:
    """What each key alone does not show: names that stand twice, or lead nowhere."""
    groups = [model.name for model in settings.models]
    lost = [
        f"models[{number}].fallbacks[{at}]: there is no group {name!r}"
        for number, model in enumerate(settings.models)
        for at, name in enumerate(model.fallbacks)
        if name not in groups
    ]
    odd = [
        f"models[{number}].deployments[{at}].{error}"
        for number, model in enumerate(settings.models)
        for at, wanted in enumerate(model.deployments)
        if (error := odd_options(wanted))
    ]
    twice = duplicates(groups, "models") + duplicates([key.name for key in settings.keys], "keys")
    return [*twice, *lost, *odd]


def odd_options(wanted: DeploymentSettings) -> str | None:
    """What is wrong with the options of an echo deployment: the other providers' are theirs."""
    try:
        if (wanted.via or keys.row_of(wanted.model)[0].via) == "echo":
            read_options(wanted.options)
    except NotFoundError:
        pass  # the catalog tells of a model that nobody knows
    except ValueError as exc:
        return str(exc)
    return None


def duplicates(names: list[str], table: str) -> list[str]:
    """An error for each name that is used twice."""
    return [
        f"{table}: {name!r} stands twice" for name in sorted(set(names)) if names.count(name) > 1
    ]


def deployment_of(wanted: DeploymentSettings, environ: Mapping[str, str]) -> Deployment:
    """One deployment of a group. Raises AuthError when its key is missing, NotFoundError."""
    found = keys.resolve(
        wanted.model, environ, api_base=wanted.api_base, api_key_env=wanted.api_key_env
    )
    given = wanted.default_temperature
    return attrs.evolve(
        found,
        via=wanted.via or found.via,
        weight=wanted.weight,
        include_usage=found.include_usage and wanted.include_usage,
        default_temperature=found.default_temperature
        if given is None or given is True
        else None
        if given is False
        else given,
        options=(*found.options, *((name, str(value)) for name, value in wanted.options.items())),
    )


def refusal(settings: Settings) -> str | None:
    """Why the gateway must not start like this, None if it may."""
    if settings.exposed and not settings.keys and not settings.server.insecure:
        return (
            f"server.host is {settings.server.host}: other machines could use your provider keys. "
            "Add [[keys]], or set server.insecure = true."
        )
    return None
