"""Cancelling and repeating many executions while something is wrong: lost answers, bad input."""

from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text

from celeriac.client import Client
from celeriac.domain.accounts import Actor, Role
from celeriac.domain.errors import DatabaseUnavailableError
from celeriac.domain.executions.model import ExecutionFilter, Failed, Failure, Idempotency
from celeriac.domain.executions.states import Status
from celeriac.services.executions import repeat
from celeriac.services.executions.bulk import Bulk
from celeriac.services.executions.change import Change
from celeriac.services.executions.repeat import Repeat
from celeriac.wire import BulkResult
from celeriac.wiring.core import CoreServices
from tests.support.api import EXECUTE, TASK, Asker, assert_problem
from tests.support.forgetful import ForgetfulDatabase
from tests.support.working import claim, finish

EXECUTIONS = "/api/v1/task-executions"
CANCEL, RETRY = f"{EXECUTIONS}/bulk/cancel", f"{EXECUTIONS}/bulk/retry"
ONE = {"variables": {"text": "One."}}
FAILED = Failed(Failure("agent_failed", "No."))


def _run(asker: Asker, path: str = EXECUTE, **body: Any) -> str:
    response = asker.post(path, json=ONE | body)
    assert response.status_code == 202, response.text
    return str(response.json()["execution_id"])


def _fail(asker: Asker, container: CoreServices, path: str = EXECUTE, **body: Any) -> str:
    execution_id = _run(asker, path, **body)
    finish(container, claim(container, execution_id), FAILED)
    return execution_id


def _statuses(asker: Asker) -> dict[str, str]:
    return {each["id"]: each["status"] for each in asker.get(EXECUTIONS).json()["items"]}


def test_an_expensive_prompt_takes_nothing_from_the_others(
    ada: Asker, container: CoreServices
) -> None:
    prompt = "{% for a in range(n) %}{{ a }}{{ a }}{% endfor %}"
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}}
    spec = {"prompt": prompt, "variables_schema": schema}
    ada.post("/api/v1/tasks", json={"name": "heavy", "agent": "writer", "spec": spec})
    path = "/api/v1/tasks/heavy/execute"
    failed = [_fail(ada, container, path, variables={"n": 6_000}) for _ in range(40)]
    single = ada.post(f"{EXECUTIONS}/{failed[0]}/retry")
    assert single.status_code == 202, "alone it can be run"
    done = ada.post(RETRY, json={"limit": 500}).json()
    assert (done["affected"], done["skipped"], done["remaining"]) == (40, [], 0)


def test_a_page_ends_where_checking_takes_too_long(
    ada: Asker, container: CoreServices, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = [_fail(ada, container) for _ in range(3)]
    monkeypatch.setattr(repeat, "_CHECK_SECONDS", 0.0)
    wanted: dict[str, Any] = {"limit": 500}
    seen = []
    for left in (2, 1, 0):
        done = ada.post(RETRY, json=wanted).json()
        assert (done["affected"], done["remaining"]) == (1, left)
        seen += [ada.get(f"{EXECUTIONS}/{done['execution_ids'][0]}").json()["origin_id"]]
        wanted["cursor"] = done["next_cursor"]
    assert seen == failed[::-1]


def test_a_repeated_request_says_again_what_was_skipped(
    ada: Asker, container: CoreServices
) -> None:
    ada.post("/api/v1/tasks", json=TASK | {"name": "asleep"})
    _fail(ada, container)
    skipped = _fail(ada, container, "/api/v1/tasks/asleep/execute")
    _fail(ada, container, "/api/v1/tasks/asleep/execute", variables={"text": "x"}, record=True)
    ada.patch("/api/v1/tasks/asleep", json={"active": False})
    key = {"Idempotency-Key": "k"}
    first = ada.post(RETRY, json={"limit": 9}, headers=key)
    assert first.json()["skipped"][-1]["execution_id"] == skipped
    again = ada.post(RETRY, json={"limit": 9}, headers=key)
    assert again.headers["idempotent-replayed"] == "true"
    assert again.json() == first.json()


@pytest.mark.parametrize("path", [CANCEL, RETRY])
def test_without_the_count_nothing_is_changed(
    ada: Asker, container: CoreServices, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    """What was changed and then not answered would not be found by a second request."""
    before = {_fail(ada, container): "failed", _run(ada): "queued"}

    def count(*_: object, **__: object) -> int:
        raise DatabaseUnavailableError("the connection was cut")

    monkeypatch.setattr("celeriac.db.executions.queries.count", count)
    assert_problem(ada.post(path, json={"limit": 9}), 503, "database_unavailable")
    assert _statuses(ada) == before


@pytest.fixture
def forgetful(container: CoreServices) -> Iterator[ForgetfulDatabase]:
    database = ForgetfulDatabase(container.database)
    yield database
    database.settle()
    database.close()


@pytest.mark.parametrize("lost", ["losses", "late"])
def test_a_retry_whose_answer_got_lost_is_made_once(
    ada: Asker,
    container: CoreServices,
    forgetful: ForgetfulDatabase,
    monkeypatch: pytest.MonkeyPatch,
    lost: str,
) -> None:
    for _ in range(3):
        _fail(ada, container)
    me = ada.get("/api/v1/me").json()
    actor = Actor(UUID(me["id"]), "ada", Role.OPERATOR, UUID(me["workspace_id"]))
    change = Change(forgetful, container.dispatch)
    changes = Bulk(forgetful, container.cancel, change, Repeat(forgetful, container.specs))
    once = Idempotency("night", "f")
    wanted = ExecutionFilter(statuses=[Status.FAILED])
    counted = Bulk._page

    def count_then_lose(*given: Any, **more: Any) -> Any:
        page = counted(*given, **more)
        if not losing:
            setattr(forgetful, lost, 1)  # of the unit of work that stores all
            losing.append(True)
        return page

    losing: list[bool] = []
    monkeypatch.setattr(Bulk, "_page", count_then_lose)
    with pytest.raises(DatabaseUnavailableError):
        changes.retry(actor, wanted, cursor=None, limit=2, idempotency=once)
    done = changes.retry(actor, wanted, cursor=None, limit=2, idempotency=once)
    assert (done.created, len(done.execution_ids), done.remaining) == (False, 2, 1)
    assert sorted(map(str, done.execution_ids)) == sorted(
        each for each, status in _statuses(ada).items() if status != "failed"
    )


def test_large_variables_are_retried_page_by_page(ada: Asker, container: CoreServices) -> None:
    large = "x" * 990_000
    failed = {_fail(ada, container, variables={"text": large + str(n)}) for n in range(6)}
    wanted: dict[str, Any] = {"limit": 500}
    repeated: list[str] = []
    while True:
        done = ada.post(RETRY, json=wanted).json()
        assert 1 <= done["affected"] < 6
        found = ada.get(f"{EXECUTIONS}?batch_id={done['batch_id']}").json()["items"]
        repeated += [each["origin_id"] for each in found]
        if done["next_cursor"] is None:
            break
        wanted["cursor"] = done["next_cursor"]
    assert sorted(repeated) == sorted(failed)


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        (CANCEL, {"limit": 1, "id": []}, "id"),
        (RETRY, {"limit": 1, "id": []}, "id"),
        (CANCEL, {"limit": 1, "status": []}, "status"),
        (CANCEL, {"limit": True}, "limit"),
        (CANCEL, {"limit": 1, "task": ""}, "task"),
        (CANCEL, {"limit": 1, "created_after": "0001-01-01T00:00:00Z"}, "created_after"),
        (CANCEL, {"limit": 1, "cursor": "x" * 201}, "cursor"),
        (CANCEL, {"limit": 1, "label": []}, "label"),
        (RETRY, {"limit": 1, "cancellable": False}, "cancellable"),
        (RETRY, {"limit": 1, "owner_id": str(UUID(int=1))}, "owner_id"),
    ],
)
def test_an_empty_or_odd_filter_does_not_select_everything(
    ada: Asker, path: str, body: dict[str, Any], field: str
) -> None:
    waiting = _run(ada)
    problem = assert_problem(ada.post(path, json=body), 422, "invalid_input")
    assert problem["field"].split(".")[0] == field
    assert _statuses(ada) == {waiting: "queued"}


