"""Following a list of executions, as `celeriac executions list --follow` does."""

import pytest

from celeriac import Client
from celeriac.cli.executions import listing
from celeriac.cli.executions.listing import ChangedExecutions
from celeriac.client.executions import ExecutionFilter
from celeriac.domain.executions.model import Completed, Failed, Failure
from celeriac.wire import ExecutionSummary
from celeriac.wiring.core import CoreServices
from tests.support.api import TASK
from tests.support.working import claim, finish

FAILED = Failed(Failure("agent_failed", "No."))


def _run(client: Client, task: str = "summarise") -> str:
    return str(client.executions.execute(task, {"text": "One."}).execution_id)


def _seen(found: list[ExecutionSummary]) -> list[tuple[str, str]]:
    return [(str(each.id), each.status.value) for each in found]


def test_new_ones_and_changes_are_found_once_each(client: Client, container: CoreServices) -> None:
    first, second = _run(client), _run(client)
    changes = ChangedExecutions(client.executions, {})
    assert _seen(changes.first(20)) == [(first, "queued"), (second, "queued")]
    assert changes.poll() == []
    claimed = claim(container, first)
    third = _run(client)
    assert _seen(changes.poll()) == [(first, "running"), (third, "queued")]
    finish(container, claimed, Completed(1))
    client.executions.cancel(third)
    assert sorted(_seen(changes.poll())) == [(first, "completed"), (third, "cancelled")]
    assert changes.poll() == []


def test_an_old_execution_that_comes_to_match_is_found(
    client: Client, container: CoreServices
) -> None:
    old = _run(client)
    ended = _run(client)
    finish(container, claim(container, ended), FAILED)
    wanted: ExecutionFilter = {"status": ["failed"], "error_code": "agent_failed"}
    changes = ChangedExecutions(client.executions, wanted)
    assert _seen(changes.first(20)) == [(ended, "failed")]
    claimed = claim(container, old)
    assert changes.poll() == [], "it runs, which was not asked for"
    finish(container, claimed, FAILED)
    assert _seen(changes.poll()) == [(old, "failed")]


def test_the_limit_bounds_what_is_shown_first_and_not_what_follows(
    client: Client, container: CoreServices
) -> None:
    ids = [_run(client) for _ in range(3)]
    changes = ChangedExecutions(client.executions, {"task": "summarise"})
    assert _seen(changes.first(1)) == [(ids[2], "queued")]
    assert changes.poll() == [], "those that were left out are not new"
    claim(container, ids[0])
    assert _seen(changes.poll()) == [(ids[0], "running")]


def test_other_tasks_are_not_followed(client: Client) -> None:
    client.tasks.create("other", TASK["agent"], TASK["spec"])
    changes = ChangedExecutions(client.executions, {"task": "summarise"})
    assert changes.first(20) == []
    _run(client, "other")
    mine = _run(client)
    assert _seen(changes.poll()) == [(mine, "queued")]


def test_of_many_live_ones_the_newest_are_followed(
    client: Client, container: CoreServices, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "_TRACKED", 3)
    monkeypatch.setattr(listing, "_IDS", 2)
    ids = [_run(client) for _ in range(4)]
    changes = ChangedExecutions(client.executions, {})
    assert len(changes.first(20)) == 4
    for each in ids:
        claim(container, each)
    assert _seen(changes.poll()) == [(each, "running") for each in ids[1:]]


def test_one_that_was_deleted_is_no_longer_asked_for(
    client: Client, container: CoreServices
) -> None:
    gone = _run(client)
    changes = ChangedExecutions(client.executions, {})
    changes.first(20)
    with container.database.autocommit() as connection:
        connection.exec_driver_sql("DELETE FROM executions")
    assert changes.poll() == []
    assert _seen(changes.poll()) == [], gone
