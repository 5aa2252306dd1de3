"""Settings: one file, ``.env`` and the environment; everything that is wrong is told at once."""

from __future__ import annotations

from pathlib import Path

import attrs
import pytest

from llmgw.apps.settings import (
    DeploymentSettings,
    Key,
    Server,
    Settings,
    SettingsError,
    deployment_of,
    load,
    refusal,
)

FILE = """
[server]
port = 9000

[retry]
attempts = 5
backoff_s = 1

[[models]]
name = "fast"
deployments = [
  { model = "openai/gpt-4o-mini", api_key_env = "OPENAI_API_KEY", weight = 2.5 },
  { model = "groq/llama-3.1-8b-instant", default_temperature = false },
]

[[keys]]
name = "team-a"
sha256 = "%s"
models = ["fast"]
""" % ("a" * 64)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def errors_of(text: str, folder: Path, environ: dict[str, str] | None = None) -> list[str]:
    (folder / "llmgw.toml").write_text(text)
    with pytest.raises(SettingsError) as caught:
        load(None, environ or {})
    return caught.value.errors


def test_without_a_file_there_are_defaults(folder: Path) -> None:
    """Loopback, port 8000, no models, no keys."""
    settings, _ = load(None, {})

    assert (settings.server.host, settings.server.port) == ("127.0.0.1", 8000)
    assert (settings.models, settings.keys) == ([], [])


def test_the_file_of_the_working_directory_is_read(folder: Path) -> None:
    """Numbers, tables and lists, as written."""
    (folder / "llmgw.toml").write_text(FILE)

    settings, _ = load(None, {})

    assert settings.server.port == 9000
    assert (settings.retry.attempts, settings.retry.backoff_s) == (5, 1.0)
    assert settings.models[0].deployments[0].weight == 2.5
    assert settings.models[0].deployments[1].default_temperature is False
    assert settings.keys[0].models == ["fast"]


def test_the_environment_lies_over_the_file(folder: Path) -> None:
    """``LLMGW_SERVER__PORT`` is ``server.port``; what is no TOML value is text."""
    (folder / "llmgw.toml").write_text(FILE)
    environ = {
        "LLMGW_SERVER__PORT": "8080",
        "LLMGW_SERVER__HOST": "::1",
        "LLMGW_SERVER__INSECURE": "true",
        "LLMGW_TIMEOUTS__IDLE_S": "2.5",
    }

    settings, _ = load(None, environ)

    assert (settings.server.port, settings.server.host) == (8080, "::1")
    assert settings.server.insecure is True
    assert settings.timeouts.idle_s == 2.5
    assert settings.retry.attempts == 5


def test_dotenv_lies_under_the_environment(folder: Path) -> None:
    """``.env`` gives keys and settings; what is set already wins."""
    (folder / ".env").write_text("GROQ_API_KEY=from-file\nLLMGW_SERVER__PORT=1\nA=file\n")

    settings, environ = load(None, {"A": "process"})

    assert settings.server.port == 1
    assert (environ["GROQ_API_KEY"], environ["A"]) == ("from-file", "process")


def test_another_file_can_be_named(folder: Path) -> None:
    """By the option, or by LLMGW_CONFIG; the option wins."""
    (folder / "a.toml").write_text("[server]\nport = 1\n")
    (folder / "b.toml").write_text("[server]\nport = 2\n")

    assert load(Path("a.toml"), {"LLMGW_CONFIG": "b.toml"})[0].server.port == 1
    assert load(None, {"LLMGW_CONFIG": "b.toml"})[0].server.port == 2


def test_a_named_file_that_is_missing_is_an_error(folder: Path) -> None:
    """A typing error in the path does not start a gateway without settings."""
    with pytest.raises(SettingsError, match=r"gone\.toml"):
        load(Path("gone.toml"), {})


@pytest.mark.parametrize("text", ["[server", "port = ", "\x00"])
def test_a_file_that_is_no_toml_is_named(text: str, folder: Path) -> None:
    """With the parser's own words."""
    [error] = errors_of(text, folder)

    assert error.startswith("llmgw.toml: ")


def test_an_exporter_that_is_unknown_is_an_error(folder: Path) -> None:
    """Servers would take what fails at the start for an app without a lifespan."""
    with pytest.raises(SettingsError, match="OTEL_TRACES_EXPORTER is 'jaeger'"):
        load(None, {"OTEL_TRACES_EXPORTER": "jaeger"})


def test_a_file_that_is_no_text_is_named(folder: Path) -> None:
    """Bytes that are no UTF-8."""
    (folder / "llmgw.toml").write_bytes(b"a = '\xff'")

    with pytest.raises(SettingsError, match=r"llmgw\.toml"):
        load(None, {})


