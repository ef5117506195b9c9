"""The benchmarks run from end to end; nothing here asserts how fast."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from celeriac.kit.json_types import loads
from tests.support.programs import REPOSITORY, scrubbed_environment

_WITHIN_SECONDS = 300


def run(*arguments: str, home: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments],
        cwd=REPOSITORY,
        env=scrubbed_environment(home),
        capture_output=True,
        text=True,
        timeout=_WITHIN_SECONDS,
        check=False,
    )


@pytest.mark.timeout(_WITHIN_SECONDS + 60)
def test_a_quick_run_measures_everything_and_prints_one_document(tmp_path: Path) -> None:
    output = tmp_path / "figures.json"

    done = run("--quick", "--output", str(output), home=tmp_path)

    assert done.returncode == 0, done.stderr[-4000:]
    document: dict[str, Any] = loads(done.stdout)
    assert document == loads(output.read_text()), "the file and the output are the same"
    assert document["quick"] is True
    assert {"processors", "python", "versions"} <= document["machine"].keys()
    figures = document["figures"]
    assert (
        list(figures)
        == "throughput peers rate idle batch lists flows fan-ins waits running cancels".split()
    )
    targets = [target for figure in figures.values() for target in figure["targets"]]
    for target in targets:
        assert target.keys() == {"value", "goal", "measured", "met"}
        assert isinstance(target["measured"], (int, float)), target
        assert isinstance(target["met"], bool), target
    sides = figures["throughput"]["measured"]
    assert list(sides) == ["threads, in bulk", "prefork, one by one"]
    for name, side in sides.items():
        assert side["ratio_of_medians"] > 0, name
        ours, bare = side["celeriac_per_execution"], side["bare_celery_per_execution"]
        assert {"submitter", "worker", "postgres", "valkey"} <= ours["processor_ms"].keys()
        assert {"submitter", "worker", "valkey"} <= bare["processor_ms"].keys()
        assert ours["statements"].keys() == {"submitter", "worker_and_keeper"}
        assert ours["wal_syncs"] > 0
    peers = figures["peers"]["measured"]
    assert {"dramatiq", "dbos", "procrastinate"} <= peers.keys(), "absent ones are named, too"
    for name in ("dramatiq", "dbos", "procrastinate"):
        assert "absent" in peers[name] or peers[name]["in bulk"]["median"] > 0, name
    assert figures["rate"]["measured"]["accepted"]["samples"] == 20
    assert figures["idle"]["measured"]["created_to_started"]["samples"] == 5
    assert figures["batch"]["measured"]["items"] == 100
    assert figures["lists"]["measured"]["summaries"]["samples"] == 20
    assert figures["waits"]["measured"]["executions"] == 20
    flows = figures["flows"]["measured"]
    assert {shape: each["no_ops"] for shape, each in flows.items()} == {
        "chain": 3, "fan-out": 5, "fan-in": 5,
    }  # fmt: skip
    for each in flows.values():
        assert {
            "celeriac, workflow",
            "celeriac, durable function",
            "celeriac, Celery's canvas",
            "bare Celery",
        } <= set(each)
    rates = figures["fan-ins"]["measured"]["ends_per_second"]
    assert rates.keys() == {"1 row", "8 rows", "32 rows"}
    assert all(rate > 0 for of_rows in rates.values() for rate in of_rows.values())
    cancelled = figures["cancels"]["measured"]
    assert {"llm", "python coroutine", "python function", "command"} <= cancelled.keys()
    assert cancelled["llm"]["samples"] == 2


@pytest.mark.timeout(_WITHIN_SECONDS + 60)
def test_a_quick_run_measures_what_history_costs(tmp_path: Path) -> None:
    done = run("scale", "--quick", "--sizes", "200", "600", home=tmp_path)

    assert done.returncode == 0, done.stderr[-4000:]
    figure = loads(done.stdout)["figures"]["scale"]
    small, large = figure["measured"]["200"], figure["measured"]["600"]
    assert small["statements"].keys() == large["growth"].keys()
    assert {"submit", "claim", "finish", "list: rare error"} <= large["statements"].keys()
    assert all(times["samples"] == 10 for times in large["statements"].values())
    assert {"report: sitrep", "report: metrics", "list: rare label"} <= large["statements"].keys()
    assert len(figure["targets"]) == 5


@pytest.mark.timeout(_WITHIN_SECONDS + 60)
def test_a_quick_run_measures_what_fair_turns_cost(tmp_path: Path) -> None:
    done = run("turns", "--quick", home=tmp_path)

    assert done.returncode == 0, done.stderr[-4000:]
    measured = loads(done.stdout)["figures"]["turns"]["measured"]
    assert {"1 owner, 0 waiting", "10 owners, 1,000 waiting", "10 owners, 100 held"} <= set(
        measured
    )


@pytest.mark.timeout(_WITHIN_SECONDS + 60)
def test_a_quick_run_measures_what_confinement_costs(tmp_path: Path) -> None:
    done = run("confinement", "--quick", home=tmp_path)

    assert done.returncode == 0, done.stderr[-4000:]
    figure = loads(done.stdout)["figures"]["confinement"]
    measured = figure["measured"]
    assert measured["none"]["samples"] == 3
    assert measured["none"]["p95_ms"] >= measured["none"]["p50_ms"] > 0
    assert "CONTAINER_COMMAND is not set" in measured["container"]["skipped"]
    if shutil.which("bwrap") is None:
        assert "not installed" in measured["bubblewrap"]["skipped"]
        assert figure["targets"] == []
    else:
        assert measured["bubblewrap"]["later_than_none"].keys() == {"p50_ms", "p95_ms"}
        assert len(figure["targets"]) == 2


def test_an_unknown_name_is_refused_with_the_names_there_are(tmp_path: Path) -> None:
    done = run("speed", home=tmp_path)

    assert done.returncode == 2
    assert "unknown: speed" in done.stderr
    assert "throughput" in done.stderr
