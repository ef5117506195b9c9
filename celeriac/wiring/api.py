"""Builds the services of the HTTP API."""

from functools import partial

from celeriac.adapters.celery_queue import EXECUTE_TASK, QUEUES
from celeriac.adapters.plain_tasks import CeleryPlainTasks
from celeriac.adapters.redis_server import RedisPing
from celeriac.adapters.server_probe import ServerProbe
from celeriac.db import engine
from celeriac.db.engine import Database
from celeriac.domain.hooks.secrets import HookKeys
from celeriac.domain.problems import Thresholds
from celeriac.domain.webhooks import SigningKeys
from celeriac.services.accounts import Accounts
from celeriac.services.approvals.answer import ApprovalLinks, Approvals
from celeriac.services.artifacts import Artifacts
from celeriac.services.audit import AccessRecords, AuditTrail
from celeriac.services.authentication import Authenticate
from celeriac.services.budgets.manage import Budgets
from celeriac.services.budgets.usage import Usage
from celeriac.services.bulk_jobs.manage import BulkJobs
from celeriac.services.cassettes import Cassettes
from celeriac.services.catalog.agents import Agents
from celeriac.services.catalog.tasks import Tasks
from celeriac.services.doctor.examine import Doctor
from celeriac.services.documents.apply import Apply
from celeriac.services.execution_logs import ExecutionLogs
from celeriac.services.executions.bulk import Bulk
from celeriac.services.executions.change import Change
from celeriac.services.executions.pauses import Pauses
from celeriac.services.executions.queries import Queries
from celeriac.services.executions.repeat import Repeat
from celeriac.services.executions.search import Search
from celeriac.services.executions.why import ExplainWaiting
from celeriac.services.failures import Failures
from celeriac.services.hooks.manage import Hooks
from celeriac.services.hooks.receive import Receive
from celeriac.services.invitations import Invitations
from celeriac.services.limits import WorkspaceLimits
from celeriac.services.operations.celery_tasks import CeleryTasks
from celeriac.services.operations.health import HealthChecks
from celeriac.services.operations.maintenance import MaintenanceJobs
from celeriac.services.operations.metrics import Metrics
from celeriac.services.operations.recent import Recent
from celeriac.services.operations.rollups import Rollups
from celeriac.services.operations.sitrep import SitrepOptions, SituationReport, report_database
from celeriac.services.operations.sources import ASK_SECONDS
from celeriac.services.reports import ReportStore
from celeriac.services.saved_views import SavedViews
from celeriac.services.schedules.manage import Schedules
from celeriac.services.schedules.start import Starter
from celeriac.services.secrets.manage import Secrets
from celeriac.services.sessions import Sessions
from celeriac.services.storage_paths import StoragePaths
from celeriac.services.webhooks.manage import Webhooks
from celeriac.services.workflows.catalog import Workflows
from celeriac.services.workflows.runs import Runs
from celeriac.services.workspaces import Workspaces
from celeriac.settings import Settings
from celeriac.wiring.core import (
    CoreServices,
    advice,
    build_performers,
    celery_options,
    environment_rule,
    object_store,
    places,
    pooler,
    secret_cipher,
    secret_key,
    silent_after,
)
from celeriac.wiring.doctor import build_checks
from celeriac.wiring.repositories import repository_check

_ADVANCE_SECONDS = 2.0
"""How long an answer works on the run of its step; the keeper continues."""


