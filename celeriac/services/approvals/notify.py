"""Notifications of open questions, sent to the operator's webhook."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from uuid import UUID

import structlog

from celeriac.db import approvals
from celeriac.db.engine import Database
from celeriac.domain.approvals import Approval
from celeriac.kit.json_types import JsonValue, dumps
from celeriac.services.approvals.answer import ApprovalLinks, Link

logger = structlog.get_logger(__name__)

_BATCH = 20
_FIRST_PAUSE = 10.0
_MOST_TRIES = 8


@dataclass(frozen=True, slots=True)
class Notification:
    """One notification; `body` is JSON and contains a secret, the link."""

    approval_id: UUID
    body: str


Send = Callable[[Sequence[Notification]], Sequence[UUID]]
"""Sends notifications within a bounded time; returns the questions whose were accepted."""


class Notifications:
    """Sends notifications of questions; any number of keepers may do it at once.

    One that is not accepted is sent again, up to eight times within about twenty minutes. One may
    arrive twice.
    """

    def __init__(
        self, database: Database, links: ApprovalLinks, send: Send, *, public_url: str | None
    ) -> None:
        """Find what is due in `database`; without a `public_url` notifications have no links."""
        self._database = database
        self._links = links
        self._send = send
        self._public_url = public_url

    def send_due(self) -> int:
        """Send what is due; return how many were accepted. Raises DatabaseUnavailableError."""
        with self._database.autocommit() as connection:
            due = approvals.claim(
                connection, limit=_BATCH, first_pause=_FIRST_PAUSE, most=_MOST_TRIES
            )
        if not due:
            return 0
        taken = self._send([self._notification(approval) for approval in due])
        with self._database.autocommit() as connection:
            approvals.mark_notified(connection, taken)
            failed = approvals.failed_notifications(connection, [each.id for each in due])
        for approval_id in taken:
            logger.info("approval.notified", approval_id=approval_id)
        for approval_id in failed:
            logger.error("approval.not_notified", approval_id=approval_id, tries=_MOST_TRIES)
        return len(taken)

    def _notification(self, approval: Approval) -> Notification:
        content = {
            "type": "approval.asked",
            "approval": {
                "id": approval.id,
                "execution_id": approval.execution_id,
                "task_id": approval.task_id,
                "task_name": approval.task_name,
                "workflow_run_id": approval.run_id,
                "workflow_name": approval.workflow_name,
                "step": approval.step,
                "kind": approval.kind,
                "title": approval.title,
                "tool": approval.tool,
                "arguments": approval.arguments,
                "schema": approval.schema,
                "on_expiry": approval.on_expiry,
                "created_at": approval.created_at,
                "expires_at": approval.expires_at,
            },
            "links": self._addresses(approval),
        }
        return Notification(approval.id, dumps(content))

    def _addresses(self, approval: Approval) -> JsonValue:
        if self._public_url is None:
            return {}
        path = f"{self._public_url}/api/v1/approvals"
        links = {"approval": f"{path}/{approval.id}"}
        if not approval.needs_admin:
            link = Link(approval.id, approval.owner_id, approval.links_revoked)
            token = self._links.token(link, approval.expires_at)
            links["answer"] = f"{path}/links/{token}"
        return links
