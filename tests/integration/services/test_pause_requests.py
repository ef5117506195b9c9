"""Who may pause and resume what, how many pauses there may be, and what the audit trail has."""

from dataclasses import replace

import pytest

from celeriac.domain.accounts import Role
from celeriac.domain.errors import ConflictError, ForbiddenError, NotFoundError
from celeriac.domain.executions import pauses as domain
from celeriac.domain.executions.pauses import PauseScope, PauseTarget
from celeriac.domain.tasks import DEFAULT_QUEUE
from celeriac.kit.ids import uuid7
from celeriac.services.catalog.tasks import Tasks
from celeriac.services.executions import pauses as service
from celeriac.services.workspaces import Workspaces
from tests.support.catalog import make_actor
from tests.support.core import Core
from tests.support.pauses import (
    OF_ALL_WORK,
    REASON,
    boss,
    pause,
    pauses_of,
    resume,
    target_of,
)

pytestmark = pytest.mark.requirement("F15")


def test_a_second_pause_leaves_the_first_one(core: Core) -> None:
    first = pause(core, PauseScope.QUEUE)
    found, made = pauses_of(core).pause(
        boss(core), target_of(core, PauseScope.QUEUE), "Another reason."
    )
    assert not made
    assert found == first
    assert (found.reason, found.created_by, found.owner_id) == (
        REASON,
        core.actor.name,
        core.actor.user_id,
    )


@pytest.mark.parametrize(
    ("scope", "role"),
    [
        (PauseScope.SYSTEM, None),
        (PauseScope.QUEUE, None),
        (PauseScope.WORKSPACE, Role.ADMIN),
        (PauseScope.TASK, Role.OPERATOR),
    ],
)
def test_who_may_pause_and_resume(core: Core, scope: PauseScope, role: Role | None) -> None:
    paused = pause(core, scope)
    for each in Role:
        actor = replace(core.actor, role=each)
        if role is None or not each.includes(role):
            with pytest.raises(ForbiddenError):
                pauses_of(core).pause(actor, target_of(core, scope), REASON)
            with pytest.raises(ForbiddenError):
                pauses_of(core).resume(actor, paused.id)
    assert core.count("pauses") == 1
    allowed = boss(core) if role is None else replace(core.actor, role=role)
    pauses_of(core).resume(allowed, paused.id)
    assert core.count("pauses") == 0


def test_pauses_of_another_workspace_are_not_there(core: Core) -> None:
    stranger = replace(make_actor(core.database), role=Role.ADMIN)
    made = [pause(core, scope) for scope in OF_ALL_WORK]
    seen = {each.id for each in pauses_of(core).find(stranger).items}
    assert seen == {each.id for each in made if each.workspace_id is None}
    assert {each.id for each in pauses_of(core).find(core.actor).items} == {
        each.id for each in made
    }
    for each in made:
        if each.workspace_id is not None:
            with pytest.raises(NotFoundError):
                pauses_of(core).resume(stranger, each.id)


def test_the_number_of_pauses_is_bounded(core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    assert domain.MOST_PAUSES >= 10
    monkeypatch.setattr(service, "MOST_PAUSES", 2)
    queues = [PauseTarget(PauseScope.QUEUE, name) for name in ("a", "b", "c")]
    for each in queues[:2]:
        pauses_of(core).pause(boss(core), each, REASON)
    pauses_of(core).pause(boss(core), queues[0], REASON)
    with pytest.raises(ConflictError, match="The installation has 2 paused queues"):
        pauses_of(core).pause(boss(core), queues[2], REASON)
    pause(core, PauseScope.SYSTEM)


def test_a_pause_ends_with_its_task_or_workspace(core: Core) -> None:
    pause(core, PauseScope.TASK)
    Tasks(core.database).delete(core.actor, str(core.task))
    assert core.count("pauses") == 0
    administrator = make_actor(core.database, Role.ADMIN)
    made = Workspaces(core.database).create(administrator, "team")
    inside = replace(administrator, workspace_id=made.id)
    pauses_of(core).pause(inside, PauseTarget(PauseScope.WORKSPACE), REASON)
    Workspaces(core.database).delete(administrator, "team")
    assert core.count("pauses") == 0
    with pytest.raises(NotFoundError):
        pauses_of(core).pause(inside, PauseTarget(PauseScope.WORKSPACE), REASON)


def test_pauses_are_in_the_audit_trail(core: Core) -> None:
    for scope in OF_ALL_WORK:
        resume(core, pause(core, scope))
    with core.database.autocommit() as connection:
        found = connection.exec_driver_sql(
            "SELECT action, resource_type, resource_id, details->>'reason' FROM audit_logs"
            " WHERE action LIKE '%%.pause' OR action LIKE '%%.resume' ORDER BY position"
        ).all()
    subjects = {
        PauseScope.SYSTEM: "system",
        PauseScope.QUEUE: DEFAULT_QUEUE,
        PauseScope.TASK: str(core.task),
        PauseScope.WORKSPACE: str(core.actor.workspace_id),
    }
    assert [tuple(row) for row in found] == [
        (f"{scope}.{verb}", scope.value, subjects[scope], REASON)
        for scope in OF_ALL_WORK
        for verb in ("pause", "resume")
    ]


def test_an_unknown_pause_is_not_found(core: Core) -> None:
    with pytest.raises(NotFoundError):
        pauses_of(core).resume(boss(core), uuid7())
    with pytest.raises(NotFoundError):
        pauses_of(core).get(core.actor, uuid7())
