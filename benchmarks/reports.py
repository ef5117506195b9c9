"""What operators, pagers and bots read: measured uncached, beside the lists, at each size."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from unittest.mock import patch

from celeriac.api.core import views
from celeriac.api.metrics.requests import RequestTimes
from celeriac.api.metrics.route import render
from celeriac.api.v1.executions.export import csv_text
from celeriac.db import metrics
from celeriac.db.engine import Database
from celeriac.domain.accounts import Actor, Role
from celeriac.domain.doctor import Finding, Level, RedisServer
from celeriac.domain.executions.model import BULKY, ExecutionFilter
from celeriac.domain.failure_states import FailureState
from celeriac.domain.failures import FailureFilter
from celeriac.domain.metrics import Figures
from celeriac.domain.plain_tasks import PlainWaiting
from celeriac.domain.problems import Thresholds
from celeriac.domain.sitrep import Sitrep, SitrepScope
from celeriac.services.doctor.checks import Checks, Installation
from celeriac.services.executions.queries import Queries
from celeriac.services.executions.search import Search
from celeriac.services.executions.why import ExplainWaiting
from celeriac.services.failures import Failures
from celeriac.services.operations import sources
from celeriac.services.operations.celery_tasks import CeleryTaskState
from celeriac.services.operations.recent import Recent
from celeriac.services.operations.rollups import Rollups
from celeriac.services.operations.sitrep import SitrepOptions, SituationReport
from tests.support.core import Core

Work = Callable[[], object]

_DAY_SECONDS = 86_400.0
_WINDOW_SECONDS = 900.0
_ALIVE_SECONDS = 30.0
_LONGEST_SECONDS = 60.0
_CONNECTIONS = 3
"""As many as the report has in the API."""

_EXPORTED = 500
"""Executions that an export reads at once."""


_SECTIONS = (
    "totals", "window", "waiting", "recent_tasks", "workers", "queues", "periodic_tasks",
    "attention", "broker",
)  # fmt: skip


_REDIS = RedisServer(
    product="Valkey", version="8", used_memory=0, max_memory=0, eviction="", append_only=True
)


class _Servers:
    """A Redis and a broker that answer at once, with nothing."""

    def ping(self) -> None:
        """Answer."""

    def messages(self) -> Mapping[str, int]:
        return {}

    def waiting_tasks(self, _: Sequence[str]) -> PlainWaiting:
        return PlainWaiting(0, capped=False)

    def close(self) -> None:
        """Nothing is open."""

    def states(self, _: Sequence[str]) -> Mapping[str, CeleryTaskState | None]:
        return {}


@contextmanager
def of(core: Core) -> Iterator[Mapping[str, Work]]:
    """Yield the reports by name; none uses an earlier answer again."""
    url = core.database.engine.url.render_as_string(hide_password=False)
    situation = SituationReport(
        Database(url, connections=_CONNECTIONS, statement_seconds=_LONGEST_SECONDS),
        _Servers(),
        Recent(_Servers(), worker_seconds=_ALIVE_SECONDS),
        SitrepOptions(
            worker_seconds=_ALIVE_SECONDS,
            window_seconds=_WINDOW_SECONDS,
            thresholds=Thresholds(),
        ),
    )
    try:
        # whole answers, however long they take, and none again
        with patch.multiple(
            sources, FRESH_SECONDS=0.0, ASK_SECONDS=_LONGEST_SECONDS, FIRST_SECONDS=_LONGEST_SECONDS
        ):
            administrator = replace(core.actor, role=Role.ADMIN, administrator=True)
            yield {
                "sitrep": lambda: _whole(situation.report(core.actor)),
                "sitrep of the instance": lambda: _whole(
                    situation.report(administrator, scope=SitrepScope.INSTANCE)
                ),
                **_figures(core, administrator),
                **_failures(core),
                "export, first page": _export(core),
                "why": _why(core),
                **_checks(core),
                **_search(core),
            }
    finally:
        situation.close()


def _whole(report: Sitrep) -> None:
    """Raise RuntimeError if a section is missing: it would look fast."""
    for name in _SECTIONS:
        section = getattr(report, name)
        if not section.ok:
            raise RuntimeError(f"{name}: {section.error}")


def _figures(core: Core, administrator: Actor) -> dict[str, Work]:
    statistics, times = Rollups(core.database), RequestTimes()

    def scrape() -> None:
        with core.database.transaction() as connection:
            found = metrics.read(
                connection, queues=(), alive_seconds=_ALIVE_SECONDS, statement_seconds=1.0
            )
        render(Figures(database=found, redis=None, disks=None), times)

    return {
        "metrics": scrape,
        "statistics of a day": lambda: statistics.window(core.actor, _DAY_SECONDS),
        "statistics of a day, all workspaces": lambda: statistics.window(
            administrator, _DAY_SECONDS, every=True
        ),
        "totals": lambda: statistics.totals(core.actor),
    }


def _failures(core: Core) -> dict[str, Work]:
    failures = Failures(core.database)
    every = FailureFilter(workspace_id=core.actor.workspace_id)
    new = replace(every, states=(FailureState.NEW, FailureState.REGRESSED))
    one = failures.find(core.actor, every, limit=1).items[0].id
    return {
        "failure groups": lambda: failures.find(core.actor, every),
        "failure groups by state": lambda: failures.find(core.actor, new),
        "failure group": lambda: failures.get(core.actor, one),
    }


def _export(core: Core) -> Work:
    """Return what an export does until its first bytes are sent."""
    queries, wanted = Queries(core.database), ExecutionFilter()

    def read() -> None:
        queries.export_end(core.actor, wanted, cursor=None, limit=_EXPORTED, whole=False)
        page = queries.executions(core.actor, wanted, limit=_EXPORTED, include=BULKY)
        csv_text(map(views.summary, page.items), BULKY)

    return read


def _search(core: Core) -> dict[str, Work]:
    """Return a search that finds a page at once, and one that goes as far back as it may."""
    search, wanted = Search(core.database), ExecutionFilter()

    def window(text: str) -> object:
        return search.window(core.actor, wanted, text, cursor=None, limit=50)

    return {
        "search, a page": lambda: window("a" * 50),
        "search, nothing found": lambda: window("nowhere"),
    }


def _why(core: Core) -> Work:
    explain, execution_id = ExplainWaiting(core.database), core.queued()
    return lambda: explain(core.actor, execution_id)


def _checks(core: Core) -> dict[str, Work]:
    checks = Checks(
        Installation(
            database=lambda: nullcontext(core.database),
            redis=lambda: _REDIS,
            lasting=(),
            providers=lambda: (),
            objects=lambda: "",
            depths=lambda _: {},
            broker_address=lambda: "",
            broker_server=lambda: None,
            queues=(),
            pooled=False,
            lock_seconds=1.0,
            lease_seconds=_ALIVE_SECONDS,
            notices_without_links=False,
        )
    )
    found = {
        "database": checks.database,
        "workers": checks.workers,
        "state": checks.state,
        "upkeep": checks.upkeep,
    }
    return {f"doctor: {name}": partial(_all, check) for name, check in found.items()}


def _all(check: Callable[[], Iterator[Finding]]) -> None:
    """Run a check; raise RuntimeError if it could not ask the database."""
    found = list(check())
    if all(finding.level is Level.FAILED for finding in found):
        raise RuntimeError(f"It could not ask: {found}")
