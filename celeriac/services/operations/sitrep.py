"""The situation report: what is wrong, what waits, what runs, and what has ended lately."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, Protocol, TypeVar
from uuid import UUID

from celeriac.db import maintenance, plain_tasks, rollups
from celeriac.db import sitrep as rows
from celeriac.db.engine import Connection, Database, Pooler
from celeriac.domain import problems
from celeriac.domain.accounts import Actor, Role
from celeriac.domain.errors import ForbiddenError
from celeriac.domain.plain_tasks import PlainFigures, PlainWaiting
from celeriac.domain.problems import Thresholds
from celeriac.domain.rollups import Grain, Sums, grain_of
from celeriac.domain.sitrep import (
    MOST_QUEUES,
    Attention,
    Facts,
    FailingTask,
    LiveCount,
    PeriodicTask,
    QueueState,
    RecentTasks,
    RecentWanted,
    Section,
    Sitrep,
    SitrepScope,
    Totals,
    WorkerState,
)
from celeriac.kit.threads import Threads
from celeriac.services.executions.calls import CallIdentity
from celeriac.services.operations import sitrep_parts as parts
from celeriac.services.operations.recent import Recent
from celeriac.services.operations.sources import ASK_SECONDS, Question, Sources

T = TypeVar("T")

_CONNECTIONS = 3
_REDIS_THREADS = 3
_REPORT_THREADS = 8
_SHOWN = 100
"""Workers and schedules that are listed at most, and budgets that are looked at."""

_LISTED = 20
"""Problems of one kind that are looked at: late schedules, endpoints, pauses."""

_REMEMBERED_SECONDS = 900.0
"""How long a worker process that stopped reporting is spoken of."""

_OF_REDIS = frozenset({"redis", "messages", "plain_waiting"})


class Servers(Protocol):
    """Redis and the broker; implemented in the adapters."""

    def ping(self) -> None:
        """Raise UnavailableError if Redis does not answer at once."""
        ...

    def messages(self) -> Mapping[str, int]:
        """Return the messages in the queues of this installation; raises UnavailableError."""
        ...

    def waiting_tasks(self, queues: Sequence[str]) -> PlainWaiting:
        """Return the plain tasks that wait in the queues of this installation, and in `queues`.

        Raises UnavailableError, also for a broker that does not show them.
        """
        ...

    def close(self) -> None:
        """Close the connections."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SitrepOptions:
    """When a worker is silent, how long the window is, and from when on facts are problems."""

    worker_seconds: float
    window_seconds: float
    thresholds: Thresholds
    calls_user: str | None = None
    """The user whose executions Celery tasks start, and whose workspace sees plain tasks."""
    calls_workspace: str | None = None


