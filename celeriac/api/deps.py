"""What routes ask for: the parts, who is asking, pages, idempotency keys.

Dependencies that don't wait are coroutines: FastAPI sends plain functions through its thread pool.
"""

from typing import Annotated, cast

from fastapi import Depends, Header, Query, Request
from starlette.concurrency import run_in_threadpool

from celeriac.api import links
from celeriac.api.auth import Admin, Caller, Operator
from celeriac.kit.ids import parse_uuid
from celeriac.wiring import Container, Desk

__all__ = [
    "MAX_PAGE",
    "Admin",
    "AtDesk",
    "Caller",
    "Cursor",
    "IdempotencyKey",
    "Limit",
    "Operator",
    "Shared",
]

MAX_PAGE = 500


async def _container(request: Request) -> Container:
    return cast(Container, request.app.state.container)


async def _desk(request: Request) -> Desk:
    return cast(Desk, request.app.state.desk)


Shared = Annotated[Container, Depends(_container)]
AtDesk = Annotated[Desk, Depends(_desk)]


_RESOURCES = {
    "agents": ("agent", "agent"),
    "api-keys": ("api_key", "key_id"),
    "approvals": ("approval", "approval_id"),
    "audit-logs": ("audit_log", None),
    "budgets": ("budget", "budget_id"),
    "cassettes": ("cassette", "cassette_id"),
    "sessions": ("session", "session_id"),
    "task-executions": ("execution", "execution_id"),
    "tasks": ("task", "task"),
    "usage": ("usage", None),
    "users": ("user", "user_id"),
}
"""Segments of paths, and the type and the path parameter of what they hold."""


async def record_read(request: Request, actor: Caller, desk: AtDesk) -> None:
    """Record in the audit trail that an administrator reads what is another user's."""
    if request.method != "GET" or not actor.sees_all:
        return
    route = request.scope["route"]
    segment = request.url.path.removeprefix(links.PREFIX).split("/")[1]
    if segment not in _RESOURCES:
        return
    resource, parameter = _RESOURCES[segment]
    reference = request.path_params.get(parameter) if parameter else None
    resource_id = None if reference is None else parse_uuid(str(reference))
    if reference is not None and resource_id is None:
        return  # a name, which only finds one's own; or no id at all, which finds nothing
    await run_in_threadpool(
        desk.access_records.admin_read, actor, resource, resource_id, route.operation_id
    )


Cursor = Annotated[
    str | None, Query(max_length=200, description="`next_cursor` of the page before.")
]
Limit = Annotated[int, Query(ge=1, le=MAX_PAGE, description="Items on a page.")]

IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        pattern=r"^[\x21-\x7e]+$",
        description="Any string of your own. The same key with the same request does the work "
        "once and answers the same; with another request it is refused.",
    ),
]
