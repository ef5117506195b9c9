"""Labels: stored with their execution, carried by its repeats, used by filters and limits."""

import asyncio
from collections.abc import Mapping
from typing import Any
from uuid import UUID, uuid4

import pytest

from celeriac.db import retention
from celeriac.db.executions import queries
from celeriac.domain.errors import (
    InputInvalidError,
    InvalidInputError,
    LeaseLostError,
    NotFoundError,
)
from celeriac.domain.executions.events import EventType
from celeriac.domain.executions.model import (
    Claim,
    Completed,
    ExecutionFilter,
    SubmitRequest,
)
from celeriac.domain.executions.states import Status
from celeriac.domain.labels import Label
from celeriac.domain.limits import ConcurrencyLimit
from celeriac.domain.tasks import TaskSpec
from celeriac.services.executions import attempt_labels
from celeriac.services.executions.attempt import Attempt
from celeriac.services.executions.attempt_labels import MOST_CHANGES, AttemptLabels
from celeriac.services.executions.change import Change
from tests.support.catalog import make_actor
from tests.support.core import Core
from tests.support.spending import services_of

pytestmark = pytest.mark.requirement("F19")

ACME, BETA, EU = Label("customer", "acme"), Label("customer", "beta"), Label("region", "eu")


def _submit(core: Core, *labels: Label) -> UUID:
    request = SubmitRequest(task_id=core.task, labels={each.key: each.value for each in labels})
    return core.submit(core.actor, request).execution_id


def _found(core: Core, *labels: Label, **more: Any) -> list[UUID]:
    wanted = ExecutionFilter(workspace_id=core.actor.workspace_id, labels=labels, **more)
    with core.database.autocommit() as connection:
        ids = queries.find_ids(connection, wanted, before=None, limit=9)
        assert queries.count(connection, wanted, before=None, most=9) == len(ids)
        rows = queries.find(connection, wanted, before=None, limit=9).items
    assert [each.id for each in rows] == ids
    return ids


def test_executions_are_found_by_their_labels(core: Core) -> None:
    first = _submit(core, ACME, EU)
    second = _submit(core, ACME)
    third = _submit(core, BETA, EU)
    none = _submit(core)
    assert _found(core, ACME) == [second, first]
    assert _found(core, ACME, EU) == [first]
    assert _found(core, ACME, BETA) == []
    assert _found(core, without_labels=(ACME,)) == [none, third]
    assert _found(core, EU, without_labels=(BETA,)) == [first]
    assert _found(core, EU, statuses=(Status.QUEUED, Status.PENDING)) == [third, first]
    assert _found(core, EU, statuses=(Status.COMPLETED,)) == []
    elsewhere = ExecutionFilter(workspace_id=uuid4(), labels=(ACME,))
    with core.database.autocommit() as connection:
        assert queries.find_ids(connection, elsewhere, before=None, limit=9) == []


def test_a_batch_and_a_repeat_have_them_and_the_end_of_an_execution_keeps_them(core: Core) -> None:
    request = SubmitRequest(task_id=core.task, labels={"region": "eu", "customer": "acme"})
    batch = core.submit.batch(core.actor, request, [{}, {}])
    core.dispatch.send_due()
    claim = core.claim(core.message(batch.execution_ids[0]))
    assert claim is not None
    core.end(claim, Completed(1))
    again = core.submit.repeat(core.actor, batch.execution_ids[0])
    assert core.get(again.execution_id).labels == {"customer": "acme", "region": "eu"}
    assert _found(core, ACME, EU) == [again.execution_id, *reversed(batch.execution_ids)]
    core.assert_consistent()


def test_a_limit_by_a_label(core: Core) -> None:
    limit = ConcurrencyLimit(key="labels.customer", max=1)
    core = Core(core.database, TaskSpec(concurrency=[limit]))
    held, waits = _submit(core, ACME), _submit(core, ACME)
    other = _submit(core, BETA)
    core.dispatch.send_due()
    statuses = [core.get(each).status for each in (held, waits, other)]
    assert statuses == [Status.QUEUED, Status.PENDING, Status.QUEUED]
    assert _found(core, ACME) == [waits, held]
    with pytest.raises(InputInvalidError, match="customer"):
        _submit(core)
    core.assert_consistent()


