"""The command line as a whole: help, wrong usage, and nothing that needs a server."""

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
import typer

from celeriac.cli.core.output import ExitCode
from celeriac.cli.main import build_app, main

_HEAVY = ("celery", "fastapi", "httpx", "openai", "psycopg", "pydantic", "sqlalchemy")


def _paths() -> Iterator[tuple[str, ...]]:
    """Yield the words of every command and group."""
    yield ()
    group = typer.main.get_group(build_app())
    for name, command in group.commands.items():
        yield (name,)
        for inner in getattr(command, "commands", {}):
            yield (name, inner)


PATHS = list(_paths())


@pytest.mark.parametrize("option", ["--help", "-h"])
@pytest.mark.parametrize("words", PATHS, ids=" ".join)
def test_every_command_has_help(
    words: tuple[str, ...], option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, option]) == ExitCode.OK
    shown = capsys.readouterr()
    assert "Usage: celeriac" in shown.out
    assert "<bool>" not in shown.out, "a flag takes no value"
    assert shown.err == ""


def test_the_commands_of_the_issue_are_there() -> None:
    named = {words[0] for words in PATHS if words}
    assert named >= {
        *("up demo worker beat api run monitor timeline logs tasks executions agents".split()),
        *("keys db doctor".split()),
    }


def test_a_wrong_command_leads_to_the_one_that_there_is(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for words, cure in (
        ("executions logs last", "`celeriac logs --help` shows how: it is a command of its own."),
        ("executions lgs last", "`celeriac executions --help` shows how."),
        ("lgs last", "`celeriac --help` shows how."),
        ("agents change writer", "`celeriac agents update --help` shows how."),
        ("limits update few", "`celeriac limits change --help` shows how."),
        ("tasks rm few", "`celeriac tasks delete --help` shows how."),
        ("sessions add few", "`celeriac sessions --help` shows how."),
        ("apply project.yaml", "Files are named with -f: `celeriac apply -f FILE`."),
        ("start", "`celeriac up --help` shows how."),
        ("status", "`celeriac sitrep --help` shows how."),
        ("workflows start brief", "`celeriac workflows run --help` shows how."),
        ("approvals approve few", "`celeriac approvals answer --help` shows how."),
        ("executions stop last", "`celeriac executions cancel --help` shows how."),
    ):
        assert main(words.split()) == ExitCode.USAGE
        assert cure in capsys.readouterr().err


def test_help_comes_without_the_heavy_packages() -> None:
    program = (
        "import sys\n"
        "from celeriac.cli.main import main\n"
        "main(['--help'])\n"
        f"sys.exit(', '.join(name for name in {_HEAVY!r} if name in sys.modules) or 0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.stderr == "", "these make every command slow to start"


def test_a_worker_starts_without_what_it_seldom_needs() -> None:
    seldom = ("alembic", "fastapi", "httpx", "markdown_it", "openai", "pydantic_ai")
    program = (
        "import sys, celeriac.celery\n"
        f"sys.exit(', '.join(name for name in {seldom!r} if name in sys.modules) or 0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "REDIS_URL": "redis://127.0.0.1:1/0"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.stderr == "", "these make every worker slow to start"


def test_a_wrong_flag_gets_a_suggestion(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--jsn"]) == ExitCode.USAGE
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("error: No such option: --jsn")
    assert "--json" in lines[0]
    assert lines[1].strip() == "`celeriac doctor --help` shows how."


def test_a_wrong_command_gets_a_suggestion(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["docter"]) == ExitCode.USAGE
    assert "Did you mean 'doctor'?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run"], "Missing argument 'TASK'"),
        (["up", "--port", "99999"], "'--port'"),
        (["executions", "list", "--status", "done"], "'--status' / '-s': 'done' is not one of"),
        (["logs", "--level", "loud"], "--level 'loud' is unknown"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == ExitCode.USAGE
    first = capsys.readouterr().err.splitlines()[0]
    assert first.startswith("error: ")
    assert message in first


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == ExitCode.OK
    assert capsys.readouterr().out.startswith("celeriac ")
