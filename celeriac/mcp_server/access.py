"""The API key of a tool call, and the errors of the API for models."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError

from celeriac.client import Client, ClientError

ToolContext = Context[Any, Any]

_BEARER = "bearer "
_WORKSPACE = "celeriac-workspace"


Access = Callable[[ToolContext], AbstractContextManager[Client]]
"""Provides the API client of a tool call; a ClientError of the block becomes a ToolError."""


def one_key(client: Client) -> Access:
    """Use `client` for all calls; for stdio, where one program uses the server."""

    @contextmanager
    def access(_: ToolContext) -> Iterator[Client]:
        with _tool_errors():
            yield client

    return access


def key_of_request(base_url: str) -> Access:
    """Use the API at `base_url` with the key in each request's `Authorization: Bearer`.

    In the workspace that the request names in `Celeriac-Workspace`, if it does.
    """

    @contextmanager
    def access(context: ToolContext) -> Iterator[Client]:
        headers = context.headers or {}
        key, workspace = bearer_key(headers), headers.get(_WORKSPACE)
        if key is None:
            raise ToolError(
                "The request has no API key. [unauthenticated]\n"
                "Send one with each request: `Authorization: Bearer cel_…`."
            )
        with _tool_errors(), Client(base_url, key, workspace=workspace) as client:
            yield client

    return access


def bearer_key(headers: Mapping[str, str]) -> str | None:
    """Return the key in the header `authorization`, or None."""
    value = headers.get("authorization", "")
    if not value.lower().startswith(_BEARER):
        return None
    return value[len(_BEARER) :].strip() or None


@contextmanager
def _tool_errors() -> Iterator[None]:
    try:
        yield
    except ClientError as error:
        raise ToolError(as_tool_error(error)) from error


def as_tool_error(error: ClientError) -> str:
    """Return the text of an error for models: message, code, wrong fields and a hint."""
    lines = [f"{error.message} [{error.code}]"]
    lines += [f"{each.field}: {each.message}" for each in error.fields]
    hint = _HINTS.get(error.code)
    return "\n".join([*lines, hint] if hint else lines)


_HINTS = {
    "forbidden": "The API key may not do this; ask for one with the role operator.",
    "not_found": "list_tasks and list_executions show what the API key may see.",
    "task_inactive": "The task is inactive; choose another one, or ask its owner.",
    "unauthenticated": "The API key is wrong, revoked or expired; use another one.",
    "variables_invalid": "get_task shows the schema that the variables must fit.",
    "idempotency_mismatch": "Use another idempotency_key for other arguments, or none.",
}
"""Hints by error code."""
