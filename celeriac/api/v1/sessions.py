"""Sessions over HTTP, and files of working directories.

Agents write files of any name and content: none of them may run in a browser, and no path leads
out of its directory.
"""

from typing import Annotated, Any
from urllib.parse import quote
from uuid import UUID

from fastapi import APIRouter, Path, Query
from starlette.convertors import PathConvertor, register_url_convertor
from starlette.responses import Response, StreamingResponse

from celeriac import wire
from celeriac.api.core import links, views
from celeriac.api.core.auth import Caller, Operator
from celeriac.api.core.pages import Paging
from celeriac.api.core.parameters import MAX_PAGE, ExecutionPath, Services
from celeriac.api.core.requests import JsonRoute
from celeriac.api.core.responses import problem_responses
from celeriac.domain.agents import RunnerName
from celeriac.domain.sessions import SessionFilter, SessionStatus
from celeriac.kit.files import Listing, OpenFile


class FileConvertor(PathConvertor):
    """A path of any characters; Starlette's own ends at a newline."""

    regex = r"[\s\S]*"


register_url_convertor("file", FileConvertor())

router = APIRouter(prefix="/sessions", tags=["sessions"], route_class=JsonRoute)
execution_files_router = APIRouter(
    prefix="/task-executions/{execution_id}/files", tags=["executions"], route_class=JsonRoute
)

SessionPath = Annotated[UUID, Path(description="The session's id.")]
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


@router.get("", response_model=wire.Page[wire.Session], summary="List sessions")
def list_sessions(
    actor: Caller,
    services: Services,
    paging: Paging,
    execution_id: Annotated[
        UUID | None, Query(description="Those that this execution began or used.")
    ] = None,
    runner: Annotated[RunnerName | None, Query(description="Of this kind of agent.")] = None,
    status: Annotated[SessionStatus | None, Query(description="With this status.")] = None,
) -> Response:
    """Return the sessions of the workspace, the newest first."""
    wanted = SessionFilter(execution_id=execution_id, runner=runner, status=status)
    return paging.answer(views.session, services.sessions.find, actor, wanted)


@router.get("/{session_id}", summary="Get a session")
def get_session(session_id: SessionPath, actor: Caller, services: Services) -> wire.Session:
    """Return a session. Its conversation is in the events of its executions."""
    return views.session(services.sessions.get(actor, session_id))


@router.delete(
    "/{session_id}", status_code=204, summary="Delete a session", responses=problem_responses(409)
)
def delete_session(session_id: SessionPath, actor: Operator, services: Services) -> None:
    """Delete the files of a session and the state that an agent needs to continue it.

    Refused while an execution uses the session, waits for it, or is to fork it. The session stays
    in lists as `deleted`.
    """
    services.sessions.delete(actor, session_id)


@router.get("/{session_id}/files", summary="List a session's files")
def list_session_files(
    session_id: SessionPath,
    actor: Caller,
    services: Services,
    after: _After = None,
    limit: _Limit = 100,
) -> wire.Files:
    """Return the regular files of the session's working directory, of all levels.

    They are on the worker's machine: an API on another one must share its home (docs/sessions.md).
    """
    found = services.artifacts.of_session(actor, session_id).listed(after=after, limit=limit)
    return _files(found, f"{links.PREFIX}/sessions/{session_id}")


@router.get(
    "/{session_id}/files/{path:file}",
    summary="Download a session's file",
    response_class=Response,
    responses=_FILE,
)
def download_session_file(
    session_id: SessionPath, path: _FilePath, actor: Caller, services: Services
) -> Response:
    """Return a file. Only regular files are found, and none behind a symbolic link."""
    return _file(services.artifacts.of_session(actor, session_id).open(path), path)


@execution_files_router.get("", summary="List an execution's files")
def list_execution_files(
    execution_id: ExecutionPath,
    actor: Caller,
    services: Services,
    after: _After = None,
    limit: _Limit = 100,
) -> wire.Files:
    """Return the regular files in the execution's own directory.

    Agents of the runner `claude` work in the directory of their session instead.
    """
    found = services.artifacts.of_execution(actor, execution_id).listed(after=after, limit=limit)
    return _files(found, f"{links.PREFIX}/task-executions/{execution_id}")


@execution_files_router.get(
    "/{path:file}", summary="Download an execution's file", response_class=Response, responses=_FILE
)
def download_execution_file(
    execution_id: ExecutionPath, path: _FilePath, actor: Caller, services: Services
) -> Response:
    """Return a file. Only regular files are found, and none behind a symbolic link."""
    return _file(services.artifacts.of_execution(actor, execution_id).open(path), path)


def _files(found: Listing, owner: str) -> wire.Files:
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
        items=items, next_after=items[-1].path if found.more else None, skipped=found.skipped
    )


def _file(opened: OpenFile, path: str) -> Response:
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
