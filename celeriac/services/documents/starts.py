"""Limits, schedules and hooks of a document: compared with what is stored, and written."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import UTC
from typing import Any, Protocol
from uuid import UUID

from celeriac.db import limits as limit_rows
from celeriac.db.catalog import TASKS, WORKFLOWS
from celeriac.db.engine import Connection, clock
from celeriac.db.hooks import hooks as hook_rows
from celeriac.db.schedules import schedules as schedule_rows
from celeriac.domain.accounts import Actor
from celeriac.domain.document import (
    Document,
    HookEntry,
    LimitEntry,
    Outcome,
    ScheduleEntry,
    plain,
)
from celeriac.domain.errors import InvalidInputError
from celeriac.domain.hooks.mapping import check_mapping, check_when
from celeriac.domain.hooks.model import DEFAULT_PER_MINUTE, Hook, Verification
from celeriac.domain.hooks.signatures import secret_fault
from celeriac.domain.schedules.inputs import check_input, input_of
from celeriac.domain.schedules.model import FireKind, Schedule, Timing
from celeriac.domain.schedules.policies import Policies
from celeriac.domain.schemas import Fault
from celeriac.domain.workspace_limits import LimitSpec, WorkspaceLimit, check_names
from celeriac.kit.json_types import JsonObject
from celeriac.services import limits
from celeriac.services.catalog import versioned
from celeriac.services.catalog.schemas import violations
from celeriac.services.documents.steps import Step, compared, created
from celeriac.services.hooks.manage import Hooks, NewHook, change_hook, set_active
from celeriac.services.schedules import stored as schedules
from celeriac.services.schedules.start import Target

_CHECK_SECONDS = 10.0
"""How long the inputs of a document may take to check, in its transaction."""

_KEPT_OF_LIMITS = ("task", "workflow", "of", "key", "count")


class Targets(Protocol):
    """The tasks and workflows that there are once a document is applied."""

    faults: list[Fault]

    def task(self, reference: str) -> tuple[str, JsonObject] | None:
        """Return a task's name and the schema of its variables, or None."""

    def workflow(self, reference: str) -> tuple[str, JsonObject] | None:
        """Return a workflow's name and the schema of its input, or None."""


class _Aim(Protocol):
    """An entry that is about a task or a workflow, as it names them."""

    @property
    def task(self) -> str | None: ...

    @property
    def workflow(self) -> str | None: ...


