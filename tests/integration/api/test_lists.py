"""Lists are small, whatever is in what they list."""

from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text

from celeriac.client import Client
from celeriac.db import sessions
from celeriac.db.paging import MAX_PAGE_BYTES
from celeriac.domain.executions.events import EventType, NewEvent
from celeriac.domain.executions.options import RunOptions
from celeriac.domain.sessions import SessionFilter
from celeriac.kit.json_types import dumps
from celeriac.wiring.core import CoreServices
from tests.support.api import AGENT, TASK, Asker
from tests.support.working import claim, write_events

EXECUTIONS = "/api/v1/task-executions"
_SMALL = 100_000
_MB = 1_000_000


def _grow(container: CoreServices, table: str, column: str, value: str, **where: Any) -> None:
    """Put a large value into rows, as executions, agents or answers would."""
    condition = " AND ".join(f"{name} = :{name}" for name in where) or "true"
    statement = text(f"UPDATE {table} SET {column} = {value} WHERE {condition}")
    with container.database.autocommit() as connection:
        connection.execute(statement, where)


def _grow_specs(container: CoreServices, versions: str, value: str) -> None:
    """Do the same with the contents of the versions of agents or tasks."""
    condition = f"hash IN (SELECT spec_hash FROM {versions})"
    with container.database.autocommit() as connection:
        connection.execute(text(f"UPDATE specs SET body = {value} WHERE {condition}"))


def _pages(asker: Asker, path: str) -> list[dict[str, Any]]:
    """Read all pages of a list; each must be bounded."""
    items: list[dict[str, Any]] = []
    cursor = ""
    joint = "&" if "?" in path else "?"
    while True:
        response = asker.get(f"{path}{joint}limit=500{cursor}")
        assert response.status_code == 200, response.text[:300]
        assert len(response.content) < MAX_PAGE_BYTES + 9 * _MB, "one large one over the limit"
        body = response.json()
        items += body["items"]
        if body["next_cursor"] is None:
            return items
        assert body["items"], "no page is empty before the last one"
        cursor = f"&cursor={body['next_cursor']}"


@pytest.fixture
def heavy(ada: Asker, container: CoreServices) -> list[str]:
    """Twelve executions with 7 MB of variables and 7 MB of results, as text compresses well."""
    path = "/api/v1/tasks/summarise/execute-batch"
    ids = ada.post(path, json={"items": [{"text": "a"}] * 12}).json()["execution_ids"]
    large = "jsonb_build_object('text', repeat('x', 7000000))"
    _grow(container, "execution_inputs", "variables", large)
    with container.database.autocommit() as connection:
        connection.execute(
            text(f"INSERT INTO execution_results SELECT id, {large} FROM executions")
        )
    _grow(container, "executions", "progress_note", "repeat('x', 7000000)")
    _grow(container, "executions", "progress_done", "1")
    return list(ids)


def test_a_list_of_executions_leaves_out_what_is_large(ada: Asker, heavy: list[str]) -> None:
    response = ada.get(f"{EXECUTIONS}?limit=500")
    assert len(response.content) < _SMALL
    items = response.json()["items"]
    assert [item["id"] for item in items] == heavy[::-1]
    assert not {"variables", "result", "error_details"} & set(items[0])
    assert items[0]["options"] == RunOptions().model_dump(mode="json")
    whole = ada.get(items[0]["_links"]["self"]).json()
    assert set(whole) - set(items[0]) == {"variables", "result", "error_details", "child_counts"}
    assert len(whole["result"]["text"]) == 7 * _MB


def test_what_is_large_is_included_when_asked_for_in_bounded_pages(
    ada: Asker, heavy: list[str]
) -> None:
    items = _pages(ada, f"{EXECUTIONS}?include=result")
    assert [item["id"] for item in items] == heavy[::-1], "none is left out, none comes twice"
    assert all(len(item["result"]["text"]) == 7 * _MB for item in items)
    assert "variables" not in items[0]
    response = ada.get(f"{EXECUTIONS}?include=everything")
    assert (response.status_code, response.json()["field"]) == (422, "include.0")


