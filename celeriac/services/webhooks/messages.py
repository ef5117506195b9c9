"""The messages that are sent to webhooks, as JSON texts."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any
from uuid import UUID

from celeriac.db.engine import Connection
from celeriac.db.webhooks import facts
from celeriac.db.webhooks.facts import Facts
from celeriac.domain.usage import dollars
from celeriac.domain.webhooks import Due
from celeriac.kit.json_types import JsonObject, dumps

_API = "/api/v1"


class Messages:
    """Builds messages: `type`, `timestamp` (when it happened), `data`, and `links` in it."""

    def __init__(self, public_url: str | None) -> None:
        """Links begin with `public_url`; without it they are paths."""
        self._public_url = public_url or ""

    def of(self, connection: Connection, claimed: Iterable[Due]) -> dict[UUID, str]:
        """Return the messages of deliveries that have none yet, by the deliveries' ids."""
        fresh = [each for each in claimed if each.body is None]
        if not fresh:
            return {}
        known = _Known(connection, fresh)
        return {each.id: self._message(each, known) for each in fresh}

    def _message(self, due: Due, known: "_Known") -> str:
        if due.approval_id is not None:
            data = _told(due.approval_id, known.approvals, due)
            links = {"approval": f"approvals/{due.approval_id}"}
            if due.run_id is not None:
                links["workflow_run"] = f"workflow-runs/{due.run_id}"
            else:
                links["execution"] = f"task-executions/{due.execution_id}"
        elif due.run_id is not None:
            data = _told(due.run_id, known.runs, due)
            links = {"workflow_run": f"workflow-runs/{due.run_id}"}
        elif due.data is not None:
            data = dict(due.data)
            links = {}
            if due.execution_id is not None:
                data["execution_id"] = due.execution_id
                links = {"execution": f"task-executions/{due.execution_id}"}
            elif "schedule_id" in data:
                links = {"schedule": f"schedules/{data['schedule_id']}"}
        else:
            data = _told(due.execution_id, known.executions, due)
            links = {"execution": f"task-executions/{due.execution_id}"}
        data["links"] = {name: f"{self._public_url}{_API}/{path}" for name, path in links.items()}
        return dumps({"type": due.event, "timestamp": due.created_at, "data": data})


class _Known:
    """What the database says about what several deliveries are about."""

    def __init__(self, connection: Connection, fresh: Sequence[Due]) -> None:
        def read(
            find: Callable[[Connection, Sequence[UUID]], dict[UUID, Facts]],
            ids: Iterable[UUID | None],
        ) -> dict[UUID, Facts]:
            return find(connection, list({each for each in ids if each is not None}))

        self.runs = read(facts.runs, (each.run_id for each in fresh if each.approval_id is None))
        self.approvals = read(facts.approvals, (each.approval_id for each in fresh))
        ended = (
            each.execution_id for each in fresh if each.approval_id is None and each.data is None
        )
        self.executions = read(facts.executions, ended)


def _told(subject_id: UUID | None, known: Mapping[UUID, Facts], due: Due) -> dict[str, Any]:
    """Return the data about a subject; of one that was deleted meanwhile its id and its status."""
    found = None if subject_id is None else known.get(subject_id)
    if found is None:
        status = due.event.partition(".")[2]
        return {"id": subject_id, "status": status, "deleted": True}
    data = dict(found)
    if "error_code" in data:
        code, message = data.pop("error_code"), data.pop("error_message")
        step = data.pop("error_step", None)
        error: JsonObject | None = None if code is None else {"code": code, "message": message}
        if error is not None and step is not None:
            error = {**error, "step": step}
        data["error"] = error
    if "cost" in data:
        data["cost"] = dollars(data["cost"])
    return data
