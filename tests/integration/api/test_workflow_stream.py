"""The stream of a run with the ends of its items, over real sockets."""

import json
from threading import Thread
from uuid import UUID

import pytest
from httpx_sse import connect_sse
from sqlalchemy import text

from celeriac.client import Client, ClientError
from celeriac.domain.executions.model import Completed
from celeriac.wire import Event, ItemEnded
from celeriac.wiring.core import CoreServices
from tests.support.waiting import wait_until
from tests.support.working import claim, finish

pytestmark = pytest.mark.requirement("A13")

_STEPS = {
    "each": {
        "task": "summarise", "map": "['a', 'b', 'c']", "with": {"text": "${{ item }}"},
    }
}  # fmt: skip


def end_one(container: CoreServices, client: Client, run_id: UUID, number: int) -> UUID:
    """End the execution of an item of the map; return its id."""
    found = list(client.workflow_runs.items(run_id, "each"))[number].execution_id
    assert found is not None
    finish(container, claim(container, found), Completed(number))
    container.advance.after([run_id])
    return found


@pytest.fixture
def run_id(client: Client) -> UUID:
    client.workflows.create("w", {"steps": _STEPS})
    return client.workflows.start("w").run_id


def test_the_end_of_each_item_is_sent_while_others_run(
    client: Client, container: CoreServices, run_id: UUID
) -> None:
    seen: list[object] = []

    def follow() -> None:
        seen.extend(client.workflow_runs.stream(run_id, items=True, timeout=60))

    thread = Thread(target=follow)
    thread.start()
    ended = []
    for number in (1, 0, 2):
        ended.append(end_one(container, client, run_id, number))
        wait_until(
            lambda: len([each for each in seen if isinstance(each, ItemEnded)]) == len(ended),
            "the end is sent",
        )
    thread.join(60)
    items = [each for each in seen if isinstance(each, ItemEnded)]
    assert [(each.step, each.index, each.status) for each in items] == [
        ("each", 1, "completed"), ("each", 0, "completed"), ("each", 2, "completed"),
    ]  # fmt: skip
    assert [each.execution_id for each in items] == ended
    assert isinstance(seen[-1], Event)
    assert seen[-1].type == "completed"


def test_it_goes_on_after_the_id_of_any_event(
    client: Client, container: CoreServices, run_id: UUID
) -> None:
    for number in range(3):
        end_one(container, client, run_id, number)
    http, path = client._http, f"/api/v1/workflow-runs/{run_id}/stream?items=true"

    def read(**headers: str) -> list[tuple[str, str]]:
        with connect_sse(http, "GET", path, headers=headers) as source:
            return [(each.id, each.data) for each in source.iter_sse() if each.data]

    everything = read()
    assert len(everything) == 3 + len(list(client.workflow_runs.events(run_id)))
    for number, (place, _) in enumerate(everything[:-1]):
        assert read(**{"Last-Event-ID": place}) == everything[number + 1 :]
    ended = http.get(path, headers={"Last-Event-ID": everything[-1][0]})
    assert (ended.status_code, ended.content) == (204, b"")
    # a stream without items has this id for its last event: the ends are still to be sent
    last = everything[-1][0].partition(".")[0]
    ends = read(**{"Last-Event-ID": last})
    assert [json.loads(data)["index"] for _, data in ends] == [0, 1, 2]
    ended = http.get(path, headers={"Last-Event-ID": ends[-1][0]})
    assert (ended.status_code, ended.content) == (204, b"")
    found = list(client.workflow_runs.stream(run_id, after=int(last), items=True, timeout=60))
    assert len(found) == 3, "the client stops, too"
    for wrong in ("x", "1.2", "1.2.3", "-1", "9" * 11, f"1.{'9' * 19}.1.1"):
        refused = http.get(path, headers={"Last-Event-ID": wrong})
        assert (refused.status_code, refused.json()["field"]) == (422, "last-event-id")


def test_the_end_of_the_run_is_sent_though_a_transaction_of_others_goes_on(
    client: Client, container: CoreServices, run_id: UUID
) -> None:
    with container.database.transaction() as other:
        other.execute(text("SELECT pg_current_xact_id()"))
        for number in range(3):
            end_one(container, client, run_id, number)
        seen = list(client.workflow_runs.stream(run_id, items=True, timeout=60))
    assert sorted(each.index for each in seen if isinstance(each, ItemEnded)) == [0, 1, 2]
    assert isinstance(seen[-1], Event)
    assert seen[-1].type == "completed"


def test_a_run_of_another_workspace_is_not_found(
    client: Client, api_url: str, run_id: UUID
) -> None:
    http = client._http
    eve = http.post("/api/v1/users", json={"name": "eve"}).json()
    key = http.post("/api/v1/api-keys", json={"name": "e", "user_id": eve["id"]}).json()
    with Client(api_url, api_key=key["token"]) as other, pytest.raises(ClientError) as refused:
        list(other.workflow_runs.stream(run_id, items=True, timeout=60))
    assert (refused.value.status, refused.value.code) == (404, "not_found")