def test_small_ones_are_all_on_one_page(ada: Asker) -> None:
    path = "/api/v1/tasks/summarise/execute-batch"
    ada.post(path, json={"items": [{"text": str(number)} for number in range(60)]})
    page = ada.get(f"{EXECUTIONS}?limit=60&include=variables&include=result").json()
    assert [item["variables"]["text"] for item in page["items"]] == [str(n) for n in range(60)][
        ::-1
    ]
    assert page["next_cursor"] is None
    assert page["items"][0]["result"] is None


@pytest.mark.parametrize("filling", ["repeat('x', 1000000)", "noise"])
def test_lists_of_agents_and_tasks_are_bounded(
    ada: Asker, container: CoreServices, filling: str
) -> None:
    for number in range(20):
        ada.post("/api/v1/agents", json=AGENT | {"name": f"writer{number}"})
        ada.post("/api/v1/tasks", json=TASK | {"name": f"task{number}"})
    if filling == "noise":  # what doesn't compress
        filling = "(SELECT string_agg(md5(g::text), '') FROM generate_series(1, 30000) g)"
    schema = (
        f"jsonb_set(body::jsonb, '{{variables_schema}}', jsonb_build_object('title', {filling}))"
    )
    _grow_specs(container, "task_versions", schema)
    spec = f"jsonb_set(body::jsonb, '{{instructions}}', to_jsonb(left({filling}, 100000)))"
    _grow_specs(container, "agent_versions", spec)
    for path in ("/api/v1/agents", "/api/v1/tasks"):
        assert len(ada.get(f"{path}?limit=500").content) < MAX_PAGE_BYTES + 2 * _MB
        assert len({item["id"] for item in _pages(ada, path)}) == 21


def test_lists_of_sessions_read_no_states(ada: Asker, container: CoreServices) -> None:
    from tests.support.working import begin_session

    accepted = ada.post("/api/v1/tasks/summarise/execute", json={"variables": {"text": "a"}})
    begin_session(container, claim(container, accepted.json()["execution_id"]))
    _grow(container, "sessions", "state", "to_jsonb(repeat('x', 8000000))")
    assert len(ada.get("/api/v1/sessions").content) < _SMALL
    with container.database.autocommit() as connection:
        (found,) = sessions.find(connection, SessionFilter(), before=None, limit=10)
        assert found.state is None
        whole = sessions.get(connection, found.id, workspace=None)
    assert whole is not None
    assert len(whole.state) == 8_000_000


def test_lists_of_questions_are_bounded(ada: Asker, container: CoreServices) -> None:
    from tests.support.asking import a_form, park

    path = "/api/v1/tasks/summarise/execute-batch"
    ids = ada.post(path, json={"items": [{"text": "a"}] * 10}).json()["execution_ids"]
    for execution_id in ids:
        park(container, execution_id, a_form())
    _grow(container, "approvals", "value", "to_jsonb(repeat('x', 2000000))")
    assert len(_pages(ada, "/api/v1/approvals")) == 10
    assert len(ada.get("/api/v1/approvals?limit=500").content) < MAX_PAGE_BYTES + 3 * _MB


def test_lists_of_events_are_bounded(ada: Asker, container: CoreServices, api_url: str) -> None:
    accepted = ada.post("/api/v1/tasks/summarise/execute", json={"variables": {"text": "a"}})
    execution_id = accepted.json()["execution_id"]
    claimed = claim(container, execution_id)
    data = dumps({"role": "assistant", "content": "x" * 2 * _MB})
    for _ in range(10):
        write_events(container, claimed, [NewEvent(EventType.MESSAGE, data)])
    path = f"{EXECUTIONS}/{execution_id}/events"
    assert len(ada.get(f"{path}?limit=500").content) < MAX_PAGE_BYTES + 3 * _MB
    with Client(api_url, ada.token) as client:
        numbers = [event.seq for event in client.executions.events(UUID(execution_id))]
    assert numbers == list(range(1, len(numbers) + 1))
    assert len(numbers) >= 12
