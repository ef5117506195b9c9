"""How each action of bulk jobs changes a batch of executions.

Every action uses what changes a single execution: the same guards, events, audit entries and
deliveries. A new action has a `Performer` here and a rule in `domain.bulk_actions`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol
from uuid import UUID

from celeriac.db import cassettes
from celeriac.db.engine import Connection, Database
from celeriac.db.executions import queries
from celeriac.domain.accounts import Actor
from celeriac.domain.bulk_actions import ACTIONS, BulkAction, Reason, reason_of
from celeriac.domain.bulk_jobs import BulkJob
from celeriac.domain.errors import CeleriacError, InvalidInputError, NotFoundError
from celeriac.domain.executions.model import Execution, ExecutionFilter
from celeriac.domain.labels import relabelled
from celeriac.domain.tasks import Priority
from celeriac.kit.json_types import JsonObject
from celeriac.services.executions.change import label_within, move_within, prioritise_within
from celeriac.services.executions.delete import delete_within, remove_files
from celeriac.services.executions.dispatch import Dispatch
from celeriac.services.executions.repeat import Repeat, store
from celeriac.services.executions.stop import Cancel
from celeriac.services.storage_paths import StoragePaths


@dataclass(frozen=True, slots=True)
class Applied:
    """What a batch has changed, in a transaction that is not committed yet."""

    done: Mapping[UUID, UUID | None]
    """The changed executions, each with the new one that the action has made of it, if any."""
    announce: Callable[[], None]
    """Does what follows the commit."""
    refused: Mapping[UUID, Reason] = field(default_factory=dict)
    """Why these stay as they are."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Executions that are checked; nothing is changed yet."""

    ids: Sequence[UUID]
    apply: Callable[[Connection], Applied]
    unfit: Mapping[UUID, Reason] = field(default_factory=dict)
    """Why these stay as they are. `apply` may leave others, too."""


class BulkWork(Protocol):
    """What a job, or a request for one, does with each execution."""

    @property
    def action(self) -> BulkAction:
        """The action."""
        ...

    @property
    def arguments(self) -> JsonObject:
        """What the action needs."""
        ...


class Performer(Protocol):
    """An action on executions. Safe to share between threads."""

    @property
    def include(self) -> tuple[str, ...]:
        """The bulky fields of executions that `unfit` reads."""
        ...

    def unfit(
        self, actor: Actor, job: BulkWork, rows: Sequence[Execution]
    ) -> tuple[int, Mapping[UUID, Reason]]:
        """Return how many executions were checked, from the first, and why some can't be changed.

        They have a status that the action takes.
        """
        ...

    def prepare(self, actor: Actor, job: BulkJob, ids: Sequence[UUID], *, fresh: bool) -> Batch:
        """Check executions of a job, from the first, as many as can be checked in a short time.

        With `fresh` nothing is taken from a cache. `apply` raises StaleSpecError if a task was
        changed since.
        """
        ...


@dataclass(frozen=True, slots=True)
class Changing:
    """An action that changes rows in one way, whatever they are.

    `change` does so in a transaction and returns the changed executions; `announce` follows the
    commit. `same` says whether an execution would be left as it is.
    """

    change: Callable[[Connection, Actor, JsonObject, Sequence[UUID]], Mapping[UUID, Any]]
    announce: Callable[[Actor, Mapping[UUID, Any]], None]
    same: Callable[[JsonObject, Execution], bool]
    include: tuple[str, ...] = ()

    def unfit(
        self,
        actor: Actor,  # noqa: ARG002 - as in `Performer`
        job: BulkWork,
        rows: Sequence[Execution],
    ) -> tuple[int, Mapping[UUID, Reason]]:
        """See `Performer`."""
        same = [each for each in rows if self.same(job.arguments, each)]
        return len(rows), {each.id: reason_of(job.action, each.status) for each in same}

    def prepare(
        self,
        actor: Actor,
        job: BulkJob,
        ids: Sequence[UUID],
        *,
        fresh: bool,  # noqa: ARG002 - as in `Performer`
    ) -> Batch:
        """See `Performer`."""

        def apply(connection: Connection) -> Applied:
            changed = self.change(connection, actor, job.arguments, ids)
            return Applied(dict.fromkeys(changed), lambda: self.announce(actor, changed))

        return Batch(ids, apply)


@dataclass(frozen=True, slots=True)
class Labelling:
    """Sets and removes labels."""

    include: tuple[str, ...] = ()

    def unfit(
        self,
        actor: Actor,  # noqa: ARG002 - as in `Performer`
        job: BulkWork,
        rows: Sequence[Execution],
    ) -> tuple[int, Mapping[UUID, Reason]]:
        """See `Performer`."""
        unfit: dict[UUID, Reason] = {}
        for each in rows:
            try:
                if relabelled(each.labels, _labels(job.arguments)) == each.labels:
                    unfit[each.id] = reason_of(job.action, each.status)
            except InvalidInputError as error:
                unfit[each.id] = Reason(error.code, error.message)
        return len(rows), unfit

    def prepare(
        self,
        actor: Actor,
        job: BulkJob,
        ids: Sequence[UUID],
        *,
        fresh: bool,  # noqa: ARG002 - as in `Performer`
    ) -> Batch:
        """See `Performer`."""

        def apply(connection: Connection) -> Applied:
            done: dict[UUID, UUID | None] = {}
            refused: dict[UUID, CeleriacError] = {}
            for each in ids:
                try:
                    if label_within(connection, actor, each, _labels(job.arguments)):
                        done[each] = None
                except (InvalidInputError, NotFoundError) as error:
                    refused[each] = error
            return Applied(done, lambda: None, _reasons(refused))

        return Batch(ids, apply)