class SituationReport:
    """Makes reports. Safe to share between threads.

    Has connections and threads of its own, so that a server that hangs takes none of the others'.
    """

    def __init__(
        self, database: Database, servers: Servers, recent: Recent, options: SitrepOptions
    ) -> None:
        """`database` should have short time limits; the report closes it and `servers`."""
        self._database = database
        self._servers = servers
        self._recent = recent
        self._options = options
        self._calls = CallIdentity(
            database, user=options.calls_user, workspace=options.calls_workspace
        )
        self._sources = Sources()
        self._database_threads = Threads("sitrep-database", _CONNECTIONS)
        self._redis_threads = Threads("sitrep-redis", _REDIS_THREADS)
        self.threads = Threads("sitrep", _REPORT_THREADS)
        """For coroutines that want a report."""

    def close(self) -> None:
        """Close the connections."""
        for threads in (self.threads, self._database_threads, self._redis_threads):
            threads.shutdown(wait=False, cancel_futures=True)
        self._servers.close()
        self._database.close()

    def report(
        self,
        actor: Actor,
        *,
        scope: SitrepScope = SitrepScope.WORKSPACE,
        recent: RecentWanted | None = None,
    ) -> Sitrep:
        """Return the report of the actor's workspace, or of the instance, within two seconds.

        Plain Celery tasks belong to no workspace: they count in the report of the instance, and in
        that of the workspace whose executions Celery tasks start (CELERIAC_CALLS_USER). Which ones
        ran lately is in that of the instance.
        Other recent tasks and schedules are always those of the workspace. Webhook endpoints are
        for admins, the messages at the broker for administrators. Raises ForbiddenError: only an
        administrator sees the instance. Never raises because a server is away.
        """
        whole = scope is SitrepScope.INSTANCE
        if whole:
            actor.require_administrator()
        workspace = None if whole else actor.workspace_id
        wanted = recent or RecentWanted()
        asked = {
            **self._questions(
                workspace, actor.workspace_id, endpoints=actor.role.includes(Role.ADMIN)
            ),
            "recent_tasks": self._of_database(
                (actor.workspace_id, whole, wanted),
                lambda connection: self._recent.page(
                    connection, actor.workspace_id, wanted, plain=whole
                ),
            ),
            **self._redis_questions(),
        }
        sections = self._sources.ask(asked)
        sees_plain = whole or sections["plain_tasks"].data is not None
        sections |= self._asked_after(sections, wanted, plain=sees_plain)
        if not actor.administrator:
            sections["messages"] = replace(sections["messages"], data=None)
            sections["plain_waiting"] = parts.mapped(
                sections["plain_waiting"], lambda data: replace(data, tasks=())
            )
        return self._put_together(scope, sections)

    def without_database(self) -> Sitrep:
        """Return what can be said to somebody whose key could not be checked."""
        sections = self._sources.ask(self._redis_questions())
        sections["messages"] = replace(sections["messages"], data=None)
        away: Section[Any] = Section(ok=False, error="PostgreSQL does not answer.")
        names = (
            *self._questions(None, UUID(int=0), endpoints=False), "recent_tasks", "plain_waiting",
        )  # fmt: skip
        return self._put_together(SitrepScope.WORKSPACE, dict.fromkeys(names, away) | sections)

    def _questions(
        self, workspace: UUID | None, own: UUID, *, endpoints: bool
    ) -> dict[str, Question]:
        of = partial(self._of_database, workspace)
        return {
            "totals": of(lambda c: _totals(c, workspace)),
            "window": of(lambda c: _window(c, workspace, self._options.window_seconds)),
            "plain_tasks": Question(
                workspace, lambda: self._plain(workspace), self._database_threads
            ),
            "live": of(lambda c: rows.live(c, workspace_id=workspace)),
            "workers": self._of_database(None, self._workers),
            # what one role may not see is not kept for another
            "attention": self._of_database(
                (workspace, endpoints),
                lambda c: self._attention(c, workspace, endpoints=endpoints),
            ),
            "periodic_tasks": self._of_database(
                (own, workspace), lambda c: _periodic(c, own, whole=workspace is None)
            ),
        }

    def _redis_questions(self) -> dict[str, Question]:
        return {
            "redis": Question(None, self._servers.ping, self._redis_threads),
            "messages": Question(None, self._servers.messages, self._redis_threads),
        }

    def _of_database(self, about: Any, ask: Callable[[Connection], T]) -> Question:
        def asked() -> T:
            with self._database.autocommit() as connection:
                return ask(connection)

        return Question(about, asked, self._database_threads)

    def _asked_after(
        self, sections: Mapping[str, Section[Any]], wanted: RecentWanted, *, plain: bool
    ) -> dict[str, Section[Any]]:
        """Return the sections for which Redis must be asked what the database has named.

        These are recent tasks with the states of plain ones, which the result backend has, and with
        `plain` the plain tasks that wait in the queues that workers listen to.
        """
        asked: dict[str, Question] = {}
        found: Section[RecentTasks] = sections["recent_tasks"]
        if found.data is not None and self._recent.needs_states(found.data):
            ids = tuple(each.task_id for each in found.data.items)
            states = partial(self._recent.with_states, found.data, wanted.status)
            asked["states"] = Question((ids, wanted.status), states, self._redis_threads)
        if plain:
            listened = {name for each in sections["workers"].data or () for name in each.queues}
            queues = tuple(sorted(listened)[:MOST_QUEUES])
            asked["plain_waiting"] = Question(
                queues, partial(self._servers.waiting_tasks, queues), self._redis_threads
            )
        answers = self._sources.ask(asked)
        if "states" in answers:
            stated = answers.pop("states").data
            found = parts.mapped(found, lambda data: data if stated is None else stated)
        return {"plain_waiting": Section(ok=True), **answers, "recent_tasks": found}

    def _workers(self, connection: Connection) -> list[WorkerState]:
        found = rows.workers(connection, remembered=_REMEMBERED_SECONDS, limit=_SHOWN)
        return parts.workers(found, self._options.worker_seconds)

    def _attention(
        self, connection: Connection, workspace: UUID | None, *, endpoints: bool
    ) -> Attention:
        return parts.attention(
            rows.approvals(connection, workspace_id=workspace),
            parts.budgets_of(connection, workspace, limit=_SHOWN),
            rows.failing_endpoints(connection, workspace_id=workspace, limit=_LISTED)
            if endpoints
            else (),
            rows.pauses(connection, workspace_id=workspace, limit=_LISTED),
            rows.late_schedules(
                connection,
                workspace_id=workspace,
                seconds=self._options.thresholds.schedule_seconds,
                limit=_LISTED,
            ),
            failing=self._failing_tasks(connection, workspace),
            silent=rows.silent(connection, workspace_id=workspace),
            regressed=rows.regressed(connection, workspace_id=workspace),
            stuck_jobs=rows.stuck_bulk_jobs(
                connection,
                workspace_id=workspace,
                seconds=self._options.thresholds.bulk_job_seconds,
            ),
        )

    def _failing_tasks(self, connection: Connection, workspace: UUID | None) -> list[FailingTask]:
        seconds = self._options.window_seconds
        found = rows.failing_tasks(
            connection,
            workspace_id=workspace,
            grain=grain_of(seconds),
            seconds=seconds,
            limit=_LISTED,
        )
        return [
            FailingTask(name=name if workspace else f"{where}/{name}", failed=failed)
            for where, name, failed in found
        ]

    def _plain(self, workspace: UUID | None) -> PlainFigures | None:
        """Return the figures of plain tasks; None if the workspace does not see them."""
        if workspace is not None and not self._starts_calls(workspace):
            return None
        seconds = self._options.window_seconds
        grain = grain_of(seconds)
        with self._database.autocommit() as connection:
            since = rollups.span(connection, grain, seconds=seconds).since
            return PlainFigures(
                totals=plain_tasks.sums(connection, Grain.TOTAL, since=None),
                window=plain_tasks.sums(connection, grain, since=since),
                running=plain_tasks.running(
                    connection, within_seconds=self._options.worker_seconds
                ),
            )

    def _starts_calls(self, workspace: UUID) -> bool:
        try:
            return self._calls.actor("sitrep").workspace_id == workspace
        except ForbiddenError:
            return False

    def _put_together(self, scope: SitrepScope, sections: Mapping[str, Section[Any]]) -> Sitrep:
        live: Section[Sequence[LiveCount]] = sections["live"]
        attention: Section[Attention] = sections["attention"]
        workers: Section[Sequence[WorkerState]] = sections["workers"]
        plain: Section[PlainFigures] = sections["plain_tasks"]
        known = plain.data
        ended = (known.totals, known.window) if known else (None, None)
        totals: Section[Totals] = parts.mapped(
            sections["totals"],
            lambda data: parts.with_plain(data, ended[0]),
        )
        queues: Section[Sequence[QueueState]] = parts.mapped(
            live, lambda data: parts.queues(data, workers.data or (), attention.data)
        )
        of_database = [each for name, each in sections.items() if name not in _OF_REDIS]
        away = all(not each.ok for each in of_database)
        facts = Facts(
            database_error=next((each.error for each in of_database), None) if away else None,
            redis_error=sections["redis"].error,
            broker_error=sections["messages"].error,
            window=sections["window"].data,
            queues=queues.data,
            workers=workers.data,
            attention=attention.data,
            periodic=sections["periodic_tasks"].data,
        )
        found = problems.problems(facts, self._options.thresholds)
        return Sitrep(
            level=problems.level_of(found),
            headline=problems.headline(found),
            scope=scope,
            as_of=datetime.now(UTC),
            problems=found,
            **parts.figures(totals.data, live.data, known, sections["plain_waiting"].data),
            totals=totals,
            window=parts.mapped(
                sections["window"],
                lambda data: parts.with_plain(data, ended[1]),
            ),
            plain_tasks=plain,
            plain_waiting=sections["plain_waiting"],
            waiting=parts.mapped(live, parts.waiting),
            recent_tasks=sections["recent_tasks"],
            workers=workers,
            queues=queues,
            periodic_tasks=sections["periodic_tasks"],
            attention=attention,
            broker=sections["messages"],
        )


