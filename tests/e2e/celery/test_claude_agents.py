"""Claude Code on a real worker: it works, goes on, is cancelled, and leaves only its files."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from celeriac.client import Client
from celeriac.domain.agents import ClaudeAgent
from celeriac.domain.executions.states import Status
from tests.e2e.celery.conftest import Person
from tests.support.claude_processes import processes_of
from tests.support.fleet import Fleet
from tests.support.programs import Program
from tests.support.waiting import wait_until

pytestmark = pytest.mark.requirement("A12")


@pytest.fixture
def client(http: httpx.Client, ada: Person, worker: Program) -> Iterator[Client]:
    with Client(str(http.base_url), ada.key) as made:
        yield made


def sessions_of(fleet: Fleet) -> Path:
    return fleet.home / "celeriac" / "sessions"


def make(client: Client, name: str, **agent: Any) -> None:
    """Make a task of that name, whose prompt is its variable `prompt`, for an agent of its own."""
    client.agents.create(name, ClaudeAgent(model="claude-test", **agent))
    client.tasks.create(name, name, {"prompt": "{{ prompt }}"})


def test_an_agent_works_in_its_session_and_another_execution_goes_on(
    client: Client, fleet: Fleet
) -> None:
    make(client, "coder", allowed_tools=("Read", "Write"))

    done = client.executions.run("coder", {"prompt": "[work] Note it."}, timeout=60)

    assert done.status is Status.COMPLETED, done.error_message
    assert "forty-two" in str(done.result)
    assert (done.tool_call_count, done.model_call_count) == (2, 3)
    assert done.session_id is not None
    kept = sessions_of(fleet) / str(done.session_id) / "work" / "note.txt"
    assert kept.read_text() == "forty-two\n"
    assert processes_of(sessions_of(fleet)) == []

    again = client.executions.run(
        "coder", {"prompt": "[remember] Me?"}, session_id=done.session_id, timeout=60
    )
    assert (again.status, again.session_id) == (Status.COMPLETED, done.session_id)
    assert again.model_call_count == 1


@pytest.mark.requirement("C5")
def test_a_cancelled_agent_leaves_no_process(client: Client, fleet: Fleet) -> None:
    make(client, "sleeper", allowed_tools=("Bash",))
    accepted = client.executions.execute(
        "sleeper", {"prompt": "[shell] |setsid sleep 655 & sleep 656|"}
    )
    sessions = sessions_of(fleet)
    wait_until(lambda: {"sleep 655", "sleep 656"} <= set(processes_of(sessions)), "it runs")

    client.executions.cancel(accepted.execution_id)
    done = client.executions.wait(accepted.execution_id, timeout=60)

    assert done.status is Status.CANCELLED
    assert processes_of(sessions) == []
