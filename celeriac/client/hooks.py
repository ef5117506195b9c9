"""Inbound hooks."""

from collections.abc import Iterator, Mapping
from typing import Any
from uuid import UUID

from celeriac import wire
from celeriac.client.transport import Resource, given, path

_HOOKS = "hooks"


class Hooks(Resource):
    """`client.hooks`: URLs whose requests start tasks and workflows. For admins."""

    def create(
        self,
        *,
        name: str | None = None,
        task: str | None = None,
        workflow: str | None = None,
        verification: str = "standard",
        mapping: Mapping[str, Any] | None = None,
        when: str | None = None,
        secret: str | None = None,
        per_minute: int | None = None,
        description: str = "",
    ) -> wire.HookWithSecret:
        """Create a hook for a task or a workflow.

        `verification` is `standard`, `github`, `stripe` or `bearer`; `mapping` makes the variables
        of `body`, `headers` and `query`; requests for which `when` is false are ignored. `secret`
        is one that the sender has made. Only this answer has the secret.
        """
        body = given(
            name=name,
            task=task,
            workflow=workflow,
            verification=verification,
            mapping=None if mapping is None else dict(mapping),
            when=when,
            secret=secret,
            per_minute=per_minute,
            description=description,
        )
        return self._transport.post(wire.HookWithSecret, path(_HOOKS), body)

    def get(self, hook_id: str | UUID) -> wire.Hook:
        """Return a hook with its URL."""
        return self._transport.get(wire.Hook, path(_HOOKS, hook_id))

    def list(self) -> Iterator[wire.Hook]:
        """Yield the hooks of the workspace, the newest first."""
        return self._transport.pages(wire.Hook, path(_HOOKS))

    def change(self, hook_id: str | UUID, **values: Any) -> wire.Hook:
        """Change what is given: `description`, `mapping`, `when` or `per_minute`.

        None removes a mapping or a condition.
        """
        return self._transport.patch(wire.Hook, path(_HOOKS, hook_id), values)

    def pause(self, hook_id: str | UUID) -> wire.Hook:
        """Let a hook refuse what is sent to it."""
        return self._transport.post(wire.Hook, path(_HOOKS, hook_id, "pause"), None)

    def resume(self, hook_id: str | UUID) -> wire.Hook:
        """Let a hook take requests again; those that it has refused must be sent again."""
        return self._transport.post(wire.Hook, path(_HOOKS, hook_id, "resume"), None)

    def rotate(
        self,
        hook_id: str | UUID,
        *,
        secret: str | None = None,
        overlap_hours: float | None = None,
    ) -> wire.HookWithSecret:
        """Give a hook a new secret; the one until now stays valid for 24, or `overlap_hours`."""
        body = given(secret=secret, overlap_hours=overlap_hours)
        return self._transport.post(wire.HookWithSecret, path(_HOOKS, hook_id, "rotate"), body)

    def delete(self, hook_id: str | UUID) -> None:
        """Delete a hook; its URL is unknown from then on."""
        self._transport.send("DELETE", path(_HOOKS, hook_id))

    def test(
        self,
        hook_id: str | UUID,
        body: Any = None,
        *,
        headers: Mapping[str, str] | None = None,
        query: Mapping[str, str] | None = None,
    ) -> wire.HookReceipt:
        """Send a signed sample to a hook; it really starts an execution or a run."""
        sample = given(
            headers=None if headers is None else dict(headers),
            query=None if query is None else dict(query),
        )
        sample = {**sample, "body": {} if body is None else body}
        return self._transport.post(wire.HookReceipt, path(_HOOKS, hook_id, "test"), sample)

    def deliveries(
        self, hook_id: str | UUID, *, status: str | None = None
    ) -> Iterator[wire.HookDelivery]:
        """Yield what was sent to a hook; `status` is `accepted`, `ignored` or `refused`."""
        wanted = given(status=status)
        return self._transport.pages(wire.HookDelivery, path(_HOOKS, hook_id, "deliveries"), wanted)
