"""The Python client against the real API over real sockets."""

from threading import Thread
from uuid import uuid4

import pytest

from celeriac import Client, ClientError
from celeriac.api.app import create_app
from celeriac.client import UnreachableError, WaitTimeoutError
from celeriac.client.executions import ExecutionFilter
from celeriac.domain.executions.model import Completed
from celeriac.domain.executions.states import Status
from celeriac.wire import Event
from celeriac.wiring.core import CoreServices
from tests.support.api import AGENT, TASK, build_accounts
from tests.support.http_server import serving
from tests.support.waiting import wait_until
from tests.support.working import claim, finish


def test_from_nothing_to_a_result(client: Client, container: CoreServices) -> None:
    accepted = client.executions.execute("summarise", {"text": "One."})
    assert accepted.status == "queued"
    claimed = claim(container, accepted.execution_id)
    finish(container, claimed, Completed({"summary": "1"}))
    done = client.executions.wait(accepted.execution_id, timeout=60)
    assert (done.status, done.result) == ("completed", {"summary": "1"})
    assert [event.type for event in client.executions.events(done.id)] == [
        "created", "queued", "started", "completed",
    ]  # fmt: skip
    assert "# summarise: completed" in client.executions.report(done.id)
    again = client.executions.retry(done.id)
    assert client.executions.get(again.execution_id).origin_id == done.id


def test_lists_run_over_all_pages(client: Client) -> None:
    items = [{"text": str(number)} for number in range(230)]
    batch = client.executions.execute_batch("summarise", items)
    assert batch.count == 230
    listed = [execution.id for execution in client.executions.list(batch_id=batch.batch_id)]
    assert listed == list(reversed(batch.execution_ids)), "all, once each, the newest first"


def test_work_is_created_once_under_one_key(client: Client) -> None:
    first = client.executions.execute("summarise", {"text": "a"}, idempotency_key="k1")
    second = client.executions.execute("summarise", {"text": "a"}, idempotency_key="k1")
    assert first.execution_id == second.execution_id
    with pytest.raises(ClientError) as caught:
        client.executions.execute("summarise", {"text": "b"}, idempotency_key="k1")
    assert (caught.value.code, caught.value.status) == ("idempotency_mismatch", 422)


def test_errors_carry_the_api_s_code_and_field(client: Client) -> None:
    with pytest.raises(ClientError) as caught:
        client.executions.execute("summarise", {"text": 1})
    assert caught.value.code == "variables_invalid"
    assert caught.value.fields[0].field == "variables"
    assert caught.value.request_id
    with pytest.raises(ClientError) as caught:
        client.executions.get(uuid4())
    assert (caught.value.code, caught.value.status) == ("not_found", 404)


def test_nobody_there(client: Client) -> None:
    with Client("http://127.0.0.1:1", api_key="x") as lonely, pytest.raises(UnreachableError):
        lonely.executions.cancel(uuid4())


def test_the_key_is_read_from_the_environment_when_asked(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CELERIAC_API_KEY", raising=False)
    monkeypatch.setenv("CELERIAC_API_URL", client.base_url)
    with pytest.raises(ClientError, match="CELERIAC_API_KEY"):
        Client.from_env()
    made = client.keys.create("env")
    monkeypatch.setenv("CELERIAC_API_KEY", made.token)
    with Client.from_env() as other:
        assert other.users.me().name == "admin"


@pytest.mark.requirement("A13")
def test_a_stream_shows_what_happens_while_it_happens(
    client: Client, container: CoreServices
) -> None:
    accepted = client.executions.execute("summarise", {"text": "One."})
    seen: list[object] = []

    def follow() -> None:
        for item in client.executions.stream(accepted.execution_id, timeout=30):
            seen.append(item)  # noqa: PERF402 - one by one, for the test to look at meanwhile

    follower = Thread(target=follow)
    follower.start()
    claimed = claim(container, accepted.execution_id)
    wait_until(lambda: _types(seen)[-1:] == ["started"], "the stream shows the start")
    finish(container, claimed, Completed("done"))
    follower.join(30)
    assert _types(seen) == ["created", "queued", "started", "completed"]


def test_a_stream_survives_the_server_s_restart(container: CoreServices) -> None:
    app = create_app(container)
    token = build_accounts(container).bootstrap_admin().token
    seen: list[object] = []
    with serving(app) as url:
        client = Client(url, token)
        client.agents.create(AGENT["name"], AGENT["spec"])
        client.tasks.create(TASK["name"], TASK["agent"], TASK["spec"])
        accepted = client.executions.execute("summarise", {"text": "One."})

        def follow() -> None:
            for item in client.executions.stream(accepted.execution_id, timeout=60):
                seen.append(item)  # noqa: PERF402 - one by one, for the test to look at meanwhile

        follower = Thread(target=follow)
        follower.start()
        wait_until(lambda: _types(seen) == ["created", "queued"], "the stream has begun")
    claimed = claim(container, accepted.execution_id)
    with serving(create_app(container), port=int(url.rpartition(":")[2])):
        finish(container, claimed, Completed("done"))
        follower.join(60)
    client.close()
    assert _types(seen) == ["created", "queued", "started", "completed"], "no gap, no repeat"


def test_waiting_has_an_end(client: Client) -> None:
    accepted = client.executions.execute("summarise", {"text": "One."})
    with pytest.raises(WaitTimeoutError, match=str(accepted.execution_id)):
        client.executions.wait(accepted.execution_id, timeout=0.3)
    assert client.executions.get(accepted.execution_id).status == Status.QUEUED, "it goes on"


def _types(seen: list[object]) -> list[str]:
    return [item.type.value for item in seen if isinstance(item, Event)]


def test_many_are_cancelled_and_retried_over_all_pages(
    client: Client, container: CoreServices, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("celeriac.client.executions.changes._PAGE", 2)
    batch = client.executions.execute_batch("summarise", [{"text": str(n)} for n in range(7)])
    counted = client.executions.cancel_many(batch_id=batch.batch_id, dry_run=True)
    assert (counted.dry_run, counted.affected, counted.remaining) == (True, 0, 7)
    some = client.executions.cancel_many(batch_id=batch.batch_id, limit=3)
    assert (some.affected, some.remaining) == (3, 4)
    rest = client.executions.cancel_many(batch_id=batch.batch_id)
    assert (rest.remaining, rest.next_cursor) == (0, None)
    wanted: ExecutionFilter = {"status": "cancelled", "ids": batch.execution_ids[:5]}
    done = client.executions.retry_many(**wanted, idempotency_key="night")
    assert (done.affected, done.skipped, done.remaining) == (5, [], 0)
    again = client.executions.retry_many(**wanted, idempotency_key="night")
    assert again.execution_ids == done.execution_ids, "under one key nothing is run twice"
    made = [client.executions.get(each) for each in done.execution_ids]
    assert {each.origin_id for each in made} == set(batch.execution_ids[:5])
