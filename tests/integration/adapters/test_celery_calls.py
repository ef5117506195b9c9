"""Celery tasks are ended by Celery's own means, outside of its worker."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import pytest
from celery import Celery
from celery.app.task import Context
from celery.states import FAILURE, PENDING, REVOKED, SUCCESS

from celeriac.adapters.celery_calls import CeleryCallEnding, new_call
from celeriac.adapters.celery_queue import CeleryOptions, create_app
from celeriac.domain.errors import CeleryCallError
from celeriac.domain.executions.calls import (
    EXECUTE_AGENT,
    Call,
    CallKind,
    Raised,
    Returned,
    Revoked,
)
from celeriac.embedded.home import reserve_port
from celeriac.kit.json_types import loads
from tests.support.servers import ValkeyServer

NEXT = {"task": EXECUTE_AGENT, "args": ["next"], "kwargs": {}, "options": {"task_id": "next"},
        "subtask_type": None, "immutable": False}  # fmt: skip


def app_of(valkey: ValkeyServer, broker_url: str | None = None) -> Celery:
    return create_app(
        CeleryOptions(
            broker_url=broker_url or valkey.url(),
            result_backend=valkey.url(),
            publish_timeout=1.0,
            extra={"result_expires": 1000, "task_publish_retry_policy": {"max_retries": 0}},
        )
    )


@pytest.fixture
def app(valkey_server: ValkeyServer) -> Celery:
    return app_of(valkey_server)


def call_of(**headers: Any) -> Call:
    """Return a stored task with these headers."""
    request = Context(id=str(uuid4()), task=EXECUTE_AGENT, args=["t"], kwargs={}, **headers)
    new = new_call(request)
    nobody = UUID(int=0)
    return Call(new.celery_task_id, new.task_name, CallKind.EXECUTION, nobody, nobody, nobody, 1,
                loads(new.message))  # fmt: skip


def waiting(app: Celery) -> list[str]:
    """Take the messages in the queue of executions; return the ids of their tasks."""
    found = []
    with app.connection_for_read() as connection:
        while message := connection.default_channel.basic_get("task_execution", no_ack=True):
            found.append(message.headers["id"])
    return found


AT = datetime(2030, 1, 2, 3, 4, tzinfo=UTC)


@pytest.mark.parametrize(
    ("expires", "known"),
    [
        (AT.isoformat(), AT),
        ("2030-01-02T03:04:00", AT),
        (AT, AT),
        ("tomorrow", None),
        (60, None),
        (None, None),
    ],
)
def test_what_a_task_starts_expires_with_it(expires: object, known: datetime | None) -> None:
    request = Context(id="i", task=EXECUTE_AGENT, args=["t"], kwargs={}, expires=expires)
    assert new_call(request).expires_at == known


def test_a_result_is_stored_and_the_chain_goes_on(app: Celery) -> None:
    waiting(app)
    call = call_of(chain=[NEXT])
    CeleryCallEnding(app).end(call, Returned({"a": 1}))
    result = app.AsyncResult(call.celery_task_id)
    assert (result.state, result.result) == (SUCCESS, {"a": 1})
    assert waiting(app) == ["next"]


@pytest.mark.parametrize(
    ("outcome", "state"), [(Raised("x: no"), FAILURE), (Revoked("no"), REVOKED)]
)
def test_an_error_ends_the_whole_chain(app: Celery, outcome: Any, state: str) -> None:
    last = str(uuid4())
    call = call_of(chain=[{**NEXT, "options": {"task_id": last}}])
    CeleryCallEnding(app).end(call, outcome)
    for task_id in (call.celery_task_id, last):
        assert app.AsyncResult(task_id).state == state


def test_an_unavailable_broker_fails_no_task(valkey_server: ValkeyServer) -> None:
    away = app_of(valkey_server, f"redis://127.0.0.1:{reserve_port()}/0")
    call = call_of(chain=[NEXT])
    with pytest.raises(Exception, match="refused"):
        CeleryCallEnding(away).end(call, Returned(1))
    assert away.AsyncResult(call.celery_task_id).state == PENDING


@pytest.mark.filterwarnings("ignore:Exception raised outside body:RuntimeWarning")
@pytest.mark.parametrize(
    "poison", [{"task": None}, {**NEXT, "args": 5}, {**NEXT, "options": {"countdown": "soon"}}]
)
def test_callbacks_that_nobody_can_send_are_a_fault(app: Celery, poison: Any) -> None:
    call = call_of(callbacks=[poison])
    with pytest.raises(CeleryCallError):
        CeleryCallEnding(app).end(call, Returned(1))
    CeleryCallEnding(app).end(call, Raised("what follows it can't be sent"))
    assert app.AsyncResult(call.celery_task_id).state == FAILURE


def test_an_ignored_result_is_not_stored(app: Celery) -> None:
    waiting(app)
    call = call_of(chain=[NEXT], ignore_result=True)
    CeleryCallEnding(app).end(call, Returned(1))
    assert app.AsyncResult(call.celery_task_id).state == PENDING
    assert waiting(app) == ["next"]


def test_nothing_is_done_for_a_task_that_has_ended(app: Celery) -> None:
    call = replace(call_of(), message=None)
    CeleryCallEnding(app).end(call, Returned(1))
    assert app.AsyncResult(call.celery_task_id).state == PENDING


def test_open_tasks_and_their_chords_outlive_their_expiry(app: Celery) -> None:
    call = call_of(chain=[{**NEXT, "options": {"task_id": "next", "group_id": "of-the-next"}}],
                   group="its-own")  # fmt: skip
    backend = app.backend
    keys = [
        backend.get_key_for_task(call.celery_task_id),
        backend.get_key_for_group("its-own", ".s"),
        backend.get_key_for_group("of-the-next", ".j"),
    ]
    for key in keys:
        backend.client.set(key, "1", ex=10)
    backend.client.set(backend.get_key_for_group("its-own", ".t"), "1")

    CeleryCallEnding(app).keep([call])

    for key in keys:
        assert 900 < backend.client.ttl(key) <= 1000
    assert backend.client.ttl(backend.get_key_for_group("its-own", ".t")) == -1