@pytest.mark.parametrize("cursor", ["", "é", "\0", "YnVsazo", "YnVsazo" + "A" * 40, "=", "💥" * 9])
def test_a_made_up_cursor_is_refused(ada: Asker, cursor: str) -> None:
    for path in (CANCEL, RETRY):
        for query in ("", "?dry_run=true"):
            response = ada.post(path + query, json={"limit": 1, "cursor": cursor})
            assert response.status_code == 422, response.text


@pytest.mark.requirement("A20")
def test_cursors_and_keys_of_others_show_nothing(
    ada: Asker, person: Callable[..., Asker], container: CoreServices
) -> None:
    failed = [_fail(ada, container) for _ in range(3)]
    key = {"Idempotency-Key": "night"}
    first = ada.post(RETRY, json={"limit": 1}, headers=key).json()
    eve = person("eve")
    nothing: dict[str, Any] = {
        "dry_run": False,
        "affected": 0,
        "execution_ids": [],
        "skipped": [],
        "remaining": 0,
        "next_cursor": None,
        "batch_id": None,
        "_links": {"executions": None},
    }
    mine: list[dict[str, Any]] = [
        {"cursor": first["next_cursor"]},
        {"batch_id": first["batch_id"]},
        {"origin_id": failed[0]},
        {"id": failed},
    ]
    for wanted in mine:
        response = eve.post(RETRY, json=wanted | {"limit": 5}, headers=key)
        assert (response.status_code, response.json()) == (202, nothing), wanted
        assert eve.post(CANCEL, json=wanted | {"limit": 5}).json() == nothing, wanted
    words = [
        eve.post(RETRY, json={"limit": 1, "task": name}).json()["detail"].replace(name, "")
        for name in ("summarise", "no-such-task")
    ]
    assert words[0] == words[1]


def test_a_disabled_user_and_a_revoked_key_change_nothing(
    ada: Asker, admin: Asker, container: CoreServices
) -> None:
    before = {_fail(ada, container): "failed", _run(ada): "queued"}
    me = ada.get("/api/v1/me").json()
    assert admin.patch(f"/api/v1/users/{me['id']}", json={"disabled": True}).status_code == 200
    for path in (CANCEL, RETRY):
        assert_problem(ada.post(path, json={"limit": 9}), 401, "unauthenticated")
    with container.database.autocommit() as connection:
        rows = connection.execute(text("SELECT id::text, status FROM executions"))
        assert {row[0]: row[1] for row in rows} == before


def test_the_client_reports_each_page_as_it_is_done(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("celeriac.client.executions.changes._PAGE", 2)
    batch = client.executions.execute_batch("summarise", [{"text": str(n)} for n in range(5)])
    seen: list[UUID] = []

    def page(done: BulkResult) -> None:
        seen.extend(done.execution_ids)
        if len(seen) == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        client.executions.cancel_many(batch_id=batch.batch_id, on_page=page)
    assert seen == batch.execution_ids[:0:-1]
    with pytest.raises(ValueError, match="ids is empty"):
        client.executions.cancel_many(ids=[])
    assert client.executions.get(batch.execution_ids[0]).status == "queued"
