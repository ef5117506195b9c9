"""The audit trail over HTTP: its entries, and whether they were changed."""

from typing import Annotated

from fastapi import APIRouter, Query

from celeriac import wire
from celeriac.api.core.auth import Admin, Caller, Cursor, Limit, Services
from celeriac.api.core.requests import JsonRoute
from celeriac.api.core.responses import READING, problem_responses
from celeriac.domain.audit import AuditFilter

router = APIRouter(prefix="/audit-logs", tags=["audit"], route_class=JsonRoute)

_MAX_POSITION = 2**63 - 1
_Word = Annotated[str | None, Query(max_length=100, pattern=r"^[A-Za-z0-9_.-]+$")]


@router.get("", operation_id="list_audit_logs", summary="List the audit trail", responses=READING)
def find(
    actor: Caller,
    services: Services,
    action: Annotated[_Word, Query(description="As in `execution.cancel`.")] = None,
    resource_type: Annotated[_Word, Query(description="As in `execution`.")] = None,
    resource_id: Annotated[_Word, Query(description="The resource's id.")] = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> wire.Page[wire.AuditEntry]:
    """Return what you have done, the newest first; an admin sees what everybody has done."""
    wanted = AuditFilter(action=action, resource_type=resource_type, resource_id=resource_id)
    page = services.queries.audit(actor, wanted, cursor=cursor, limit=limit)
    items = [wire.AuditEntry.model_validate(entry) for entry in page.items]
    return wire.Page(items=items, next_cursor=page.next_cursor)


@router.get(
    "/verification",
    operation_id="verify_audit_logs",
    summary="Check the audit trail",
    responses=READING | problem_responses(403),
)
def verify(
    actor: Admin,  # noqa: ARG001 - asked for its permission
    services: Services,
    after: Annotated[
        int, Query(ge=0, le=_MAX_POSITION, description="`last_position` of the page before.")
    ] = 0,
    limit: Annotated[int, Query(ge=1, le=100, description="Seals on a page.")] = 20,
) -> wire.AuditVerification:
    """Check the next seals of the audit trail against the entries under them.

    A seal covers up to 1,000 entries. The trail is unchanged if no page until the one that is
    `complete` has a fault. Keep the last `head` elsewhere: if a later check does not pass it, the
    end of the trail was cut off.
    """
    found = services.audit_trail.verify(after=after, seals=limit)
    return wire.AuditVerification.model_validate(found)