def _periodic(connection: Connection, workspace: UUID, *, whole: bool) -> list[PeriodicTask]:
    """Return the schedules of a workspace and the system's jobs, with the jobs' errors if whole."""
    schedules = parts.periodic(rows.periodic(connection, workspace_id=workspace, limit=_SHOWN))
    return [*schedules, *parts.jobs(maintenance.find(connection), errors=whole)]


def _totals(connection: Connection, workspace: UUID | None) -> Totals:
    return _figures(rollups.sums(connection, Grain.TOTAL, since=None, workspace_id=workspace))


def _window(connection: Connection, workspace: UUID | None, seconds: float) -> Totals:
    grain = grain_of(seconds)
    span = rollups.span(connection, grain, seconds=seconds)
    sums = rollups.sums(connection, grain, since=span.since, workspace_id=workspace)
    length = max((span.until - span.since).total_seconds(), 1.0)
    return _figures(sums, seconds=length, behind_seconds=span.behind_seconds)


def _figures(
    sums: Sums, *, seconds: float | None = None, behind_seconds: float | None = None
) -> Totals:
    return Totals(
        completed=sums.completed,
        failed=sums.failed,
        cancelled=sums.cancelled,
        success_rate=sums.success_rate,
        per_minute=None if seconds is None else sums.ended * 60 / seconds,
        seconds=seconds,
        average_wait_seconds=sums.average_wait_seconds,
        average_run_seconds=sums.average_run_seconds,
        wait_p95_seconds=sums.wait.quantile(0.95),
        run_p95_seconds=sums.run.quantile(0.95),
        behind_seconds=behind_seconds,
        no_ops=sums.no_ops,
    )


def report_database(url: str, pooler: Pooler | None) -> Database:
    """Return the database of reports: few connections, whose statements end soon."""
    return Database(
        url,
        connections=_CONNECTIONS,
        application="celeriac-sitrep",
        lock_seconds=ASK_SECONDS,
        statement_seconds=ASK_SECONDS,
        own_limits=True,
        pooler=pooler,
    )
