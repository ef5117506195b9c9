"""Files of working directories over HTTP.

Agents name and fill them as they like: nothing of them may run in a browser, and no path leads out.
"""

from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Path, Query
from starlette.convertors import PathConvertor, register_url_convertor
from starlette.responses import Response, StreamingResponse

from celeriac import wire
from celeriac.api.core import links
from celeriac.api.core.auth import MAX_PAGE, Caller, Services
from celeriac.api.core.requests import JsonRoute
from celeriac.api.core.responses import READING, problem_responses
from celeriac.api.v1.executions import ExecutionPath
from celeriac.api.v1.sessions import SessionPath
from celeriac.kit.files import Listing, OpenFile


class FileConvertor(PathConvertor):
    """A path whose names may hold anything: Starlette's own ends at a newline."""

    regex = r"[\s\S]*"


register_url_convertor("file", FileConvertor())

router = APIRouter(route_class=JsonRoute)

_After = Annotated[
    str | None, Query(max_length=4096, description="`next_after` of the page before.")
]
_Limit = Annotated[int, Query(ge=1, le=MAX_PAGE, description="Files on a page.")]
_FilePath = Annotated[str, Path(max_length=4096, description="The file's path, as listed.")]

_MEDIA = "application/octet-stream"
_FILE: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The file as it was when it was opened.",
        "content": {_MEDIA: {"schema": {"type": "string", "format": "binary"}}},
    }
}
_CHUNK = 256 * 1024


@router.get(
    "/sessions/{session_id}/files",
    operation_id="list_session_files",
    summary="List a session's files",
    tags=["sessions"],
    responses=READING | problem_responses(404),
)
def of_session(
    session_id: SessionPath,
    actor: Caller,
    services: Services,
    after: _After = None,
    limit: _Limit = 100,
) -> wire.Files:
    """Return the regular files of the session's working directory, of all levels.

    They are on the worker's machine: an API elsewhere must share its home (docs/sessions.md).
    """
    found = services.artifacts.of_session(actor, session_id, after=after, limit=limit)
    return _shown(found, f"{links.PREFIX}/sessions/{session_id}")


@router.get(
    "/sessions/{session_id}/files/{path:file}",
    operation_id="download_session_file",
    summary="Download a session's file",
    tags=["sessions"],
    response_class=Response,
    responses=READING | problem_responses(404) | _FILE,
)
def from_session(
    session_id: SessionPath, path: _FilePath, actor: Caller, services: Services
) -> Response:
    """Send a file. What is no regular file, or lies behind a symbolic link, isn't there."""
    return _sent(services.artifacts.open_of_session(actor, session_id, path), path)


@router.get(
    "/task-executions/{execution_id}/files",
    operation_id="list_execution_files",
    summary="List an execution's files",
    tags=["executions"],
    responses=READING | problem_responses(404),
)
def of_execution(
    execution_id: ExecutionPath,
    actor: Caller,
    services: Services,
    after: _After = None,
    limit: _Limit = 100,
) -> wire.Files:
    """Return the regular files that its agent left in the execution's own directory.

    Agents of the kind claude work in the directory of their session instead.
    """
    found = services.artifacts.of_execution(actor, execution_id, after=after, limit=limit)
    return _shown(found, f"{links.PREFIX}/task-executions/{execution_id}")


@router.get(
    "/task-executions/{execution_id}/files/{path:file}",
    operation_id="download_execution_file",
    summary="Download an execution's file",
    tags=["executions"],
    response_class=Response,
    responses=READING | problem_responses(404) | _FILE,
)
def from_execution(
    execution_id: ExecutionPath, path: _FilePath, actor: Caller, services: Services
) -> Response:
    """Send a file. What is no regular file, or lies behind a symbolic link, isn't there."""
    return _sent(services.artifacts.open_of_execution(actor, execution_id, path), path)


def _shown(found: Listing, owner: str) -> wire.Files:
    items = [
        wire.File(
            path=entry.path,
            size=entry.size,
            modified_at=entry.modified_at,
            links={"self": f"{owner}/files/{quote(entry.path)}"},
        )
        for entry in found.files
    ]
    return wire.Files(
        items=items,
        next_after=items[-1].path if found.more else None,
        skipped=found.skipped,
    )


def _sent(opened: OpenFile, path: str) -> Response:
    name = quote(path.rpartition("/")[2], safe="")
    return StreamingResponse(
        opened.chunks(_CHUNK),
        media_type=_MEDIA,
        headers={
            "Content-Length": str(opened.size),
            "Content-Disposition": f"attachment; filename*=UTF-8''{name}",
            "Content-Security-Policy": "default-src 'none'; sandbox",
            "X-Content-Type-Options": "nosniff",
            "Cache-Control": "private, no-store",
        },
    )
