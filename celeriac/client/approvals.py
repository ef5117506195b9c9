"""Approvals: questions of agents and workflows to people, and the answers."""

from collections.abc import Iterator, Sequence
from typing import Any
from uuid import UUID

from celeriac import wire
from celeriac.client.transport import Resource, given, path


class Approvals(Resource):
    """`client.approvals`."""

    def list(
        self,
        *,
        status: str | Sequence[str] | None = None,
        execution_id: str | UUID | None = None,
        workflow_run_id: str | UUID | None = None,
    ) -> Iterator[wire.Approval]:
        """Yield the questions that you may see, the newest first; `status="open"` for open ones."""
        asked = given(
            status=[status] if isinstance(status, str) else status,
            execution_id=execution_id,
            workflow_run_id=workflow_run_id,
        )
        return self._transport.pages(wire.Approval, path("approvals"), asked)

    def get(self, approval_id: str | UUID) -> wire.Approval:
        """Return a question."""
        return self._transport.get(wire.Approval, path("approvals", approval_id))

    def link(self, approval_id: str | UUID) -> wire.ApprovalLink:
        """Create a link with which anybody can answer an open question, once, without a key."""
        return self._transport.post(wire.ApprovalLink, path("approvals", approval_id, "link"), None)

    def revoke_links(self, approval_id: str | UUID) -> None:
        """Make all existing links to a question void."""
        self._transport.send("POST", path("approvals", approval_id, "revoke-links"))

    def answer(
        self, approval_id: str | UUID, *, approved: bool, value: Any = None, note: str = ""
    ) -> wire.Approval:
        """Answer an open question. The same answer again changes nothing.

        `value` is the text for a free question, the value of a form or, for a tool, changed
        arguments. Raises ClientError: `answer_invalid` with the field that is wrong, or
        `approval_closed` if it is too late.
        """
        body = {"approved": approved, "value": value, "note": note}
        return self._transport.post(wire.Approval, path("approvals", approval_id, "answer"), body)