class Starts:
    """Limits, schedules and hooks of a document; faults go to those of `targets`."""

    def __init__(
        self, connection: Connection, actor: Actor, targets: Targets, hooks: Hooks, *, lock: bool
    ) -> None:
        self._connection = connection
        self._actor = actor
        self._targets = targets
        self._hooks = hooks
        self._lock = lock
        self._now = clock(connection)
        self._checked_seconds = 0.0

    def steps(self, document: Document) -> list[Step]:
        """Return the changes in the order of the document."""
        return [
            *(self._limit(f"limits.{n}", each) for n, each in enumerate(document.limits)),
            *(self._schedule(f"schedules.{n}", each) for n, each in enumerate(document.schedules)),
            *(self._hook(f"hooks.{n}", each) for n, each in enumerate(document.hooks)),
        ]

    # limits

    def _limit(self, place: str, entry: LimitEntry) -> Step:
        aim, schema = self._aim(place, entry)
        key = limit_rows.id_of_name(
            self._connection, entry.name, workspace=self._actor.workspace_id
        )
        found = None if key is None else self._stored_limit(key)
        after = {**aim, **entry.spec.model_dump(mode="json")}
        if found is None:
            defaults = LimitSpec(max=1).model_dump(mode="json")
            given = {name: value for name, value in after.items()
                     if name == "max" or value != defaults.get(name)}  # fmt: skip
            outcome = created("limit", entry.name, given)
            with self._faults_at(place):
                of_task = entry.task is not None
                check_names(entry.spec, **{"task" if of_task else "workflow": schema})
        else:
            before = {**_names(found), **found.spec.model_dump(mode="json")}
            outcome = compared("limit", entry.name, before, after, id=found.id)
            self._check_kept(place, before, after)

        def write(connection: Connection) -> Outcome:
            if found is None:
                task_id, workflow_id = _ids(connection, self._actor, entry)
                limit = limits.add(connection, self._actor, entry.name, entry.spec,
                                   task_id=task_id, workflow_id=workflow_id)  # fmt: skip
            else:
                limit = limits.change(connection, self._actor, found, entry.spec)
            return replace(outcome, id=limit.id)

        return Step(outcome, write)

    def _stored_limit(self, key: UUID) -> WorkspaceLimit | None:
        workspace = self._actor.workspace_id
        return limit_rows.get(self._connection, key, workspace=workspace, lock=self._lock)

    def _check_kept(self, place: str, before: JsonObject, after: JsonObject) -> None:
        """Add a fault for what a limit keeps as long as it lives."""
        advice = "give this limit another name, or delete the stored one first"
        for name in _KEPT_OF_LIMITS:
            if before.get(name) != after.get(name):
                self._fault(f"{place}.{name}", f"the {name} of a limit stays as it is: {advice}")
        if (before["seconds"] is None) != (after["seconds"] is None):
            self._fault(
                f"{place}.seconds", f"a limit stays a rate, or what may run at once: {advice}"
            )

    # schedules

    def _schedule(self, place: str, entry: ScheduleEntry) -> Step:
        aim, schema = self._aim(place, entry)
        found = self._stored_schedule(entry.name)
        with self._faults_at(place):
            check_input(entry.input)
            if found is None or found.timing != entry.timing:
                entry.timing.check(self._now)
            sample = input_of(entry.input, self._now, entry.timing.zone, FireKind.SCHEDULED)
            if schema is not None:
                self._check_sample(place, schema, sample)
        active = entry.active if entry.active is not None else (found is None or found.active)
        after = {**aim, **_facts(entry.timing, entry.policies, entry.input), "active": active}
        if found is None:
            unset = {**asdict(Policies()), "zone": "UTC", "active": True}
            given = {name: value for name, value in after.items() if value != unset.get(name)}
            outcome = created("schedule", entry.name, plain(given))
        else:
            before = {
                **_names(found),
                **_facts(found.timing, _policies(found), found.input),
                "active": found.active,
            }
            outcome = compared("schedule", entry.name, plain(before), plain(after), id=found.id)

        def write(connection: Connection) -> Outcome:
            key = self._write_schedule(connection, entry, found, active=active)
            return replace(outcome, id=key)

        return Step(outcome, write)

    def _stored_schedule(self, name: str) -> Schedule | None:
        connection, workspace = self._connection, self._actor.workspace_id
        key = schedule_rows.id_of_name(connection, name, workspace=workspace)
        if key is None:
            return None
        return schedule_rows.get(connection, key, workspace=workspace, lock=self._lock)

    def _check_sample(self, place: str, schema: JsonObject, sample: JsonObject) -> None:
        """Add a fault for what an input lacks, with the defaults of a workflow's schema."""
        properties = schema.get("properties")
        known = properties if isinstance(properties, Mapping) else {}
        defaults = {
            name: each["default"]
            for name, each in known.items()
            if isinstance(each, Mapping) and "default" in each
        }
        if self._checked_seconds > _CHECK_SECONDS:
            self._fault(
                f"{place}.input",
                "the inputs before it take too long to check; apply it in another document",
            )
            return
        began = time.monotonic()
        for message in violations(schema, {**defaults, **sample}) if schema else ():
            self._fault(f"{place}.input", f"it does not fit what is started: {message}")
        self._checked_seconds += time.monotonic() - began

    def _write_schedule(
        self,
        connection: Connection,
        entry: ScheduleEntry,
        found: Schedule | None,
        *,
        active: bool,
    ) -> UUID:
        actor = self._actor
        task_id, workflow_id = _ids(connection, actor, entry)
        if found is None:
            new = schedules.NewSchedule(
                name=entry.name,
                target=Target(task_id, workflow_id, entry.input),
                timing=entry.timing,
                policies=entry.policies,
                active=active,
            )
            return schedules.add(connection, actor, new, self._now).id
        values: dict[str, object] = {
            "task_id": task_id,
            "workflow_id": workflow_id,
            "input": entry.input,
            **asdict(entry.timing),
            **schedules.policy_values(entry.policies),
        }
        stored = {name: getattr(found, name) for name in values}
        if values != stored:
            schedules.change(connection, actor, found, values, self._now)
        if active is not found.active:
            locked = schedules.found(connection, actor, str(found.id), lock=True)
            if active:
                schedules.resume(connection, actor, locked, self._now)
            else:
                schedules.pause(connection, actor, locked)
        return found.id

    # hooks

    def _hook(self, place: str, entry: HookEntry) -> Step:
        aim, schema = self._aim(place, entry)
        found = self._stored_hook(entry.name)
        with self._faults_at(place):
            check_when(entry.when)
            if schema is not None:
                check_mapping(entry.mapping, schema, " ".join(f"{k} {v}" for k, v in aim.items()))
        self._check_secret(place, entry, found)
        active = entry.active if entry.active is not None else (found is None or found.active)
        described = entry.description
        if described is None:
            described = "" if found is None else found.description
        after: JsonObject = {
            **aim,
            "description": described,
            "verification": entry.verification.value,
            "mapping": entry.mapping,
            "when": entry.when,
            "per_minute": entry.per_minute,
            "active": active,
        }
        if found is None:
            unset = {"active": True, "verification": Verification.STANDARD.value,
                     "per_minute": DEFAULT_PER_MINUTE}  # fmt: skip
            given = {name: value for name, value in after.items() if value != unset.get(name)}
            outcome = created("hook", entry.name, given)
        else:
            fields = [name for name in after if name not in ("task", "workflow")]
            before = {**_names(found), **{name: getattr(found, name) for name in fields}}
            outcome = compared("hook", entry.name, plain(before), after, id=found.id)

        def write(connection: Connection) -> Outcome:
            key = self._write_hook(connection, entry, found, described, active=active)
            return replace(outcome, id=key)

        return Step(outcome, write)

    def _stored_hook(self, name: str) -> Hook | None:
        connection, workspace = self._connection, self._actor.workspace_id
        key = hook_rows.id_of_name(connection, name, workspace=workspace)
        if key is None:
            return None
        return hook_rows.get(connection, key, workspace=workspace, lock=self._lock)

    def _check_secret(self, place: str, entry: HookEntry, found: Hook | None) -> None:
        if found is not None:
            if found.verification is not entry.verification:
                self._fault(
                    f"{place}.verification",
                    "the verification of a hook stays as it is: give this hook another name, or "
                    "delete the stored one first",
                )
            return
        if entry.secret is None and entry.secret_env is not None:
            self._fault(
                f"{place}.secret_env",
                f"the environment variable {entry.secret_env} is not set where the document is "
                "applied; the hook is new and needs it",
            )
        if entry.secret is not None:
            fault = secret_fault(entry.verification, entry.secret)
            if fault is not None:
                self._fault(f"{place}.secret", f"it {fault}")

    def _write_hook(
        self,
        connection: Connection,
        entry: HookEntry,
        found: Hook | None,
        described: str,
        *,
        active: bool,
    ) -> UUID:
        if found is None:
            new = NewHook(
                name=entry.name,
                task=entry.task,
                workflow=entry.workflow,
                description=described,
                verification=entry.verification,
                secret=entry.secret,
                mapping=entry.mapping,
                when=entry.when,
                per_minute=entry.per_minute,
            )
            made = self._hooks.add(connection, self._actor, new)
            set_active(connection, self._actor, made, active)
            return made.id
        task_id, workflow_id = _ids(connection, self._actor, entry)
        values = {
            "task_id": task_id,
            "workflow_id": workflow_id,
            "description": described,
            "mapping": entry.mapping,
            "when": entry.when,
            "per_minute": entry.per_minute,
        }
        if any(getattr(found, name) != value for name, value in values.items()):
            change_hook(connection, self._actor, found, values)
        set_active(connection, self._actor, found, active)
        return found.id

    # all of them

    def _aim(self, place: str, entry: _Aim) -> tuple[JsonObject, JsonObject | None]:
        """Return what an entry is about, by its name, and the schema of its input if it exists."""
        for kind, reference, find in (
            ("task", entry.task, self._targets.task),
            ("workflow", entry.workflow, self._targets.workflow),
        ):
            if reference is None:
                continue
            target = find(reference)
            if target is None:
                self._fault(
                    f"{place}.{kind}",
                    f"there is no {kind} {reference!r}; add it to the document's {kind}s or "
                    "correct its name",
                )
                return {kind: reference}, None
            return {kind: target[0]}, target[1]
        return {}, None

    @contextmanager
    def _faults_at(self, place: str) -> Iterator[None]:
        """Make a fault of the document of an error in an entry."""
        try:
            yield
        except InvalidInputError as error:
            field = error.field
            self._fault(place if field is None else f"{place}.{field}", error.message)

    def _fault(self, place: str, message: str) -> None:
        self._targets.faults.append(Fault(place, message))


def _ids(connection: Connection, actor: Actor, entry: _Aim) -> tuple[UUID | None, UUID | None]:
    """Return the ids of the task and the workflow of an entry, which may have just been made."""
    task, workflow = entry.task, entry.workflow
    return (
        None if task is None else versioned.get(connection, TASKS, actor, task).id,
        None if workflow is None else versioned.get(connection, WORKFLOWS, actor, workflow).id,
    )


def _names(found: WorkspaceLimit | Schedule | Hook) -> JsonObject:
    names = {"task": found.task_name, "workflow": found.workflow_name}
    return {kind: name for kind, name in names.items() if name is not None}


def _policies(found: Schedule) -> Policies:
    return Policies(**{name: getattr(found, name) for name in asdict(Policies())})


def _facts(timing: Timing, policies: Policies, given: JsonObject) -> dict[str, Any]:
    at = timing.at
    return {
        "cron": timing.cron,
        "every_seconds": timing.every_seconds,
        "at": None if at is None else at.astimezone(UTC).isoformat(),
        "zone": timing.zone,
        "input": given,
        **asdict(policies),
    }
