"""Limits of the workspace in tests of the core."""

from dataclasses import replace
from typing import Any

from celeriac.domain.accounts import Actor, Role
from celeriac.domain.workspace_limits import LimitSpec
from celeriac.services.executions.attach import AttachLimits
from celeriac.services.limits import UsedLimit, WorkspaceLimits
from tests.support.core import Core
from tests.support.workflows import advance_of


def admin_of(core: Core) -> Actor:
    """Return the core's actor as an admin of the workspace."""
    return replace(core.actor, role=Role.ADMIN)


def limits_of(core: Core) -> WorkspaceLimits:
    """Return the service."""
    return WorkspaceLimits(core.database, core.limits, core.dispatch, advance_of(core))


def limit(core: Core, name: str = "keys", *, of_task: bool = False, **spec: Any) -> UsedLimit:
    """Make a limit of the workspace, or of the core's task."""
    task_id = core.task if of_task else None
    return limits_of(core).create(admin_of(core), name, LimitSpec(**spec), task_id=task_id)


def walk(core: Core) -> None:
    """Let the keeper look at all limits whose look is due."""
    attach = AttachLimits(core.database)
    while attach():
        pass
