"""The `command` runner on real programs: what they are given, what comes back, what is refused."""

import os
from decimal import Decimal
from pathlib import Path

import pytest

from celeriac.agents.models import Price, Prices, Providers, price_by_name
from celeriac.domain.errors import (
    AgentMisconfiguredError,
    ChildCrashedError,
    OutputInvalidError,
    PermanentError,
    RetryableError,
)
from celeriac.domain.executions.events import EventType
from tests.support.confined import confined
from tests.support.run_context import RecordingContext, command_job, python_job
from tests.support.runners import CommandRunner

pytestmark = pytest.mark.anyio

ENVIRONMENT = {
    "PATH": os.environ["PATH"],
    "LANG": "C.UTF-8",
    "SHOP_URL": "http://127.0.0.1/",
    "CELERIAC_SECRET_KEY": "not for programs",
    "DATABASE_URL": "neither",
}
BOUNDS = confined(ENVIRONMENT, "SHOP_*")


@pytest.fixture
def runner(tmp_path: Path) -> CommandRunner:
    (tmp_path / "plain-text").write_text("no program")
    commands = {
        "shell": ["sh", "-c"],
        "gone": ["/no/such/program", "--json"],
        "unknown": ["no-such-program-anywhere"],
        "text": [str(tmp_path / "plain-text")],
        "directory": [str(tmp_path)],
    }
    own = Prices({"p/m": Price(input=Decimal(1_000_000), output=Decimal(0))})
    price = price_by_name(Providers([]), own)
    return CommandRunner(commands=commands, confinement=BOUNDS, price=price)


async def test_a_program_is_given_its_job_and_answers_on_its_stdout(
    runner: CommandRunner, context: RecordingContext
) -> None:
    script = """read start
    echo '{"type": "event", "kind": "message", "data": {"role": "user", "content": "hi"}}'
    echo '{"type": "progress", "done": 1, "total": 2, "note": "half"}'
    echo '{"type": "delta", "data": {"text": "h"}}'
    echo '{"type": "usage", "provider": "p", "model": "m", "input_tokens": 3, "output_tokens": 4}'
    echo '{"type": "log", "message": "hello", "fields": {"a": 1}}'
    echo 'for people' >&2
    printf '{"type": "result", "value": {"start": %s, "first": "%s"}}' "$start" "$1"
    """
    job = command_job("shell", script, "sh", "--json", prompt="Count.", text="a b")

    outcome = await runner.run(job, context)

    assert outcome.result["first"] == "--json", "the agent's arguments follow the setting's"
    start = outcome.result["start"]
    assert start["type"] == "start"
    told = start["job"]
    assert (told["prompt"], told["variables"]) == ("Count.", {"text": "a b"})
    assert (told["execution_id"], told["attempt"]) == (str(job.execution_id), 1)
    assert told["limits"] == {"soft_seconds": 50.0, "hard_seconds": 60.0, "memory_mb": 256}
    assert 0 < told["seconds_left"] <= 60
    assert told["workdir"] == str(context.workdir)
    assert (EventType.MESSAGE, {"role": "user", "content": "hi"}) in context.events
    assert context.steps == [(1, 2, "half")]
    assert context.deltas == [{"text": "h"}]
    assert [(each.provider, each.output_tokens) for each in context.calls] == [("p", 4)]
    assert context.calls[0].cost == 3, "by the configured prices: the program sent no cost"
    logged = {each["message"]: each for each in context.logged()}
    assert logged["hello"]["fields"] == {"a": 1}
    assert logged["for people"]["source"] == "stderr"


async def test_a_program_sees_its_own_directory_and_no_secrets(
    runner: CommandRunner, context: RecordingContext
) -> None:
    script = """names=$(env | cut -d= -f1 | sort | xargs)
    printf '{"type": "result", "value": "%s"}' "$PWD $names"
    """
    job = command_job("shell", script, environment=("SHOP_URL",))

    directory, *names = (await runner.run(job, context)).result.split()

    assert directory == str(context.workdir)
    assert set(names) - {"PWD", "OLDPWD", "SHLVL", "_"} == {
        "CELERIAC_CHILD", "LANG", "PATH", "SHOP_URL",
    }  # fmt: skip


