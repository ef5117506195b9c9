"""Reports over HTTP."""

from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response

from celeriac import wire
from celeriac.api.core import links
from celeriac.api.core.auth import Caller, Services
from celeriac.api.core.requests import JsonRoute
from celeriac.api.core.responses import READING, problem_responses
from celeriac.api.v1.executions import ExecutionPath
from celeriac.domain.reports import CONTENT_SECURITY_POLICY, ReportFormat

router = APIRouter(prefix="/task-executions", tags=["executions"], route_class=JsonRoute)

_MEDIA = {
    ReportFormat.MARKDOWN: ("text/markdown; charset=utf-8", "md"),
    ReportFormat.HTML: ("text/html; charset=utf-8", "html"),
}


@router.get(
    "/{execution_id}/report",
    operation_id="get_report",
    summary="Download an execution's report",
    response_class=Response,
    responses=READING
    | problem_responses(404, 409)
    | {
        200: {
            "description": "The report.",
            "content": {
                "text/markdown": {"schema": {"type": "string"}},
                "text/html": {"schema": {"type": "string"}},
            },
        }
    },
)
def report(
    execution_id: ExecutionPath,
    actor: Caller,
    services: Services,
    format: Annotated[  # noqa: A002 - the parameter's public name
        ReportFormat, Query(description="markdown or html.")
    ] = ReportFormat.MARKDOWN,
) -> Response:
    """Return what an execution did, for people: result, conversation, tools, cost, timeline.

    It is made once and kept: the same bytes each time.
    """
    made = services.reports(actor, execution_id, format)
    media, ending = _MEDIA[made.format]
    headers = {
        "Content-Disposition": f'attachment; filename="execution-{execution_id}.{ending}"',
        "Content-Security-Policy": f"{CONTENT_SECURITY_POLICY}; sandbox",
        "ETag": f'"{made.sha256}"',
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
    }
    return Response(made.content, media_type=media, headers=headers)


@router.get(
    "/{execution_id}/reports",
    operation_id="list_reports",
    summary="List an execution's reports",
    responses=READING | problem_responses(404),
)
def reports(execution_id: ExecutionPath, actor: Caller, services: Services) -> wire.Reports:
    """Return which reports were made so far, with their sizes.

    Those of executions that told something are made when these end, others when they are asked for.
    """
    path = f"{links.PREFIX}/task-executions/{execution_id}/report"
    return wire.Reports(
        items=[
            wire.Report(
                format=each.format,
                size=each.size,
                sha256=each.sha256,
                created_at=each.created_at,
                links={"self": f"{path}?format={each.format}"},
            )
            for each in services.reports.stored(actor, execution_id)
        ]
    )
