"""Builds the services of the HTTP API."""

import os
from dataclasses import dataclass

from celeriac.adapters.celery_queue import EXECUTE_TASK, CeleryPlainTasks
from celeriac.adapters.redis_server import RedisPing
from celeriac.agents.advice import Advice
from celeriac.db import engine
from celeriac.db.engine import Database
from celeriac.services.accounts import Accounts, Authenticate
from celeriac.services.approvals.answer import ApprovalLinks, Approvals
from celeriac.services.artifacts import Artifacts
from celeriac.services.audit import AccessRecords, AuditTrail
from celeriac.services.budgets.manage import Budgets, Usage
from celeriac.services.cassettes import Cassettes
from celeriac.services.catalog.agents import Agents
from celeriac.services.catalog.tasks import Tasks
from celeriac.services.documents import Apply
from celeriac.services.executions.bulk import Bulk
from celeriac.services.executions.queries import Queries
from celeriac.services.operations.celery_tasks import CeleryTasks
from celeriac.services.operations.health import HealthChecks
from celeriac.services.reports import ReportStore
from celeriac.services.sessions import Sessions
from celeriac.wiring.core import (
    CoreServices,
    advice,
    celery_options,
    environment_rule,
    places,
    secret_key,
)

_MISSED_HEARTBEATS = 3
"""A worker is gone after so many missed heartbeats."""


@dataclass(frozen=True, slots=True)
class ApiServices:
    """The services of the HTTP API, besides those that every program shares."""

    authenticate: Authenticate
    accounts: Accounts
    agents: Agents
    advice: Advice
    tasks: Tasks
    apply: Apply
    queries: Queries
    bulk: Bulk
    approvals: Approvals
    approval_links: ApprovalLinks
    sessions: Sessions
    cassettes: Cassettes
    artifacts: Artifacts
    reports: ReportStore
    budgets: Budgets
    usage: Usage
    celery_tasks: CeleryTasks
    health: HealthChecks
    redis_ping: RedisPing
    audit_trail: AuditTrail
    access_records: AccessRecords

    def close(self) -> None:
        """Write pending audit entries and close connections."""
        self.access_records.close()
        self.redis_ping.close()


def build_accounts(container: CoreServices) -> Accounts:
    """Return the accounts. Raises ConfigurationError without a secret key."""
    return Accounts(container.database, secret_key(container.settings))


def build_api_services(container: CoreServices) -> ApiServices:
    """Build the services; nothing is connected yet.

    Raises ConfigurationError without a secret key.
    """
    settings = container.settings
    queries = Queries(container.database)
    sessions = Sessions(container.database, places(settings))
    redis_ping = RedisPing(settings.require_redis())
    agents = Agents(container.database, environment_rule(settings))
    budgets = Budgets(container.database, container.specs, container.live)
    celery = CeleryPlainTasks(celery_options(settings, publisher=True))
    return ApiServices(
        authenticate=Authenticate(container.database, secret_key(settings)),
        accounts=build_accounts(container),
        agents=agents,
        advice=advice(settings, os.environ),
        tasks=Tasks(container.database),
        apply=Apply(container.database, agents, budgets),
        queries=queries,
        bulk=Bulk(container.database, container.cancel, container.specs),
        approvals=Approvals(container.database, container.live, container.dispatch.send_due),
        approval_links=ApprovalLinks(
            secret_key(settings), lambda: _database_clock(container.database)
        ),
        sessions=sessions,
        cassettes=Cassettes(container.database),
        artifacts=Artifacts(queries, sessions, places(settings)),
        reports=ReportStore(container.database),
        budgets=budgets,
        usage=Usage(container.database),
        celery_tasks=CeleryTasks(
            container.database,
            celery,
            allowed=settings.api.celery_task_allow_list,
            run_task=EXECUTE_TASK,
        ),
        health=HealthChecks(
            container.database,
            redis_ping,
            worker_seconds=_MISSED_HEARTBEATS * settings.worker.heartbeat_seconds,
        ),
        redis_ping=redis_ping,
        audit_trail=AuditTrail(container.database, secret_key(settings)),
        access_records=AccessRecords(container.database),
    )


def _database_clock(database: Database) -> float:
    with database.autocommit() as connection:
        return engine.clock(connection).timestamp()
