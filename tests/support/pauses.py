"""Pauses in tests of the core."""

from dataclasses import replace
from uuid import UUID

from sqlalchemy import text

from celeriac.domain.accounts import Actor, Role
from celeriac.domain.executions.pauses import Pause, PauseScope, PauseTarget
from celeriac.domain.tasks import DEFAULT_QUEUE
from celeriac.services.executions.pauses import Pauses
from tests.support.core import Core

REASON = "The supplier's API is down."
OF_ALL_WORK = (
    PauseScope.SYSTEM,
    PauseScope.QUEUE,
    PauseScope.TASK,
    PauseScope.WORKSPACE,
)
"""The scopes that may have all executions of the core."""


def boss(core: Core) -> Actor:
    """Return the core's actor as an administrator."""
    return replace(core.actor, role=Role.ADMIN, administrator=True)


def pauses_of(core: Core) -> Pauses:
    """Return the service."""
    return Pauses(core.database, core.dispatch, core.limits)


def target_of(core: Core, scope: PauseScope) -> PauseTarget:
    """Return a target that has all executions of the core."""
    queue = DEFAULT_QUEUE if scope is PauseScope.QUEUE else None
    return PauseTarget(scope, queue, core.task if scope is PauseScope.TASK else None)


def pause(core: Core, scope: PauseScope) -> Pause:
    """Pause all executions of the core by this scope."""
    return pauses_of(core).pause(boss(core), target_of(core, scope), REASON)[0]


def resume(core: Core, paused: Pause) -> None:
    """End a pause."""
    pauses_of(core).resume(boss(core), paused.id)


def stored_holds(core: Core) -> dict[UUID, str | None]:
    """Return how rows are held as they are stored, without what pauses add when they are read."""
    with core.database.autocommit() as connection:
        rows = connection.execute(text("SELECT id, held FROM executions"))
        return {row.id: row.held for row in rows}
