"""One rule for what results, events and log lines may hold, for all kinds of agents."""

import json
import os
import sys

import pytest

from celeriac.domain.errors import ChildProtocolError, PermanentError
from tests.support.agent_functions import ODD, nested
from tests.support.confined import confined
from tests.support.run_context import RecordingContext, command_job, python_job
from tests.support.runners import CommandRunner, PythonRunner

pytestmark = pytest.mark.anyio

BIG = "an integer beyond 64 bits; return a text"
DEEP = "nested deeper than 64 levels"
LOST = "one would be lost"
REFUSED = {
    "2**63": BIG,
    "2**64": BIG,
    "-2**63 - 1": BIG,
    "2**64 within": BIG,
    "10**400": BIG,
    "65 levels": DEEP,
    "190 levels": DEEP,
    "300 levels": DEEP,
    "900 levels": DEEP,
    "a circle": "Circular reference",
    "equal keys": LOST,
    "equal keys within": LOST,
    "NaN": "not JSON compliant",
    "infinity within": "not JSON compliant",
    "half a character": "surrogates not allowed",
    "half a character as a key": "surrogates not allowed",
}
KEPT = {
    "2**63 - 1": 2**63 - 1,
    "-2**63": -(2**63),
    "digits in a text": str(2**64),
    "64 levels": nested(64),
    "a number as a key": {"1": "a", "null": "b"},
    "NUL": "a\ufffdb",
}
FUNCTIONS = ["odd", "odd_coroutine"]


def test_every_odd_value_has_a_verdict() -> None:
    assert REFUSED.keys() | KEPT.keys() == ODD.keys()


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("what", REFUSED)
async def test_results_that_would_be_changed_are_refused_for_good(
    runner: PythonRunner, context: RecordingContext, function: str, what: str
) -> None:
    with pytest.raises(PermanentError, match=REFUSED[what]) as raised:
        await runner.run(python_job(function, what=what, how="return"), context)
    assert raised.value.code == "agent_failed_permanently"


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("what", KEPT)
async def test_results_at_the_edge_are_kept_as_they_are(
    runner: PythonRunner, context: RecordingContext, function: str, what: str
) -> None:
    outcome = await runner.run(python_job(function, what=what, how="return"), context)
    assert json.dumps(outcome.result) == json.dumps(KEPT[what])


@pytest.mark.parametrize("how", ["emit", "log"])
@pytest.mark.parametrize("what", ["NaN", "half a character", "2**64", "300 levels", "equal keys"])
async def test_events_and_log_lines_are_refused_alike(
    runner: PythonRunner, context: RecordingContext, how: str, what: str
) -> None:
    said = []
    for function in FUNCTIONS:
        with pytest.raises(Exception, match=REFUSED[what]) as raised:
            await runner.run(python_job(function, what=what, how=how), context)
        details = getattr(raised.value, "details", {})
        kind = details.get("type", type(raised.value).__name__)
        said.append((kind, str(raised.value)))
    assert said[0] == said[1]
    assert said[0][0] == "TypeError"
    assert context.events == []


@pytest.mark.parametrize("function", FUNCTIONS)
async def test_events_at_the_edge_are_kept(
    runner: PythonRunner, context: RecordingContext, function: str
) -> None:
    await runner.run(python_job(function, what="2**63 - 1", how="emit"), context)
    ((_, data),) = context.events
    assert data["data"] == {"value": 2**63 - 1}


@pytest.fixture
def commands() -> CommandRunner:
    python = {"python": (sys.executable, "-c")}
    return CommandRunner(commands=python, confinement=confined({"PATH": os.environ["PATH"]}))


def program(line: str) -> str:
    """Return a program that writes `line`, then a result where that was none."""
    return f'print({line!r})\nprint(\'{{"type": "result"}}\')'


RESULTS = {
    str(2**64): BIG,
    str(-(2**63) - 1): BIG,
    '[1, {"a": 1' + "0" * 400 + "}]": BIG,
    "[" * 65 + "]" * 65: DEEP,
    "[" * 190 + "]" * 190: DEEP,
    "[" * 900 + "]" * 900: DEEP,
    "NaN": "not JSON compliant",
}


@pytest.mark.parametrize("value", RESULTS, ids=lambda value: f"{value[:6]}, {len(value)}")
async def test_results_of_programs_are_refused_with_the_same_messages(
    commands: CommandRunner, context: RecordingContext, value: str
) -> None:
    line = f'{{"type": "result", "value": {value}}}'
    with pytest.raises(PermanentError, match=RESULTS[value]):
        await commands.run(command_job("python", program(line)), context)


@pytest.mark.parametrize("value", RESULTS, ids=lambda value: f"{value[:6]}, {len(value)}")
@pytest.mark.parametrize(
    "message",
    [
        '{"type": "event", "data": {"value": VALUE}}',
        '{"type": "log", "message": "hello", "fields": {"value": VALUE}}',
        '{"type": "delta", "data": {"value": VALUE}}',
        '{"type": "ask", "key": "k", "kind": "tool", "title": "May I?", "arguments": {"v": VALUE}}',
    ],
    ids=["event", "log", "delta", "ask"],
)
async def test_messages_of_programs_are_refused_for_good(
    commands: CommandRunner, context: RecordingContext, value: str, message: str
) -> None:
    wanted = "can't be stored" if value == "NaN" else RESULTS[value]
    with pytest.raises(ChildProtocolError, match=wanted):
        await commands.run(command_job("python", program(message.replace("VALUE", value))), context)
    assert context.events == []
    assert context.deltas == []
    assert context.questions == []