async def test_celeriacs_own_variables_can_not_be_asked_for(
    runner: CommandRunner, context: RecordingContext
) -> None:
    with pytest.raises(AgentMisconfiguredError, match="CELERIAC_SECRET_KEY"):
        await runner.run(
            command_job("shell", "true", environment=("CELERIAC_SECRET_KEY",)), context
        )


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("other", "no command 'other' on this worker; CELERIAC_COMMANDS has: directory, gone, "),
        ("gone", "/no/such/program does not exist"),
        ("unknown", "no-such-program-anywhere is not found in an absolute directory of PATH"),
        ("text", "plain-text is not executable"),
        ("directory", "is a directory"),
    ],
)
async def test_a_program_that_can_not_be_run_is_reported_with_its_setting(
    runner: CommandRunner, context: RecordingContext, command: str, message: str
) -> None:
    with pytest.raises(AgentMisconfiguredError, match=message) as raised:
        await runner.run(command_job(command), context)

    assert "CELERIAC_COMMANDS" in raised.value.message
    assert raised.value.details == {"field": "command"}


@pytest.mark.parametrize(
    ("text", "message"),
    [("what is this", "Exec format error"), ("#!/no/such/interpreter\n", "No such file")],
)
async def test_a_file_that_is_no_program_is_reported_with_the_error_of_the_system(
    context: RecordingContext, tmp_path: Path, text: str, message: str
) -> None:
    program = tmp_path / "tool"
    program.write_text(text)
    program.chmod(0o755)
    runner = CommandRunner(commands={"tool": [str(program)]}, confinement=BOUNDS)
    with pytest.raises(ChildCrashedError, match=f"could not be started.*cannot run .*{message}"):
        await runner.run(command_job("tool"), context)


async def test_an_agent_of_another_kind_is_refused(
    runner: CommandRunner, context: RecordingContext
) -> None:
    with pytest.raises(AgentMisconfiguredError, match="not a command agent"):
        await runner.run(python_job("echo"), context)


async def test_a_result_is_held_against_the_tasks_schema(
    runner: CommandRunner, context: RecordingContext
) -> None:
    schema = {"type": "object", "properties": {"words": {"type": "integer"}}}
    script = """echo '{"type": "result", "value": {"words": "many"}}'"""
    with pytest.raises(OutputInvalidError, match=r"the command shell .*words: the value is not"):
        await runner.run(command_job("shell", script, output_schema=schema), context)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("printf NaN", "The command shell returned a value that JSON can't hold"),
        (r"""printf '"'; head -c 8000000 /dev/zero | tr '\0' x; printf '"'""", "8,000,002 bytes"),
    ],
)
async def test_a_result_that_can_not_be_stored_is_refused(
    runner: CommandRunner, context: RecordingContext, value: str, message: str
) -> None:
    script = f"""printf '{{"type": "result", "value": '; {value}; printf '}}'"""
    with pytest.raises(PermanentError, match=message):
        await runner.run(command_job("shell", script), context)


@pytest.mark.parametrize(
    ("retryable", "kind"), [("true", RetryableError), ("false", PermanentError)]
)
async def test_a_program_says_whether_another_attempt_may_help(
    runner: CommandRunner,
    context: RecordingContext,
    retryable: str,
    kind: type[Exception],
) -> None:
    script = (
        """echo '{"type": "error", "error": {"type": "NoStock", "message": "none left", """
        f""""code": "no_stock", "retryable": {retryable}, "details": {{"item": 7}}}}}}'"""
    )
    with pytest.raises(kind, match="none left") as raised:
        await runner.run(command_job("shell", script), context)

    assert getattr(raised.value, "code", None) == "no_stock"
    details = getattr(raised.value, "details", {})
    assert (details["item"], details["type"]) == (7, "NoStock")
