"""Groups of failures."""

from collections.abc import Iterator, Sequence
from uuid import UUID

from celeriac import wire
from celeriac.client.transport import Resource, given, path

_GROUPS = "failure-groups"


class Failures(Resource):
    """`client.failures`: failed executions, grouped by task and cause."""

    def list(
        self, *, state: str | Sequence[str] | None = None, task: str | UUID | None = None
    ) -> Iterator[wire.FailureGroup]:
        """Yield groups, the one with the newest execution first.

        `state` is one or several of `new`, `known`, `resolved`, `muted` and `regressed`.
        """
        wanted = given(state=[state] if isinstance(state, str) else state, task=task)
        return self._transport.pages(wire.FailureGroup, path(_GROUPS), wanted)

    def get(self, group_id: str | UUID) -> wire.FailureGroupDetails:
        """Return a group with its newest executions."""
        return self._transport.get(wire.FailureGroupDetails, path(_GROUPS, group_id))

    def change(
        self,
        group_id: str | UUID,
        *,
        state: str | None = None,
        note: str | None = None,
        version: int | None = None,
    ) -> wire.FailureGroup:
        """Set the state (`known`, `resolved`, `muted`) or the note of a group.

        With `version` only if the group still has it: another change is refused with `conflict`.
        """
        body = given(state=state, note=note, version=version)
        return self._transport.patch(wire.FailureGroup, path(_GROUPS, group_id), body)
