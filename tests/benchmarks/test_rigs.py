"""What is compared is there or is named as absent; it is started, measured alone, and ended."""

from __future__ import annotations

import os
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from benchmarks import field, meter, peers, processes, rigs
from benchmarks.gateway import KINDS, summary
from benchmarks.processes import Process
from llmgw.apps.settings import load as load_settings

needs_two_cores = pytest.mark.skipif(
    sys.platform != "linux" or len(os.sched_getaffinity(0)) < 2, reason="a core each"
)


def test_peers_that_are_not_named_are_skipped_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the variable that would name them; ours and the floors are always there."""
    for name in ("BENCH_LITELLM", "BENCH_PORTKEY", "BENCH_TENSORZERO"):
        monkeypatch.delenv(name, raising=False)

    found = peers.everything(9000, tmp_path)

    there = [rig.name for rig in found.rigs]
    assert there[0] == rigs.OURS
    assert {"uvicorn hello", "raw ASGI + our client"} <= set(there)
    absent = [line.partition(":")[0] for line in found.absent]
    assert {"LiteLLM proxy", "Portkey", "TensorZero"} <= set(absent)
    assert not set(there) & set(absent)


def test_peers_that_are_named_are_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether they start is found out when they do."""
    script = tmp_path / "build" / "start-server.js"
    script.parent.mkdir()
    (tmp_path / "package.json").write_text('{"version": "1.2.3"}')
    monkeypatch.setenv("BENCH_PORTKEY", str(script))
    monkeypatch.setenv("BENCH_TENSORZERO", sys.executable)
    monkeypatch.setenv("BENCH_LITELLM", str(Path(sys.executable).parent / "litellm"))

    found = {rig.name: rig for rig in peers.everything(9000, tmp_path).rigs}

    assert found["TensorZero"].port == 0  # it tells one
    config = tomllib.loads((tmp_path / "tensorzero.toml").read_text())
    assert config["models"]["m"]["providers"]["upstream"]["api_base"] == "http://127.0.0.1:9000/v1/"
    assert {"LiteLLM proxy", "TensorZero"} <= set(found)
    assert peers.portkey(9000, str(script)).version == "1.2.3"


def test_our_settings_are_settings(tmp_path: Path) -> None:
    """The key that the load sends, the model that it asks for."""
    rig = rigs.llmgw("llmgw", "openai", 9000, tmp_path)

    settings, _ = load_settings(tmp_path / "llmgw-openai.toml", {})

    assert [model.name for model in settings.models] == [rig.model]
    assert settings.keys[0].name == "team"
    assert b"authorization: Bearer sk-bench" in rig.request()


def test_the_meter_reads_a_process() -> None:
    """Its CPU grows with work, whatever the clock says; its memory is there."""
    before = meter.cpu(os.getpid())
    sum(range(200_000))

    assert meter.cpu(os.getpid()) > before
    assert meter.rss(os.getpid()) > 1_000_000
    assert meter.family(os.getpid())[0] == os.getpid()


@needs_two_cores
def test_a_floor_is_started_measured_and_ended(tmp_path: Path) -> None:
    """It sleeps but for its turn; CPU is counted for what it answered."""
    with processes.upstream(tmp_path) as upstream:
        rig = rigs.floor("bare", "bare", upstream.port)
        with processes.all_running([rig], tmp_path) as [one]:
            os.waitid(os.P_PID, one.process.pid, os.WSTOPPED | os.WNOWAIT)  # it takes a moment
            state = Path(f"/proc/{one.process.pid}/stat").read_text().rpartition(")")[2].split()[0]
            upstream.tell(events=5)
            found = field.turn(one, upstream, rig.request(stream=True), 2, 0.05)
        pid = one.process.pid

    assert state == "T"
    assert found.round.events == found.round.answers * 6
    assert found.cpu > 0
    assert not Path(f"/proc/{pid}").exists()
    assert upstream.process.log.read_text() == ""


@needs_two_cores
def test_a_rig_that_does_not_start_is_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And what it said is told."""
    command = [sys.executable, "-c", "raise SystemExit('no licence')"]
    rig = rigs.Rig("broken", command, rigs.free_port())

    with processes.all_running([rig], tmp_path) as found:
        assert found == []

    assert "no licence" in capsys.readouterr().out


@needs_two_cores
def test_a_rig_may_tell_its_port(tmp_path: Path) -> None:
    """In its log, as an address."""
    code = "import time; print('on http://127.0.0.1:4321/v1', flush=True); time.sleep(60)"
    process = processes.started([sys.executable, "-c", code], 0, {}, tmp_path / "log")
    try:
        assert processes.port_of(process) == 4321
    finally:
        process.end()
    process.end()  # a second time is no harm


def test_the_slow_variables_are_not_handed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unbuffered output would be measured."""
    monkeypatch.setenv("PYTHONUNBUFFERED", "1")

    assert "PYTHONUNBUFFERED" not in processes.environment({})
    assert processes.environment({"A": "b"})["A"] == "b"


def test_what_fails_is_measured_no_more(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The rest goes on."""
    ground = field.Field(
        processes.Upstream(0, Process(0, tmp_path)), tmp_path, [], ["nginx: not on PATH"]
    )
    tried: list[str] = []

    def fails() -> None:
        tried.append("x")
        raise RuntimeError("boom")

    ground.attempt("a, paced", fails)
    ground.attempt("a, paced", fails)
    ground.attempt("b", lambda: tried.append("b"))

    assert tried == ["x", "b"]
    assert ground.facts() == {
        "skipped": ["nginx: not on PATH"],
        "failed": {"a, paced": "boom"},
        "peers": {},
    }
    assert "boom" in capsys.readouterr().out


def test_rows_are_sorted_by_cost(capsys: pytest.CaptureFixture[str]) -> None:
    """What was not measured comes last; a full core is told."""
    rows: list[dict[str, Any]] = [{"name": "a", "x": 2.0}, {"name": "b"}, {"name": "c", "x": 1.0}]

    field.by_cost(rows, lambda row: row.get("x"))
    field.warn("c", "x", 0.99)
    field.warn("a", "x", 0.5)

    assert [row["name"] for row in rows] == ["c", "a", "b"]
    assert capsys.readouterr().out.count("note:") == 1


def test_a_gateways_summary() -> None:
    """Medians; of the load's share the most."""
    turns = [{"cpu_us": value, "a_second": 10.0, "load_cpu": value / 10} for value in (1, 2, 9)]

    found = summary(turns)

    assert found["cpu_us"] == {"median": 2, "low": 1, "high": 9}
    assert found["load_cpu"] == 0.9
    assert len({kind.name for kind in KINDS}) == len(KINDS)
