"""The audit trail over HTTP."""

from typing import Annotated

from fastapi import APIRouter, Query

from celeriac import wire
from celeriac.api.answers import READING
from celeriac.api.deps import AtDesk, Caller, Cursor, Limit
from celeriac.api.json_route import JsonRoute
from celeriac.db.audit import AuditFilter

router = APIRouter(prefix="/audit-logs", tags=["audit"], route_class=JsonRoute)

_Word = Annotated[str | None, Query(max_length=100, pattern=r"^[A-Za-z0-9_.-]+$")]


@router.get("", operation_id="list_audit_logs", summary="List the audit trail", responses=READING)
def find(
    actor: Caller,
    desk: AtDesk,
    action: Annotated[_Word, Query(description="As in `execution.cancel`.")] = None,
    resource_type: Annotated[_Word, Query(description="As in `execution`.")] = None,
    resource_id: Annotated[_Word, Query(description="The resource's id.")] = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> wire.Page[wire.AuditEntry]:
    """Return what you have done, the newest first; an admin sees what everybody has done."""
    wanted = AuditFilter(action=action, resource_type=resource_type, resource_id=resource_id)
    page = desk.queries.audit(actor, wanted, cursor=cursor, limit=limit)
    items = [wire.AuditEntry.model_validate(entry) for entry in page.items]
    return wire.Page(items=items, next_cursor=page.next_cursor)
