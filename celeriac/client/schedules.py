"""Schedules and their fires."""

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, TypedDict, Unpack
from uuid import UUID

from celeriac import wire
from celeriac.client.transport import Resource, given, path

_SCHEDULES = "schedules"


class ScheduleTiming(TypedDict, total=False):
    """When a schedule fires; docs/schedules.md has the values."""

    cron: str | None
    every_seconds: int | None
    at: datetime | None
    zone: str | None
    overlap: str | None
    misfire: str | None
    catch_up: int | None
    window_seconds: int | None
    jitter_seconds: int | None
    late_seconds: int | None


class Schedules(Resource):
    """`client.schedules`: when tasks and workflows start by themselves."""

    def create(
        self,
        name: str,
        *,
        task: str | UUID | None = None,
        workflow: str | UUID | None = None,
        input: Mapping[str, Any] | None = None,  # noqa: A002 - the API's name
        active: bool | None = None,
        **timing: Unpack[ScheduleTiming],
    ) -> wire.Schedule:
        """Let a `task` or `workflow` start by `cron`, `every_seconds`, or once `at` a time.

        `input` is the variables of the task or the input of the workflow; its texts may hold
        `${{ fire.date }}`. The values of the rest are in docs/schedules.md.
        """
        body = given(
            name=name,
            task=task,
            workflow=workflow,
            input=dict(input or {}),
            active=active,
            **timing,
        )
        return self._transport.post(wire.Schedule, path(_SCHEDULES), body)

    def get(self, schedule: str | UUID) -> wire.Schedule:
        """Return a schedule by its name or id, as all methods take it."""
        return self._transport.get(wire.Schedule, path(_SCHEDULES, schedule))

    def list(self) -> Iterator[wire.Schedule]:
        """Yield the schedules of the workspace, the newest first."""
        return self._transport.pages(wire.Schedule, path(_SCHEDULES))

    def change(
        self,
        schedule: str | UUID,
        *,
        input: Mapping[str, Any] | None = None,  # noqa: A002 - the API's name
        **timing: Unpack[ScheduleTiming],
    ) -> wire.Schedule:
        """Change what is given. With another timing the next fire is after now."""
        body = given(
            input=None if input is None else dict(input),
            **timing,
        )
        return self._transport.patch(wire.Schedule, path(_SCHEDULES, schedule), body)

    def delete(self, schedule: str | UUID) -> None:
        """Delete a schedule; what it has started is not cancelled, what waits never starts."""
        self._transport.send("DELETE", path(_SCHEDULES, schedule))

    def pause(self, schedule: str | UUID) -> wire.Schedule:
        """Let a schedule not fire until it is resumed; its fires that wait are skipped."""
        return self._transport.post(wire.Schedule, path(_SCHEDULES, schedule, "pause"), None)

    def resume(self, schedule: str | UUID, *, catch_up: bool = False) -> wire.Schedule:
        """Let a paused schedule fire again; with `catch_up` its policy decides what it missed."""
        body = {"catch_up": catch_up}
        return self._transport.post(wire.Schedule, path(_SCHEDULES, schedule, "resume"), body)

    def run(self, schedule: str | UUID, *, force: bool = False) -> wire.Fire:
        """Start what a schedule starts, now; its next fire stays as it is.

        While an earlier one has not ended, `overlap` decides whether the fire is `started`,
        `waiting` or `skipped`, unless `force`.
        """
        body = {"force": force}
        return self._transport.post(wire.Fire, path(_SCHEDULES, schedule, "run"), body)

    def backfill(
        self,
        schedule: str | UUID,
        start: datetime,
        end: datetime,
        *,
        overlap: str | None = None,
        dry_run: bool = False,
    ) -> wire.Backfill:
        """Make the fires from `start` on and before `end` that have not happened.

        They start one after another, with `overlap="allow"` at once. `dry_run` only shows them.
        """
        body = given(overlap=overlap, dry_run=dry_run, **{"from": start, "to": end})
        return self._transport.post(wire.Backfill, path(_SCHEDULES, schedule, "backfill"), body)

    def preview(self, schedule: str | UUID, *, count: int = 5) -> wire.Preview:
        """Return the next `count` fires, in UTC and in the zone of the schedule."""
        found = path(_SCHEDULES, schedule, "preview")
        return self._transport.get(wire.Preview, found, {"count": count})

    def fires(self, schedule: str | UUID, *, status: str | None = None) -> Iterator[wire.Fire]:
        """Yield the fires of a schedule, the newest first; `status` as `started`."""
        found = path(_SCHEDULES, schedule, "fires")
        return self._transport.pages(wire.Fire, found, given(status=status))
