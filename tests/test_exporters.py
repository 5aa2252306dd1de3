"""Exporters: the standard variables mean here what they mean elsewhere."""

from __future__ import annotations

import subprocess
import sys

import pytest

from llmgw import exporters

CONSOLE = """
from llmgw import exporters, telemetry
assert exporters.set_up_tracing({"OTEL_TRACES_EXPORTER": "console", "OTEL_SERVICE_NAME": "mine"})
with telemetry.span("hello"):
    pass
"""


def test_set_up_tracing_exports_with_the_name_of_the_service() -> None:
    """With an exporter named, the global provider sends spans to it, at the latest at exit."""
    command = [sys.executable, "-c", CONSOLE]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)

    assert '"name": "hello"' in done.stdout
    assert '"service.name": "mine"' in done.stdout


@pytest.mark.parametrize(
    ("environ", "wanted"),
    [
        ({}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://h:1/"}, ("otlp", "http://h:1/v1/traces")),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://h:1/t"}, ("otlp", "http://h:1/t")),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, ("otlp", None)),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://h:1"}, None),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_SDK_DISABLED": "true"}, None),
    ],
)
def test_exporter_follows_the_standard_variables(
    environ: dict[str, str], wanted: tuple[str, str | None] | None
) -> None:
    """OTEL_* mean here what they mean elsewhere."""
    assert exporters.exporter_of(environ) == wanted


CONSOLE_ASKED = {"OTEL_TRACES_EXPORTER": "console"}


@pytest.mark.parametrize(
    ("environ", "named"),
    [
        ({"OTEL_TRACES_EXPORTER": "jaeger"}, "jaeger"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "collector:4318"}, "http://"),
        ({**CONSOLE_ASKED, "OTEL_BSP_SCHEDULE_DELAY": "soon"}, "SCHEDULE_DELAY"),
        ({**CONSOLE_ASKED, "OTEL_BSP_SCHEDULE_DELAY": "0"}, "SCHEDULE_DELAY"),
        ({**CONSOLE_ASKED, "OTEL_BSP_SCHEDULE_DELAY": "inf"}, "SCHEDULE_DELAY"),
    ],
)
def test_what_cannot_be_traced_to_is_refused(environ: dict[str, str], named: str) -> None:
    """A misspelt exporter is an error at start, not silence; unless tracing is off."""
    with pytest.raises(ValueError, match=named):
        exporters.set_up_tracing(environ)

    assert not exporters.set_up_tracing({**environ, "OTEL_SDK_DISABLED": "true"})


@pytest.mark.parametrize("module", ["opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http"])
def test_tracing_without_its_extra_is_refused(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It names the extra."""
    monkeypatch.setitem(sys.modules, module, None)  # as if it were not there

    with pytest.raises(ValueError, match=r"llmgw\[tracing\]"):
        exporters.exporter_of({"OTEL_TRACES_EXPORTER": "otlp"})
    assert not exporters.exporter_of({})


def test_what_is_installed_is_known() -> None:
    """Also below a package that is not there."""
    names = ("llmgw.telemetry", "llmgw.nothing", "nothing.at_all")

    assert [exporters.installed(name) for name in names] == [True, False, False]
