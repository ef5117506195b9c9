"""Limits of the workspace."""

from collections.abc import Iterator
from typing import Any
from uuid import UUID

from celeriac import wire
from celeriac.client.transport import Resource, given, path

_LIMITS = "limits"


class Limits(Resource):
    """`client.limits`: how many executions or runs with the same key run at once, or begin."""

    def create(
        self,
        name: str,
        *,
        max: int,  # noqa: A002 - the field's name
        key: str | None = None,
        task: str | UUID | None = None,
        workflow: str | UUID | None = None,
        seconds: float | None = None,
        burst: int | None = None,
        policy: str = "queue",
        of: str | None = None,
        count: str | None = None,
    ) -> wire.Limit:
        """Make a limit of the workspace, of a task, or of the steps of a workflow.

        It holds for all executions at once. `key` is an expression such as `variables.customer`;
        without it all executions share the slots. With `seconds` it is a rate: so many begin in so
        many seconds. `policy` is `queue`, `cancel_new`, `cancel_running` or `keep_latest`.

        With `of="runs"` it is about the runs of a workflow that are submitted from then on, with a
        key such as `input.customer`. With `count="active"` runs count also while they only wait.
        """
        body = given(
            name=name,
            max=max,
            key=key,
            task=task,
            workflow=workflow,
            seconds=seconds,
            burst=burst,
            policy=policy,
            of=of,
            count=count,
        )
        return self._transport.post(wire.Limit, path(_LIMITS), body)

    def get(self, limit: str | UUID) -> wire.Limit:
        """Return a limit, by its id or name, and its use."""
        return self._transport.get(wire.Limit, path(_LIMITS, limit))

    def list(self) -> Iterator[wire.Limit]:
        """Yield the limits of the workspace with their use, the newest first."""
        return self._transport.pages(wire.Limit, path(_LIMITS))

    def change(self, limit: str | UUID, **values: Any) -> wire.Limit:
        """Change what is given: `max`, `seconds`, `burst` or `policy`.

        The numbers hold at once, and nothing that runs is cancelled.
        """
        return self._transport.patch(wire.Limit, path(_LIMITS, limit), values)

    def delete(self, limit: str | UUID) -> None:
        """Delete a limit: what waited only for it begins."""
        self._transport.send("DELETE", path(_LIMITS, limit))
