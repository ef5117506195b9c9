"""Whose key a tool call is made with, and what the API's refusals become."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError

from celeriac.client import Client, ClientError

ToolContext = Context[Any, Any]

_BEARER = "bearer "


class Access(Protocol):
    """Gives each tool call a client of the API."""

    def client(self, context: ToolContext) -> AbstractContextManager[Client]:
        """Give the block a client; a ClientError that leaves it becomes the tool's error."""
        ...


class OneKey:
    """Everybody who reaches this server asks with its own key: for stdio, which one program has."""

    def __init__(self, client: Client) -> None:
        """Ask through `client`, which stays the caller's to close."""
        self._client = client

    @contextmanager
    def client(self, context: ToolContext) -> Iterator[Client]:
        """Give the block the client; see `Access.client`."""
        del context
        with _told_to_the_model():
            yield self._client


class KeyOfRequest:
    """Each request asks with the key that it carries as `Authorization: Bearer`."""

    def __init__(self, base_url: str) -> None:
        """Ask the API at `base_url`."""
        self._base_url = base_url

    @contextmanager
    def client(self, context: ToolContext) -> Iterator[Client]:
        """Give the block a client with the request's key; see `Access.client`."""
        key = bearer_key(context.headers or {})
        if key is None:
            raise ToolError(
                "The request carries no API key. [unauthenticated]\n"
                "Send one with each request: `Authorization: Bearer cel_…`."
            )
        with _told_to_the_model(), Client(self._base_url, key) as client:
            yield client


def bearer_key(headers: Mapping[str, str]) -> str | None:
    """Return the key in the header `authorization`; None where there is none."""
    value = headers.get("authorization", "")
    if not value.lower().startswith(_BEARER):
        return None
    return value[len(_BEARER) :].strip() or None


@contextmanager
def _told_to_the_model() -> Iterator[None]:
    try:
        yield
    except ClientError as error:
        raise ToolError(as_tool_error(error)) from error


def as_tool_error(error: ClientError) -> str:
    """Return what a model is told: the message with its code, each wrong field, and the cure."""
    lines = [f"{error.message} [{error.code}]"]
    lines += [f"{each.field}: {each.message}" for each in error.fields]
    cure = _CURES.get(error.code)
    return "\n".join([*lines, cure] if cure else lines)


_CURES = {
    "forbidden": "This server's API key may not do that; ask for one with the role operator.",
    "not_found": "list_tasks and list_executions show what this API key may see.",
    "task_inactive": "Its owner has switched the task off; choose another, or ask them.",
    "unauthenticated": "The API key is wrong, revoked or expired; the server needs another one.",
    "variables_invalid": "get_task shows the schema that the variables must fit.",
    "idempotency_mismatch": "Use another key for other work, or none.",
}
"""What helps, in words for a model that has these tools."""
