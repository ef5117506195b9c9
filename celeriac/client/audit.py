"""The audit trail."""

from collections.abc import Iterator

from celeriac import wire
from celeriac.client.resources import pages
from celeriac.client.transport import API, Transport

_PATH = f"{API}/audit-logs"


class Audit:
    """`client.audit`."""

    def __init__(self, transport: Transport) -> None:
        """Send through `transport`."""
        self._transport = transport

    def list(
        self,
        *,
        action: str | None = None,
        resource_type: str | None = None,
        resource_id: str | None = None,
    ) -> Iterator[wire.AuditEntry]:
        """Yield one's own entries, or for an admin everybody's, the newest first."""
        wanted = {"action": action, "resource_type": resource_type, "resource_id": resource_id}
        return pages(self._transport, wire.AuditEntry, _PATH, wanted)

    def verify(self, *, after: int = 0) -> Iterator[wire.AuditVerification]:
        """Check the trail; yield what each page of the check found. For admins.

        It begins behind `after`, which is 0 or the `last_position` of an earlier check.
        """
        while True:
            found = self._transport.get(
                wire.AuditVerification, f"{_PATH}/verification", {"after": after}
            )
            yield found
            if found.complete:
                return
            after = found.last_position