def test_they_are_deleted_with_their_execution(core: Core) -> None:
    claim = core.claim(core.message(_submit(core, ACME, EU)))
    assert claim is not None
    core.end(claim, Completed(1))
    kept = _submit(core, ACME)
    with core.database.transaction() as connection:
        assert retention.delete_executions(connection, [claim.lease.execution_id, kept]) == 1
    assert _found(core, ACME) == [kept]
    assert core.count("execution_labels") == 1


def test_they_are_changed_at_any_time(core: Core) -> None:
    change = Change(core.database, core.dispatch)
    claim = core.claim(core.message(_submit(core, ACME)))
    assert claim is not None
    execution_id = claim.lease.execution_id
    changed = change.label(core.actor, execution_id, {"customer": "beta", "region": "eu"})
    assert changed.labels == {"customer": "beta", "region": "eu"}
    core.end(claim, Completed(1))
    change.label(core.actor, execution_id, {"customer": None, "none": None})
    assert core.get(execution_id).labels == {"region": "eu"}
    assert (_found(core, BETA), _found(core, EU)) == ([], [execution_id])
    before = core.count("audit_logs")
    change.label(core.actor, execution_id, {"region": "eu"})
    assert core.count("audit_logs") == before, "nothing was changed"
    with pytest.raises(InvalidInputError, match="the most are 16"):
        change.label(core.actor, execution_id, {f"k{number}": "v" for number in range(16)})
    with pytest.raises(NotFoundError):
        change.label(make_actor(core.database), execution_id, {"region": "us"})
    change.label(core.actor, execution_id, {"region": None})
    assert core.get(execution_id).labels == {}
    core.assert_consistent()


def _labels_of(core: Core, claim: Claim) -> AttemptLabels:
    services = services_of(core.database, core.live, core.queue)
    return AttemptLabels(services.steps, Attempt(claim.lease))


def _events(core: Core, execution_id: UUID) -> list[Mapping[str, Any]]:
    return [each.data for each in core.events(execution_id) if each.type is EventType.LABELLED]


def test_an_agent_labels_its_execution_under_its_lease(core: Core) -> None:
    execution_id = _submit(core, ACME, EU)
    claim = core.claim(core.message(execution_id))
    assert claim is not None
    labels = _labels_of(core, claim)
    after = asyncio.run(labels.change({"customer": "beta", "region": None}))
    assert after == {"customer": "beta"}
    assert asyncio.run(labels.change({"customer": "beta"})) == after
    for wrong in ({"no key": "x"}, {"n": 1}, {f"k{n}": "x" for n in range(16)}):
        with pytest.raises(InvalidInputError, match="labels"):
            asyncio.run(labels.change(wrong))
    assert _found(core, BETA) == [execution_id]
    assert _found(core, ACME) == _found(core, EU) == []
    changed = {"from": {"customer": "acme", "region": "eu"}, "to": {"customer": "beta"}}
    assert _events(core, execution_id) == [changed]
    after = asyncio.run(labels.change({"a_longer_key": "x"}))
    assert (
        list(_events(core, execution_id)[-1]["to"]) == list(after) == ["a_longer_key", "customer"]
    )

    labels._changes = MOST_CHANGES
    with pytest.raises(InvalidInputError, match="200 times"):
        asyncio.run(labels.change({"customer": "acme"}))
    assert asyncio.run(labels.change({})) == after

    core.end(claim, Completed(1))
    with pytest.raises(LeaseLostError):
        asyncio.run(_labels_of(core, claim).change({"customer": "acme"}))
    assert core.get(execution_id).labels == after
    core.assert_consistent()


def test_changes_at_once_are_counted_one_by_one(
    core: Core, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that began before the first was stored passed the bound of events."""
    monkeypatch.setattr(attempt_labels, "MOST_CHANGES", 3)
    claim = core.claim(core.message(_submit(core, ACME)))
    assert claim is not None
    labels = _labels_of(core, claim)

    async def burst() -> list[object]:
        changes = (labels.change({"customer": f"c{number}"}) for number in range(10))
        return list(await asyncio.gather(*changes, return_exceptions=True))

    refused = [each for each in asyncio.run(burst()) if isinstance(each, InvalidInputError)]

    assert len(refused) == 7
    assert len(_events(core, claim.lease.execution_id)) == 3
