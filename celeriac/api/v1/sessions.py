"""Sessions over HTTP, and files of working directories.

Agents write files of any name and content: none of them may run in a browser, and no path leads
out of its directory.
"""

import re
from typing import Annotated, Any
from urllib.parse import quote
from uuid import UUID

from fastapi import APIRouter, Header, Path, Query
from starlette.convertors import PathConvertor, register_url_convertor
from starlette.responses import RedirectResponse, Response, StreamingResponse

from celeriac import wire
from celeriac.api.core import links, views
from celeriac.api.core.auth import Caller, Operator
from celeriac.api.core.pages import Paging
from celeriac.api.core.parameters import MAX_PAGE, ExecutionPath, Services
from celeriac.api.core.requests import JsonRoute
from celeriac.api.core.responses import problem_responses
from celeriac.domain.agents import RunnerName
from celeriac.domain.sessions import SessionFilter, SessionStatus
from celeriac.services.artifacts import Files, Listing


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
        "description": "The file.",
        "content": {_MEDIA: {"schema": {"type": "string", "format": "binary"}}},
    },
    206: {
        "description": "The bytes that a header `Range` of one range asks for.",
        "content": {_MEDIA: {"schema": {"type": "string", "format": "binary"}}},
    },
    307: {"description": "The object store has the file; with `CELERIAC_OBJECT_STORE_LINKS`."},
}
_WHOLE, _PARTIAL = 200, 206
_RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})")
_Range = Annotated[str | None, Header(alias="Range", include_in_schema=False)]


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

    As they were saved at the end of the last attempt, or when it was parked (docs/sessions.md).
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
    session_id: SessionPath,
    path: _FilePath,
    actor: Caller,
    services: Services,
    wanted: _Range = None,
) -> Response:
    """Return a file. Only regular files are found, and none behind a symbolic link."""
    return _file(services.artifacts.of_session(actor, session_id), path, wanted)


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
    execution_id: ExecutionPath,
    path: _FilePath,
    actor: Caller,
    services: Services,
    wanted: _Range = None,
) -> Response:
    """Return a file. Only regular files are found, and none behind a symbolic link."""
    return _file(services.artifacts.of_execution(actor, execution_id), path, wanted)


def _files(found: Listing, owner: str) -> wire.Files:
    items = [
        wire.File(
            path=entry.path,
            size=entry.size,
            media_type=entry.media_type,
            sha256=entry.digest.hex(),
            execution_id=entry.execution_id,
            modified_at=entry.modified_at,
            created_at=entry.created_at,
            links={"self": f"{owner}/files/{quote(entry.path)}"},
        )
        for entry in found.files
    ]
    return wire.Files(
        items=items, next_after=items[-1].path if found.more else None, skipped=found.skipped
    )


def _file(files: Files, path: str, wanted: str | None) -> Response:
    """Return a file, or a part of it, or where it can be downloaded."""
    file, key = files.find(path)
    link = files.link(key)
    if link is not None:
        return RedirectResponse(link, 307, {"Cache-Control": "private, no-store"})
    start, end, status = _part(wanted, file.size)
    name = quote(path.rpartition("/")[2], safe="")
    headers = {
        "Accept-Ranges": "bytes",
        "ETag": f'"{file.digest.hex()}"',
        "Content-Length": str(end - start),
        "Content-Disposition": f"attachment; filename*=UTF-8''{name}",
        "Content-Security-Policy": "default-src 'none'; sandbox",
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "private, no-store",
    }
    if status == _PARTIAL:
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{file.size}"
    chunks = files.read(key, start, end if status == _PARTIAL else None)
    return StreamingResponse(chunks, status, headers, media_type=_MEDIA)


def _part(wanted: str | None, size: int) -> tuple[int, int, int]:
    """Return the first byte of a range, the one after its last, and the status of the answer.

    A header that asks for several ranges, or for none of the file, is ignored (RFC 9110, 14.2).
    """
    asked = _RANGE.fullmatch(wanted or "")
    first, last = asked.groups() if asked else ("", "")
    if not first and not last:
        return 0, size, _WHOLE
    start = int(first) if first else max(size - int(last), 0)
    end = min(int(last) + 1, size) if first and last else size
    return (start, end, _PARTIAL) if start < end else (0, size, _WHOLE)