class ApiServices:
    """The services of the HTTP API, besides those that every program shares.

    Nothing is connected yet. Raises ConfigurationError without a secret key.
    """

    def __init__(self, container: CoreServices) -> None:
        settings, database = container.settings, container.database
        key, storage = secret_key(settings), places(settings)
        self.authenticate = Authenticate(database, key)
        self.accounts = Accounts(database, key)
        self.workspaces = Workspaces(database)
        self.invitations = Invitations(database, key)
        self.agents = Agents(database, environment_rule(settings))
        self.advice = advice(settings)
        self.tasks = Tasks(database, repository_check(settings))
        self.workflows = Workflows(database)
        self.runs = Runs(database, container.plans, container.advance)
        self.schedules = Schedules(
            database, Starter(container.submit, self.runs), container.dispatch
        )
        self.queries, self.search = Queries(database), Search(database)
        self.why = ExplainWaiting(database, ageing_seconds=settings.keeper.ageing_seconds)
        self.limits = WorkspaceLimits(
            database, container.limits, container.dispatch, container.advance
        )
        self.pauses = Pauses(database, container.dispatch, container.limits)
        self.change = Change(database, container.dispatch)
        self.bulk = Bulk(database, container.cancel, self.change, Repeat(database, container.specs))
        self.approvals = Approvals(
            database,
            container.live,
            container.dispatch.send_eligible,
            partial(container.advance.after, seconds=_ADVANCE_SECONDS),
        )
        self.approval_links = ApprovalLinks(key, lambda: _database_clock(database))
        self.sessions, self.cassettes = Sessions(database, storage), Cassettes(database)
        self.artifacts, self.logs = (
            Artifacts(
                database,
                object_store(settings),
                self.queries,
                self.sessions,
                link_seconds=settings.objects.link_seconds if settings.objects.links else None,
            ),
            _execution_logs(settings, self.queries, storage),
        )
        self.reports, self.views = ReportStore(database), SavedViews(database)
        self.secrets, self.budgets = (
            Secrets(database, secret_cipher(settings)),
            Budgets(database, container.specs, container.live),
        )
        self.failures, self.rollups = Failures(database), Rollups(database)
        self.bulk_jobs = BulkJobs(database, build_performers(container))
        self.webhooks = Webhooks(database, SigningKeys(key), settings.outbound.guard())
        hook_keys = HookKeys(key)
        self.usage, self.hooks = Usage(database), Hooks(database, hook_keys)
        self.apply = Apply(
            database, self.agents, self.budgets, self.limits, self.hooks, tasks=self.tasks
        )
        self.receive = Receive(database, hook_keys, container.submit, self.runs)
        self.celery_tasks = CeleryTasks(
            database,
            plain_tasks := CeleryPlainTasks(celery_options(settings, publisher=True)),
            allowed=settings.api.celery_task_allow_list,
            run_task=EXECUTE_TASK,
        )
        self.redis_ping = RedisPing(settings.require_redis())
        self.health = HealthChecks(
            database,
            self.redis_ping,
            worker_seconds=silent_after(settings),
        )
        self.maintenance = MaintenanceJobs(database)
        self.metrics = Metrics(
            database,
            self.redis_ping.figures,
            directories={"home": settings.home.absolute(), "logs": settings.logs.absolute()},
            queues=QUEUES,
            alive_seconds=silent_after(settings),
        )
        self.metrics_token = settings.api.metrics_token
        self.sitrep = _situation_report(container, plain_tasks)
        self.doctor = Doctor(build_checks(settings, container.queue))
        self.audit_trail, self.access_records = AuditTrail(database, key), AccessRecords(database)

    def close(self) -> None:
        """Write pending audit entries and close connections."""
        self.access_records.close()
        self.metrics.close()
        self.redis_ping.close()
        self.sitrep.close()
        self.doctor.close()


def _situation_report(container: CoreServices, plain_tasks: CeleryPlainTasks) -> SituationReport:
    settings = container.settings
    chosen = settings.sitrep
    return SituationReport(
        report_database(settings.require_database(), pooler(settings)),
        ServerProbe(settings.require_redis(), container.queue, seconds=ASK_SECONDS),
        Recent(plain_tasks, worker_seconds=silent_after(settings)),
        SitrepOptions(
            worker_seconds=silent_after(settings),
            window_seconds=chosen.window_seconds,
            thresholds=Thresholds(**chosen.model_dump(exclude={"window_seconds"})),
            calls_user=settings.calls.user,
            calls_workspace=settings.calls.workspace,
        ),
    )


def _execution_logs(settings: Settings, queries: Queries, storage: StoragePaths) -> ExecutionLogs:
    return ExecutionLogs(
        queries,
        storage,
        enabled=settings.log_execution_files,
        kept_days=settings.retention.logs_days,
    )


def _database_clock(database: Database) -> float:
    with database.autocommit() as connection:
        return engine.clock(connection).timestamp()
