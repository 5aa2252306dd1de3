"""The command line, as a shell sees it; serving is tested in ``tests/e2e``."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from llmgw import __version__
from llmgw.apps.cli import main
from llmgw.providers.keys import TABLE
from tests.servers import free_port
from tests.upstreams.recorder import Recorder


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory and no key of a provider."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LLMGW_CONFIG", raising=False)
    for row in TABLE:
        for name in (*row.keys, *row.bases):
            monkeypatch.delenv(name, raising=False)
    return tmp_path


def run(*words: str, typed: str = "") -> Result:
    return CliRunner().invoke(main, words, input=typed)


def config(folder: Path, base: str) -> None:
    place = f'{{ model = "openai/m", api_base = "{base}" }}'
    model = f'[[models]]\nname = "here"\ndeployments = [{place}]\n'
    (folder / "llmgw.toml").write_text(f"{model}[retry]\nattempts = 1\n")


def test_version() -> None:
    """The package's own."""
    assert __version__ in run("--version").output


def test_hash_of_a_key() -> None:
    """Read from standard input, so that it stands in no shell history; a line end is none of it."""
    assert run("keys", "hash", typed="sk-secret\n").output.strip() == (
        sha256(b"sk-secret").hexdigest()
    )


def test_check_of_a_good_config(folder: Path) -> None:
    """Draws the stack and says what is served."""
    config(folder, "http://127.0.0.1:1/v1")

    done = run("check")

    assert done.exit_code == 0, done.output
    assert "Completion" in done.output
    assert "`here`" in done.output


def test_check_tells_of_a_missing_key(folder: Path) -> None:
    """Exit code 1: it would start, and fail for who asks."""
    (folder / "llmgw.toml").write_text(
        '[[models]]\nname = "paid"\ndeployments = [{ model = "groq/m" }]\n'
    )

    done = run("check")

    assert done.exit_code == 1
    assert "GROQ_API_KEY" in done.output


@pytest.mark.parametrize("command", ["serve", "check", "smoke"])
def test_bad_settings_end_every_command(command: str, folder: Path) -> None:
    """Exit code 2, every error on its line."""
    (folder / "llmgw.toml").write_text("[server]\nprot = 1\n[retry]\nattempts = 0\n")

    done = run(command)

    assert done.exit_code == 2
    assert done.output.count("error: ") == 2


def test_smoke_asks_the_models_that_are_named(folder: Path, recorder: Recorder) -> None:
    """A line each, with the time and the tokens."""
    config(folder, f"{recorder.url}/v1")

    done = run("smoke", "here")

    assert done.exit_code == 0, done.output
    assert "ok, 12 tokens" in done.output


def test_smoke_fails_when_one_does(folder: Path) -> None:
    """Exit code 1 and the error's own words."""
    config(folder, f"http://127.0.0.1:{free_port()}/v1")

    done = run("smoke")

    assert done.exit_code == 1
    assert "ProviderUnavailableError" in done.output