ECHO = "[[models]]\nname = 'm'\n[[models.deployments]]\nmodel = 'echo'\noptions = "
AT = "models[0].deployments[0]"


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("[server]\nprot = 1", "server.prot: unknown key"),
        ("sever = 1", "sever: unknown key"),
        ('[server]\nport = "8000"', "server.port: must be int, not '8000'"),
        ("[server]\nport = true", "server.port: must be int, not True"),
        ("[server]\nport = 70000", "server.port: must be <= 65535"),
        ('[server]\nmetrics = "closed"', "server.metrics"),
        ("[retry]\nattempts = 0", "retry.attempts: must be >= 1"),
        ("[timeouts]\nidle_s = 0", "timeouts.idle_s: must be > 0"),
        ("[[models]]\nname = 'm'", "models[0].deployments: is missing"),
        ("[[models]]\nname = 'm'\ndeployments = []", "models[0].deployments: must be >= 1"),
        ("[[models]]\nname = 'a b'\ndeployments = [{model='echo'}]", "models[0]"),
        ("[[models]]\nname = 'm'\ndeployments = [{}]", "models[0].deployments[0].model"),
        (f"{ECHO}{{chunks = '-1'}}", f"{AT}.options.chunks: Expected `int` >= 0"),
        (f"{ECHO}{{latency_s = 'soon'}}", f"{AT}.options.latency_s: Expected `float`"),
        (f"{ECHO}{{chunks = -1}}".replace("'echo'", "'echo/x'"), f"{AT}.options.chunks"),
        (f"{ECHO}{{chunk = 1}}", f"{AT}.options: Object contains unknown field `chunk`"),
        ("[[models]]\nname='m'\ndeployments=[{model='echo', via='x'}]", "models[0].deployments[0]"),
        ("[[keys]]\nname = 'a'\nsha256 = 'sk-plain'", "keys[0].sha256: must be 64 hex"),
        ("server = 1", "server: is no table"),
        ("models = 1", "models: is no table or list"),
    ],
)
def test_an_error_has_the_path_of_its_key(text: str, error: str, folder: Path) -> None:
    """And the file's name, so that it is found."""
    [found] = errors_of(text, folder)

    assert found.startswith(f"llmgw.toml: {error}")


def test_all_errors_are_told_at_once(folder: Path) -> None:
    """One run of ``llmgw check`` shows everything."""
    text = "[server]\nport = 'x'\nprot = 1\n[[keys]]\nname = 1\nsha256 = 'x'\n"

    assert len(errors_of(text, folder)) >= 3


def test_a_key_in_the_file_is_not_repeated(folder: Path) -> None:
    """Somebody wrote the key where its hash belongs: the error does not print it."""
    errors = errors_of("[[keys]]\nname = 'a'\nsha256 = 'sk-plain-key'\n", folder)

    assert "sk-plain-key" not in "\n".join(errors)


def test_a_bad_value_of_the_environment_is_named(folder: Path) -> None:
    """By the same path as in the file."""
    environ = {"LLMGW_SERVER__PORT": "eighty", "LLMGW_SEVER__HOST": "x"}

    errors = errors_of("[server]\nprot = 1\n", folder, environ)

    assert sorted(error.partition(": ")[0] for error in errors) == [
        "llmgw.toml",  # server.prot, which is the file's
        "server.port",
        "sever",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "[[models]]\nname='m'\ndeployments=[{model='echo'}]\n" * 2,
        f"[[keys]]\nname='m'\nsha256='{'a' * 64}'\n" * 2,
    ],
)
def test_a_name_stands_once(text: str, folder: Path) -> None:
    """Two groups of a name would hide each other, two keys would share a bill."""
    [error] = errors_of(text, folder)

    assert error.startswith("llmgw.toml: ")
    assert "'m' stands twice" in error


@pytest.mark.parametrize(
    ("given", "temperature"),
    [(None, 0.7), (True, 0.7), (False, None), (0.2, 0.2), (0, 0)],
)
def test_the_default_temperature_of_a_deployment(
    given: float | bool | None, temperature: float | None
) -> None:
    """A number sets it, false sends none, nothing leaves it."""
    wanted = DeploymentSettings(model="groq/m", default_temperature=given)

    assert deployment_of(wanted, {"GROQ_API_KEY": "k"}).default_temperature == temperature


def test_options_reach_the_deployment() -> None:
    """An Azure api-version of the config comes after that of the environment, and wins."""
    wanted = DeploymentSettings(
        model="azure/m", api_base="http://x", api_key_env="K", options={"api_version": "v2"}
    )

    found = deployment_of(wanted, {"K": "k"})

    assert dict(found.options)["api_version"] == "v2"


@pytest.mark.parametrize(
    ("server", "keys", "refused"),
    [
        (Server(), [], False),
        (Server(host="localhost"), [], False),
        (Server(host="0.0.0.0"), [], True),
        (Server(host="::"), [], True),
        (Server(host="0.0.0.0", insecure=True), [], False),
        (Server(host="0.0.0.0"), [Key(name="a", sha256="a" * 64)], False),
    ],
)
def test_beyond_loopback_a_key_is_needed(server: Server, keys: list[Key], refused: bool) -> None:
    """Or the word ``insecure``."""
    found = refusal(Settings(server=server, keys=keys))

    assert bool(found) is refused
    assert not refused or "insecure" in (found or "")


PAGE = Path(__file__).parent.parent.parent / "docs" / "configuration.md"


def test_the_documented_file_is_the_contract(folder: Path) -> None:
    """It is accepted, names every key of the tables, and shows their defaults."""
    text = PAGE.read_text().partition("```toml\n")[2].partition("```")[0]
    (folder / "llmgw.toml").write_text(text)

    settings, _ = load(None, {})

    for table in attrs.fields(Settings):
        if table.name not in ("models", "keys"):
            default = getattr(Settings(), table.name)
            assert getattr(settings, table.name) == default
            assert all(f"{field} = " in text for field in attrs.asdict(default))
