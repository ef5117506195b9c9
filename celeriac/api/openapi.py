"""The API's description of itself."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from celeriac.api.problems import MEDIA_TYPE

_JSON = "application/json"
_PROBLEM = {"$ref": "#/components/schemas/Problem"}

DESCRIPTION = """
Run AI agents in the background: describe a task once, execute it a million times.

Send your API key as `Authorization: Bearer cel_…`. Errors are problems (RFC 9457) with a stable
`code`. Lists come in pages: send `next_cursor` as `cursor`. Work is created once per
`Idempotency-Key`. Times are RFC 3339 in UTC.
"""

TAGS = [
    {"name": "agents", "description": "Who does the work."},
    {"name": "tasks", "description": "Named, reusable pieces of work."},
    {"name": "catalog", "description": "Agents, tasks and budgets from one document."},
    {"name": "executions", "description": "Runs of tasks: start, follow, cancel, repeat."},
    {"name": "sessions", "description": "Conversations that later runs can go on with."},
    {"name": "usage", "description": "What model calls used and cost."},
    {"name": "budgets", "description": "How much model calls may cost."},
    {"name": "cassettes", "description": "Recorded model traffic, to run agents without models."},
    {"name": "approvals", "description": "What agents ask people, and the answers."},
    {"name": "celery tasks", "description": "The Celery tasks behind executions, and plain ones."},
    {"name": "accounts", "description": "Users and API keys."},
    {"name": "audit", "description": "Who did what."},
    {"name": "health", "description": "The state of the service."},
]


def install(app: FastAPI) -> None:
    """Make `app` describe its problems with their own media type."""

    def describe() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = get_openapi(
                title=app.title,
                version=app.version,
                summary=app.summary,
                description=app.description,
                tags=TAGS,
                routes=app.routes,
            )
            _name_problems(schema)
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = describe  # type: ignore[method-assign]


def _name_problems(schema: dict[str, Any]) -> None:
    for path in schema["paths"].values():
        for operation in path.values():
            for response in operation["responses"].values():
                content = response.get("content", {})
                if content.get(_JSON, {}).get("schema") == _PROBLEM:
                    content[MEDIA_TYPE] = content.pop(_JSON)
