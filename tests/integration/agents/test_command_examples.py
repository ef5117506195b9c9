"""The programs of `examples/command`, as docs/command-agents.md shows them."""

import os
import shutil
import subprocess

import pytest

from celeriac.domain.errors import VariablesInvalidError
from celeriac.domain.executions.events import EventType
from tests.support.confined import confined
from tests.support.programs import REPOSITORY
from tests.support.run_context import RecordingContext, command_job
from tests.support.runners import CommandRunner

pytestmark = pytest.mark.anyio

EXAMPLES = REPOSITORY / "examples" / "command"
PROGRAMS = ("word-count.sh", "log-digest.pl")

LOG = """2026-11-22 INFO started
2026-11-22 ERROR no stock: "ü"
2026-11-22 ERROR again
nothing of this"""


def needs_perl() -> None:
    perl = shutil.which("perl")
    modules = [perl or "perl", "-MJSON::PP", "-e", "1"]
    if perl is None or subprocess.run(modules, check=False, capture_output=True).returncode != 0:
        pytest.skip("there is no Perl with its core modules here")


@pytest.fixture
def runner() -> CommandRunner:
    commands = {name: [str(EXAMPLES / name)] for name in PROGRAMS}
    return CommandRunner(commands=commands, confinement=confined({"PATH": os.environ["PATH"]}))


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("One, two, three.", 3),
        ('He said: "two\nlines".\tAnd \\n is none', 8),
        ("", 0),
        ('"prompt":"', 1),
        ("Zwölf Boxkämpfer jagen Viktor", 4),
    ],
)
async def test_the_shell_counts_words(
    runner: CommandRunner, context: RecordingContext, prompt: str, words: int
) -> None:
    job = command_job("word-count.sh", prompt=prompt, text="of the variables")

    assert (await runner.run(job, context)).result == {"words": words}
    assert context.steps == [(0, 1, "counting")]
    assert [each["message"] for each in context.logged()] == [f"counted {words} words"]


async def test_perl_sends_events_progress_and_logs_and_answers(
    runner: CommandRunner, context: RecordingContext
) -> None:
    needs_perl()
    outcome = await runner.run(command_job("log-digest.pl", log=LOG, keep=1), context)

    assert outcome.result == {
        "levels": {"ERROR": 2, "INFO": 1},
        "errors": ['2026-11-22 ERROR no stock: "ü"'],
        "complete": True,
    }
    found = {"name": "error_found", "data": {"line": 2}}
    assert (EventType.CUSTOM, found) in context.events
    assert context.steps == [(4, 4, "read")]
    assert [each["fields"] for each in context.logged()] == [{"lines": 4}]


async def test_perl_refuses_bad_variables_for_good(
    runner: CommandRunner, context: RecordingContext
) -> None:
    needs_perl()
    with pytest.raises(VariablesInvalidError, match="log: must be a text"):
        await runner.run(command_job("log-digest.pl"), context)
