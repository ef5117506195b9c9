"""Storing runs of workflows: with their steps, limits and checked input."""

from collections.abc import Sequence
from dataclasses import replace

from celeriac.db.engine import Connection
from celeriac.db.workflows import limits as limit_rows
from celeriac.db.workflows import runs
from celeriac.db.workflows import steps as rows
from celeriac.db.workflows.runs import NewRun
from celeriac.domain.accounts import Actor, Role
from celeriac.domain.errors import (
    InputInvalidError,
)
from celeriac.domain.executions.events import EventType
from celeriac.domain.limits import KeyedLimit
from celeriac.domain.workflows.records import WorkflowRun
from celeriac.domain.workflows.states import RunStatus
from celeriac.kit.json_types import JsonObject
from celeriac.services.catalog.schemas import violations
from celeriac.services.workflows.plans import Plan


def actor_of(run: WorkflowRun) -> Actor:
    """Return who executions and runs of a run belong to."""
    return Actor(
        user_id=run.owner_id,
        name=run.created_by,
        role=Role.OPERATOR,
        workspace_id=run.workspace_id,
        request_id=run.request_id,
    )


def insert_run(
    connection: Connection,
    plan: Plan,
    new: NewRun,
    limits: Sequence[KeyedLimit] = (),
    *,
    begun: bool = False,
) -> None:
    """Store a run with its steps; it begins when it is advanced, and has slots of its limits.

    `begun`: it goes on with what another one has begun, before those that wait to begin.
    """
    waits = bool(limits) and not begun
    status = RunStatus.PENDING if waits else new.status
    runs.add(connection, replace(new, status=status, limited=bool(limits)))
    steps = [(no, name, plan.step(no).kind) for name, no in plan.numbers.items()]
    rows.add(connection, new.id, steps, due=not waits)
    limit_rows.add(connection, new.id, new.workspace_id, limits, priority=new.priority, begun=begun)
    created: JsonObject = {"trigger_type": new.trigger_type.value, "by": new.created_by}
    if new.origin_id is not None:
        created = {**created, "origin_id": str(new.origin_id)}
    runs.log(connection, new.id, [(EventType.CREATED, created)])


def with_defaults(plan: Plan, given: JsonObject) -> JsonObject:
    """Return an input with the defaults of what it leaves out."""
    properties = plan.spec.input.get("properties")
    if not isinstance(properties, dict):
        return given
    defaults = {
        name: schema["default"]
        for name, schema in properties.items()
        if isinstance(schema, dict) and "default" in schema and name not in given
    }
    return {**given, **defaults}


def check_input(plan: Plan, given: JsonObject) -> None:
    """Raise InputInvalidError naming each fault if an input doesn't fit the workflow."""
    found = violations(plan.spec.input, given)
    if found:
        raise InputInvalidError(
            f"The input doesn't fit the workflow's schema: {'; '.join(found)}.",
            field="input",
            faults=found,
        )
