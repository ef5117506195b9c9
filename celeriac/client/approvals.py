"""Approvals: what agents ask people, and the answers."""

from collections.abc import Iterator, Sequence
from typing import Any
from uuid import UUID

from celeriac import wire
from celeriac.client.resources import pages
from celeriac.client.transport import API, Transport, segment

_PATH = f"{API}/approvals"


class Approvals:
    """`client.approvals`."""

    def __init__(self, transport: Transport) -> None:
        """Send through `transport`."""
        self._transport = transport

    def list(
        self,
        *,
        status: str | Sequence[str] | None = None,
        execution_id: str | UUID | None = None,
    ) -> Iterator[wire.Approval]:
        """Yield the questions that one may see, the newest first; `status="open"` to answer."""
        asked = {
            "status": [status] if isinstance(status, str) else status,
            "execution_id": None if execution_id is None else str(execution_id),
        }
        return pages(self._transport, wire.Approval, _PATH, asked)

    def get(self, approval_id: str | UUID) -> wire.Approval:
        """Return a question."""
        return self._transport.get(wire.Approval, f"{_PATH}/{segment(approval_id)}")

    def link(self, approval_id: str | UUID) -> wire.ApprovalLink:
        """Make a link with which anybody can answer an open question, once, without a key."""
        return self._transport.post(wire.ApprovalLink, f"{_PATH}/{segment(approval_id)}/link", None)

    def revoke_links(self, approval_id: str | UUID) -> None:
        """Make all links void that were made for a question so far."""
        self._transport.send("POST", f"{_PATH}/{segment(approval_id)}/revoke-links")

    def answer(
        self, approval_id: str | UUID, *, approved: bool, value: Any = None, note: str = ""
    ) -> wire.Approval:
        """Answer an open question; the same answer again changes nothing.

        `value` is the text of a free question, the value of a form or, for a tool, other arguments
        than asked for. Raises ClientError: `answer_invalid` names the field that is wrong,
        `approval_closed` says that it is too late.
        """
        body = {"approved": approved, "value": value, "note": note}
        return self._transport.post(wire.Approval, f"{_PATH}/{segment(approval_id)}/answer", body)