class Retrying:
    """Makes a new execution of each one; together they are a batch with the job's id."""

    include: tuple[str, ...] = ("variables",)

    def __init__(self, database: Database, repeat: Repeat, dispatch: Dispatch) -> None:
        self._database = database
        self._repeat = repeat
        self._dispatch = dispatch

    def unfit(
        self,
        actor: Actor,
        job: BulkWork,
        rows: Sequence[Execution],
    ) -> tuple[int, Mapping[UUID, Reason]]:
        """See `Performer`."""
        origins = self._origins(actor, rows)
        checked = self._repeat.check(actor, origins)
        looked = len(rows)
        if checked.looked < len(origins):
            looked = [each.id for each in rows].index(origins[checked.looked].id)
        there = {each.id for each in origins}
        others = {each.id: reason_of(job.action, each.status)
                  for each in rows[:looked] if each.id not in there}  # fmt: skip
        return looked, others | _reasons(checked.refused)

    def _origins(self, actor: Actor, rows: Sequence[Execution]) -> Sequence[Execution]:  # noqa: ARG002
        """Return those that can be origins, as the new executions are to be like."""
        return rows

    def prepare(self, actor: Actor, job: BulkJob, ids: Sequence[UUID], *, fresh: bool) -> Batch:
        """See `Performer`."""
        wanted = ExecutionFilter(workspace_id=actor.workspace_id, ids=ids)
        with self._database.autocommit() as connection:
            found = queries.find(
                connection, wanted, before=None, limit=len(ids), include=self.include
            )
        takes = ACTIONS[job.action].takes
        unfit = {
            each.id: reason_of(job.action, each.status)
            for each in found.items
            if each.status not in takes
        }
        ended = [each for each in found.items if each.id not in unfit]
        rows = self._origins(actor, ended)
        checked = self._repeat.check(actor, rows, fresh=fresh)
        last = None
        if checked.looked < len(rows):
            last = rows[checked.looked - 1].id
        elif found.more:
            last = found.items[-1].id
        looked = ids if last is None else ids[: ids.index(last) + 1]

        def apply(connection: Connection) -> Applied:
            made = store(connection, actor, checked.accepted, job.id)
            return Applied(made, self._dispatch.try_to_send)

        return Batch(looked, apply, unfit | _reasons(checked.refused))


class Replaying(Retrying):
    """Makes a new execution of each recorded one, which is answered from its cassette."""

    def _origins(self, actor: Actor, rows: Sequence[Execution]) -> Sequence[Execution]:
        ids = [each.id for each in rows]
        with self._database.autocommit() as connection:
            recorded = cassettes.recorded(connection, ids, workspace=actor.workspace_id)
        found: list[Execution] = []
        for each in rows:
            # a replay has no cassette of its own
            cassette = each.id if each.id in recorded else each.options.cassette_id
            if cassette is not None:
                changes = {"cassette_id": cassette, "record": False}
                found.append(replace(each, options=each.options.model_copy(update=changes)))
        return found


def _reasons(refused: Mapping[UUID, CeleriacError]) -> dict[UUID, Reason]:
    return {key: Reason(error.code, error.message) for key, error in refused.items()}


def performers(
    database: Database,
    places: StoragePaths,
    cancel: Cancel,
    repeat: Repeat,
    dispatch: Dispatch,
) -> Mapping[BulkAction, Performer]:
    """Return the performer of each action."""
    return {
        BulkAction.CANCEL: Changing(
            lambda connection, actor, _, ids: cancel.within(connection, actor, ids),
            cancel.announce,
            lambda _, execution: execution.cancel_requested_at is not None,
        ),
        BulkAction.RETRY: Retrying(database, repeat, dispatch),
        BulkAction.REPLAY: Replaying(database, repeat, dispatch),
        BulkAction.PRIORITISE: Changing(
            lambda connection, actor, given, ids: prioritise_within(
                connection, actor, ids, _priority(given)
            ),
            lambda *_: None,
            lambda given, execution: execution.priority == _priority(given),
        ),
        BulkAction.MOVE: Changing(
            lambda connection, actor, given, ids: move_within(
                connection, actor, ids, str(given["to_queue"])
            ),
            lambda *_: dispatch.try_to_send(),
            lambda given, execution: execution.queue == given["to_queue"],
        ),
        BulkAction.LABEL: Labelling(),
        BulkAction.DELETE: Changing(
            lambda connection, actor, _, ids: delete_within(connection, actor, ids),
            lambda _, gone: remove_files(places, gone),
            lambda *_: False,
        ),
    }


def _priority(given: JsonObject) -> Priority:
    return Priority.parse(str(given["priority"]))


def _labels(given: JsonObject) -> Mapping[str, str | None]:
    labels = given["labels"]
    if not isinstance(labels, Mapping):
        raise TypeError("labels are an object")
    return {key: None if value is None else str(value) for key, value in labels.items()}
