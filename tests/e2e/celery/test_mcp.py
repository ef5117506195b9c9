"""`celeriac mcp` over stdio: a real server process, the library's client, a real API and worker."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
from mcp import Client

from celeriac.embedded.home import reserve_port
from tests.e2e.celery.conftest import Person
from tests.support.fleet import Fleet
from tests.support.mcp_clients import ask, over_stdio, refusal
from tests.support.programs import Program

pytestmark = pytest.mark.anyio

READING = {
    "get_execution",
    "get_report",
    "get_result",
    "get_task",
    "get_usage",
    "list_approvals",
    "list_events",
    "list_executions",
    "list_tasks",
    "wait_for_execution",
}


@pytest.fixture
async def ada_client(http: httpx.Client, ada: Person, tmp_path: Path) -> AsyncIterator[Client]:
    """A server that has the key of an operator, who has a task `note` and a task `hold`."""
    async with over_stdio(tmp_path, api_url=str(http.base_url), key=ada.key) as client:
        yield client


async def test_tools_say_what_they_take_answer_and_change(ada_client: Client) -> None:
    tools = {each.name: each for each in (await ada_client.list_tools()).tools}

    assert set(tools) >= READING | {"execute_task", "cancel_execution"}
    for name, tool in tools.items():
        assert tool.title, name
        assert tool.description, name
        assert tool.input_schema["additionalProperties"] is False, name
        assert tool.output_schema, name
        assert tool.annotations is not None
        assert tool.annotations.read_only_hint is (name in READING)
    assert tools["cancel_execution"].annotations.destructive_hint is True  # type: ignore[union-attr]
    assert tools["execute_task"].input_schema["required"] == ["task"]


async def test_an_agent_starts_a_task_waits_and_reads_all_of_it(
    ada_client: Client, ada: Person, worker: Program
) -> None:
    listed = await ask(ada_client, "list_tasks")
    assert {"note", "hold"} <= {each["name"] for each in listed["tasks"]}
    task = await ask(ada_client, "get_task", task="note")
    assert task["variables_schema"]["required"] == ["diary"]

    variables = {"diary": str(ada.directory / "diary")}
    accepted = await ask(
        ada_client, "execute_task", task="note", variables=variables, idempotency_key="once"
    )
    again = await ask(
        ada_client, "execute_task", task="note", variables=variables, idempotency_key="once"
    )
    execution = accepted["execution_id"]
    assert again["execution_id"] == execution, "the key came through"

    told: list[str] = []

    async def note(progress: float, total: float | None, message: str | None) -> None:
        told.append(str(message))

    waited = await ada_client.call_tool(
        "wait_for_execution", {"execution_id": execution}, progress_callback=note
    )
    done = waited.structured_content
    assert (done["status"], done["ended"], done["result"]["attempt"]) == ("completed", True, 1)
    assert told[-1] == "completed", told

    page = await ask(ada_client, "list_events", execution_id=execution, limit=2)
    assert [each["seq"] for each in page["events"]] == [1, 2]
    assert (page["next_after"], page["more"]) == (2, True)
    rest = await ask(ada_client, "list_events", execution_id=execution, after=2)
    assert rest["events"][-1]["type"] == "completed"
    text = (await ask(ada_client, "get_result", execution_id=execution))["text"]
    assert json.loads(text) == done["result"]
    report = await ask(ada_client, "get_report", execution_id=execution, characters=100)
    assert report["next_offset"] == 100
    listed = await ask(ada_client, "list_executions", task="note", status=["completed"])
    assert execution in {each["id"] for each in listed["executions"]}
    usage = await ask(ada_client, "get_usage", by="model", task="note")
    assert usage["totals"] == [], "no model was asked"


async def test_a_wait_is_bounded_and_can_be_given_up_and_the_execution_goes_on(
    ada_client: Client, ada: Person, worker: Program
) -> None:
    variables = {"diary": str(ada.directory / "d"), "gate": str(ada.directory / "gate")}
    accepted = await ask(ada_client, "execute_task", task="hold", variables=variables)
    execution = accepted["execution_id"]

    short = await ask(ada_client, "wait_for_execution", execution_id=execution, timeout_seconds=0.2)
    assert short["ended"] is False

    seen = asyncio.Event()

    async def note(progress: float, total: float | None, message: str | None) -> None:
        seen.set()

    waiting = asyncio.create_task(
        ada_client.call_tool(
            "wait_for_execution",
            {"execution_id": execution, "timeout_seconds": 600},
            progress_callback=note,
        )
    )
    await seen.wait()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting

    state = await ask(ada_client, "get_execution", execution_id=execution)
    assert state["status"] in {"queued", "running"}, "only the wait was given up"
    assert "no_result" in await refusal(ada_client, "get_result", execution_id=execution)

    await ask(ada_client, "cancel_execution", execution_id=execution)
    ended = await ask(ada_client, "wait_for_execution", execution_id=execution)
    assert (ended["status"], ended["cancel_requested_by"]) == ("cancelled", ada.name)


async def test_a_question_ends_the_wait_and_its_answer_lets_the_execution_go_on(
    ada_client: Client, worker: Program
) -> None:
    accepted = await ask(ada_client, "execute_task", task="ask", variables={"text": ""})
    execution = accepted["execution_id"]

    waited = await ask(ada_client, "wait_for_execution", execution_id=execution, timeout_seconds=60)
    assert (waited["ended"], waited["asks"]) == (False, True)
    listed = await ask(ada_client, "list_approvals", execution_id=execution)
    (question,) = listed["approvals"]
    assert (question["title"], question["kind"]) == ("Which colour?", "question")
    answered = await ask(
        ada_client, "answer_approval", approval_id=question["id"], approved=True, value="blue"
    )
    assert answered["status"] == "answered"

    done = await ask(ada_client, "wait_for_execution", execution_id=execution, timeout_seconds=60)
    assert (done["status"], done["asks"]) == ("completed", False)
    assert done["result"]["value"] == "blue"
    late = await refusal(ada_client, "answer_approval", approval_id=question["id"], approved=False)
    assert "[approval_closed]" in late


async def test_bad_input_is_reported_with_its_code_and_a_hint(ada_client: Client) -> None:
    unknown = await refusal(ada_client, "get_task", task="no-such-task")
    assert "There is no task no-such-task. [not_found]\nlist_tasks" in unknown
    wrong = await refusal(ada_client, "execute_task", task="note", variables={"dairy": "x"})
    assert "[variables_invalid]" in wrong
    assert "get_task shows the schema" in wrong
    late = await refusal(
        ada_client, "execute_task", task="note", variables={"diary": "x"}, delay_seconds=60,
        expires_in=30,
    )  # fmt: skip
    assert "expires_in" in late
    misspelt = await refusal(ada_client, "execute_task", task="note", vars={"diary": "x"})
    assert "vars\n  Extra inputs are not permitted" in misspelt
    no_id = await refusal(ada_client, "get_execution", execution_id="latest")
    assert "valid UUID" in no_id
    assert "[not_found]" in await refusal(ada_client, "get_execution", execution_id=str(uuid4()))


async def test_a_viewers_key_reads_and_starts_nothing(
    http: httpx.Client, ada: Person, tmp_path: Path
) -> None:
    url = str(http.base_url)
    async with over_stdio(tmp_path, api_url=url, key=ada.viewer_key) as client:
        assert (await ask(client, "list_tasks"))["tasks"]
        refused = await refusal(client, "execute_task", task="note", variables={"diary": "x"})

    assert "[forbidden]\nThe API key may not do this" in refused


async def test_what_is_somebody_elses_is_not_found(
    http: httpx.Client, fleet: Fleet, bob: Person, tmp_path: Path, worker: Program
) -> None:
    other = fleet.submit(fleet.task("noop"))
    async with over_stdio(tmp_path, api_url=str(http.base_url), key=bob.key) as client:
        assert (await ask(client, "list_tasks"))["tasks"] == []
        for tool in ("get_execution", "cancel_execution", "wait_for_execution", "list_events",
                     "get_result", "get_report"):  # fmt: skip
            assert "[not_found]" in await refusal(client, tool, execution_id=str(other)), tool
        assert "[not_found]" in await refusal(client, "execute_task", task="note")


async def test_an_unreachable_api_is_reported_and_the_server_stays(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{reserve_port()}"
    async with over_stdio(tmp_path, api_url=url, key="cel_none", mode="legacy") as client:
        for _ in range(2):
            message = await refusal(client, "list_tasks")
            assert f"The API at {url} doesn't answer" in message
            assert "[unreachable]" in message
