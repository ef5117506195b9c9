"""Models with tools, on a real worker: approved by a person, asked, and cancelled on the way."""

from collections.abc import Iterator
from typing import Any
from uuid import UUID

import httpx
import psutil
import pytest

from celeriac import wire
from celeriac.client import Client
from celeriac.domain.agents import LlmAgent, McpServer
from celeriac.domain.executions.states import Status
from celeriac.kit.json_types import JsonObject
from celeriac.kit.processes import identify, still_running
from tests.e2e.celery.conftest import Person
from tests.support.fleet import Fleet
from tests.support.programs import Program
from tests.support.waiting import wait_until


@pytest.fixture
def client(http: httpx.Client, ada: Person, worker: Program) -> Iterator[Client]:
    with Client(str(http.base_url), ada.key) as made:
        yield made


def make(client: Client, name: str, **agent: Any) -> None:
    """Make a task of that name, whose prompt is its variable `prompt`, for an agent of its own."""
    client.agents.create(name, LlmAgent(model="scripted/model", **agent))
    client.tasks.create(name, name, {"prompt": "{{ prompt }}"})


def wait_for_question(client: Client, execution_id: UUID) -> wire.Approval:
    """Wait until an execution waits for a person, and return what it asks."""
    wait_until(
        lambda: client.executions.get(execution_id).status is Status.WAITING,
        "the execution waits for a person",
    )
    (question,) = client.approvals.list(execution_id=execution_id)
    return question


def data_of(client: Client, execution_id: UUID, kind: str) -> list[JsonObject]:
    return [each.data for each in client.executions.events(execution_id) if each.type == kind]


@pytest.mark.requirement("A5", "A15")
def test_a_tool_is_called_once_a_person_has_approved_it(
    client: Client, fleet: Fleet, worker: Program
) -> None:
    server = McpServer(name="tools", approve_tools=("note",))
    make(client, "noting", mcp_servers=(server,))
    prompt = 'use tools__add {"a": 2, "b": 3} / tools__note {"text": "mine"}'
    accepted = client.executions.execute("noting", {"prompt": prompt})
    question = wait_for_question(client, accepted.execution_id)
    assert (question.tool, question.arguments) == ("tools__note", {"text": "mine"})

    client.approvals.answer(question.id, approved=True, value={"text": "yours"})
    done = client.executions.wait(accepted.execution_id, timeout=60)

    assert (done.status, done.result) == (Status.COMPLETED, "5; noted yours")
    assert (done.attempt, done.tool_call_count, done.model_call_count) == (2, 2, 3)
    results = data_of(client, done.id, "tool_result")
    assert [(result["tool"], result["content"]) for result in results] == [
        ("add", "5"),
        ("note", "noted yours"),
    ]

    def steps() -> list[JsonObject]:
        lines = worker.logged("tool.executed")
        return [line for line in lines if line["execution_id"] == str(accepted.execution_id)]

    wait_until(lambda: len(steps()) >= 2, "both calls are in the worker's log")
    assert [line["tool"] for line in steps()] == ["add", "note"]
    assert all(isinstance(line["ms"], int) for line in steps())


def test_a_model_asks_a_person_and_goes_on_with_the_answer(client: Client) -> None:
    make(client, "asking", may_ask=True)
    accepted = client.executions.execute(
        "asking", {"prompt": 'use ask_person {"question": "Which day?"}'}
    )
    question = wait_for_question(client, accepted.execution_id)
    assert question.title == "Which day?"

    client.approvals.answer(question.id, approved=True, value="Monday")
    done = client.executions.wait(accepted.execution_id, timeout=60)

    assert (done.status, done.result) == (Status.COMPLETED, "Monday")


def test_a_later_execution_goes_on_with_the_conversation_or_with_a_copy(client: Client) -> None:
    make(client, "remembering", keep_session=True)

    def say(text: str, **session: Any) -> wire.Execution:
        return client.executions.run("remembering", {"prompt": text}, timeout=60, **session)

    first = say("remember me")
    assert first.session_id is not None
    fork = say("fork", session_id=first.session_id, fork_session=True)
    second = say("again", session_id=first.session_id)

    assert second.result == "remember me | remember me | again"
    assert second.session_id == first.session_id
    assert fork.result == "remember me | remember me | fork"
    assert fork.session_id is not None
    assert client.sessions.get(fork.session_id).parent_id == first.session_id


@pytest.mark.requirement("C5")
def test_a_run_that_is_cancelled_in_a_tool_leaves_no_process(
    client: Client, worker: Program
) -> None:
    make(client, "waiting", mcp_servers=(McpServer(name="tools"),))
    accepted = client.executions.execute(
        "waiting", {"prompt": 'use tools__wait {"seconds": 654.5}'}
    )

    def sleeping() -> list[psutil.Process]:
        return [
            child
            for child in psutil.Process(worker.pid).children(recursive=True)
            if child.is_running() and child.cmdline()[-1:] == ["654.5"]
        ]

    wait_until(sleeping, "the tool runs, and a child of its own")
    (child,) = sleeping()
    family = [identify(child.pid), identify(child.ppid())]
    assert all(family)

    client.executions.cancel(accepted.execution_id)
    done = client.executions.wait(accepted.execution_id, timeout=60)

    assert done.status is Status.CANCELLED
    assert not [each for each in family if each and still_running(each)], "nothing is left"


def test_a_server_that_is_not_configured_is_told_with_its_field(client: Client) -> None:
    make(client, "unfit", mcp_servers=(McpServer(name="unknown"),))

    done = client.executions.run("unfit", {"prompt": "plain"}, timeout=60)

    assert (done.status, done.error_code) == (Status.FAILED, "agent_misconfigured")
    assert (done.error_details or {})["field"] == "mcp_servers.0.name"
    assert "'unknown' isn't configured" in str(done.error_message)
