"""`celeriac demo`: from nothing to results on a real model, with a killed worker in between."""

import importlib.util
from functools import partial

import pytest

from tests.support.command_line import CommandLine
from tests.support.places import temporary_directory
from tests.support.programs import Program
from tests.support.waiting import wait_until

_SECONDS = 420.0

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("xllamacpp") is None, reason="the extra local-model is not installed"
)


@pytest.mark.timeout(_SECONDS + 150)
def test_the_demo_shows_all_of_it_also_after_one_that_was_killed() -> None:
    with temporary_directory() as directory:
        commands = CommandLine(directory)
        killed = commands.start("killed", "demo")
        try:
            submitted = partial(_says, killed, "Submitted 12 executions")
            wait_until(submitted, "the first demo is at work", within=90)
            killed.kill()
        finally:
            killed.close()
        demo = commands.start("demo", "demo", "--deadline", str(_SECONDS))
        try:
            wait_until(lambda: demo.exit_code is not None, "it has ended", within=_SECONDS + 30)
            text = demo.log.read_text()
            assert demo.exit_code == 0, text
            assert text.count("Killed the worker (process ") == 2
        finally:
            demo.close()
    for words in (
        "of an earlier demo.",
        "Submitted 12 executions",
        "Killed the worker (process ",
        "worker: it ended by itself (killed by SIGKILL)",
        "live output",
        "12 executions, each completed exactly once",
        "lost their worker on the way and were run again",
        "Started the workflow demo-digest: 6 texts at the same time",
        "✓ sort · completed · 6 of 6",
        "The step sort had 6 items, each completed exactly once",
        "The step note began once, after all of them: 1 execution.",
        "stopping postgres",
    ):
        assert words in text, f"{words!r} is not shown:\n{text}"
    for name in ("queued", "running", "pending", "completed"):
        assert f" {name} " in text, f"no execution was seen {name}"


def _says(demo: Program, words: str) -> bool:
    assert demo.exit_code is None, demo.output()
    return words in demo.output()


def test_a_demo_that_cannot_work_says_why() -> None:
    with temporary_directory() as directory:
        commands = CommandLine(directory)
        # a model server that isn't there: every execution fails, and the demo must say so
        result = commands.run(
            "demo", "--deadline", "90", CELERIAC_LOCAL_MODEL_URL="http://127.0.0.1:1/v1"
        )
    assert result.code == 1
    first = result.err.splitlines()[0]
    assert first.startswith("error: demo-")
    assert "ended failed: provider_error" in first
    assert first.endswith("[demo_failed]")
    assert "All logs are in" in result.err
