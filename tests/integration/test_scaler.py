"""KEDA's query of deploy/kubernetes, on the real schema: what it counts, and what it costs."""

import pytest
from sqlalchemy import text

from celeriac.domain.accounts import Role
from celeriac.domain.executions.model import SubmitRequest
from celeriac.domain.executions.pauses import PauseScope, PauseTarget
from celeriac.domain.tasks import TaskSpec
from celeriac.services.executions.pauses import Pauses
from celeriac.wiring.core import CoreServices
from tests.support import deployment
from tests.support.catalog import make_actor, make_task

pytestmark = pytest.mark.requirement("B14")

[_SCALER] = [
    each
    for each in deployment.documents(deployment.DEPLOY / "kubernetes/keda/worker-scaler.yaml")
    if each["kind"] == "ScaledObject"
]
[_QUERY] = [each["metadata"]["query"] for each in _SCALER["spec"]["triggers"]]


def _count(container: CoreServices) -> int:
    with container.database.autocommit() as connection:
        return int(connection.execute(text(_QUERY)).scalar_one())


def test_it_counts_what_a_worker_could_run(container: CoreServices) -> None:
    actor = make_actor(container.database)
    task = make_task(container.database, actor)
    elsewhere = make_task(container.database, actor, spec=TaskSpec(queue="reports"))
    assert _count(container) == 0
    container.submit(actor, SubmitRequest(task_id=task))  # its message is sent at once
    container.submit.batch(actor, SubmitRequest(task_id=task), [{}, {}])  # due, not sent yet
    container.submit(actor, SubmitRequest(task_id=task, delay_seconds=600))  # not due
    container.submit(actor, SubmitRequest(task_id=elsewhere))
    assert _count(container) == 3
    Pauses(container.database, container.dispatch).pause(
        make_actor(container.database, Role.ADMIN),
        PauseTarget(PauseScope.QUEUE, "task_execution"),
        "A supplier is down.",
    )
    assert _count(container) == 1  # what is due would only wait in more workers


def test_its_parts_are_bounded_and_on_indexes(container: CoreServices) -> None:
    with container.database.autocommit() as connection:
        plan = "\n".join(connection.execute(text(f"EXPLAIN {_QUERY}")).scalars())
    assert plan.count("Limit") == 3
    assert "Seq Scan on executions" not in plan
