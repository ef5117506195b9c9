"""Builds the keeper's maintenance jobs from settings."""

import time
from collections.abc import Callable
from functools import partial
from urllib.parse import urlsplit

import structlog

from celeriac.adapters.deliveries import DeliveryPost
from celeriac.adapters.webhook import Webhook
from celeriac.domain.errors import ConfigurationError
from celeriac.domain.webhooks import SigningKeys
from celeriac.services.approvals.answer import ApprovalLinks
from celeriac.services.approvals.notify import Notifications
from celeriac.services.audit import AuditTrail
from celeriac.services.budgets.usage import Usage
from celeriac.services.bulk_jobs.work import WorkOnBulkJobs
from celeriac.services.executions.ageing import RaiseAged
from celeriac.services.executions.attach import AttachLimits
from celeriac.services.executions.dispatch import Dispatch
from celeriac.services.executions.pauses import Pauses
from celeriac.services.operations.keeper import MaintenanceJob
from celeriac.services.operations.partitions import make_partitions
from celeriac.services.operations.retention import Retention, RetentionPolicy
from celeriac.services.operations.rollups import Rollups
from celeriac.services.schedules.fire import FireSchedules
from celeriac.services.schedules.start import Starter
from celeriac.services.schedules.waiting import StartWaiting
from celeriac.services.webhooks.messages import Messages
from celeriac.services.webhooks.send import Sender
from celeriac.services.workflows.repair import Repair
from celeriac.services.workflows.runs import Runs
from celeriac.wiring.core import CoreServices, build_performers, object_store, places, secret_key

logger = structlog.get_logger(__name__)

KEEPER_CONNECTIONS = 35
"""One per job, two for those of workflows, and one for the lock of retention: no job waits for the
connection of another."""

_CHECKS_PER_LEASE = 8
_MESSAGES_SECONDS = 2.0
_RESERVATIONS_SECONDS = 2.0
_NOTICE_SECONDS = 2.0
_FOLD_SECONDS = 5.0
_SEAL_SECONDS = 5.0
_AGEING_SECONDS = 1.0
_DEADLOCK_SECONDS = 5.0
_DELETED_SECONDS = 30.0
_LOOKS_BEFORE_EXPIRY = 4
_REPAIR_SECONDS = 60.0
_WEBHOOK_SECONDS = 0.5
_SCHEDULE_SECONDS = 1.0
_PARTITION_SECONDS = 3_600.0


def build_maintenance(container: CoreServices) -> list[MaintenanceJob]:
    """Return the keeper's jobs. Nothing is connected yet.

    Raises ConfigurationError for wrong settings of notifications.
    """
    settings = container.settings
    options = settings.keeper
    limit, interval = options.batch_size, options.interval_seconds
    # often enough for an unbroken view of the database (DatabaseView)
    check_every = min(interval, settings.worker.lease_seconds / _CHECKS_PER_LEASE)
    recover, expire, cancel = container.recover, container.expire, container.cancel
    end_expired = container.end_expired
    kept = settings.celery.result_expires / _LOOKS_BEFORE_EXPIRY
    then_send = partial(_then_send, container.dispatch)
    attach_limits = AttachLimits(container.database)
    pauses = Pauses(container.database, container.dispatch)
    work_on_bulk_jobs = WorkOnBulkJobs(container.database, build_performers(container))
    jobs: list[tuple[str, float, Callable[[], int]]] = [
        ("rescue_lost_workers", check_every, lambda: recover.rescue_lost_workers(limit)),
        (
            "resend_lost_messages",
            _MESSAGES_SECONDS,
            lambda: recover.requeue_lost_messages(older_than=options.resend_seconds, limit=limit),
        ),
        ("release_siblings", interval, lambda: then_send(recover.release_siblings(limit))),
        ("cancel_children", interval, lambda: cancel.children(limit)),
        (
            "cancel_in_deleted_workspaces",
            _DELETED_SECONDS,
            lambda: (
                cancel.of_deleted_workspaces(limit)
                + container.advance.cancel_of_deleted_workspaces(limit)
            ),
        ),
        ("resume_waiting", interval, lambda: then_send(recover.resume_due(limit))),
        (
            "release_reservations",
            _RESERVATIONS_SECONDS,
            lambda: recover.release_leaked_reservations(limit),
        ),
        ("advance_workflows", interval, lambda: container.advance.due(limit)),
        ("admit_workflows", interval, lambda: container.advance.waiting(limit)),
        ("end_deadlocks", _DEADLOCK_SECONDS, lambda: container.advance.deadlocked(limit)),
        ("end_overdue_workflows", interval, lambda: container.advance.overdue(limit)),
        (
            "repair_workflows",
            _REPAIR_SECONDS,
            partial(Repair(container.database, container.advance), limit),
        ),
        (
            "fire_schedules",
            _SCHEDULE_SECONDS,
            partial(_fire_schedules, build_fires(container), build_waiting(container), limit),
        ),
        ("admit_executions", interval, lambda: then_send(container.limits.some(limit))),
        ("attach_limits", interval, lambda: _repeated(attach_limits, interval)),
        ("forget_rates", _REPAIR_SECONDS, lambda: container.limits.forget_rates(limit)),
        ("expire_executions", interval, lambda: then_send(end_expired(limit))),
        ("expire_approvals", interval, lambda: then_send(expire.expire_overdue(limit))),
        ("fold_usage", _FOLD_SECONDS, lambda: Usage(container.database).fold(limit)),
        ("fold_ends", _FOLD_SECONDS, lambda: Rollups(container.database).fold(limit)),
        ("release_due", interval, lambda: _repeated(container.dispatch.release_due, interval)),
        ("dispatch_due", interval, lambda: _repeated(container.dispatch.send_due, interval)),
        ("hold_paused", interval, lambda: then_send(_repeated(pauses.hold, interval))),
        ("work_on_bulk_jobs", interval, lambda: _repeated(work_on_bulk_jobs, interval)),
        ("end_calls", interval, lambda: _repeated(container.end_calls, interval)),
        ("keep_calls", kept, lambda: container.end_calls.keep(older_than=kept)),
        (
            "make_partitions",
            _PARTITION_SECONDS,
            lambda: make_partitions(container.database, days=settings.retention.partition_days),
        ),
        ("retention", settings.retention.interval_seconds, build_retention(container)),
    ]
    if seconds := options.ageing_seconds:
        raise_aged = RaiseAged(container.database, container.live, seconds=seconds)
        jobs.append(("raise_aged", _AGEING_SECONDS, raise_aged))
    if notifications := build_notifications(container):
        jobs.append(("notify_of_approvals", _NOTICE_SECONDS, notifications.send_due))
    if trail := build_audit_trail(container):
        jobs.append(("seal_audit_trail", _SEAL_SECONDS, trail.seal))
    else:
        logger.warning("audit.not_sealed", cure="set CELERIAC_SECRET_KEY for beat, too")
    found = [MaintenanceJob(*job) for job in jobs]
    if sender := build_sender(container):
        found.append(
            MaintenanceJob("send_webhooks", _WEBHOOK_SECONDS, sender.send_due, sender.stop)
        )
    else:
        logger.warning("webhooks.not_sent", cure="set CELERIAC_SECRET_KEY for beat, too")
    return found


def build_fires(container: CoreServices) -> FireSchedules:
    """Return the job that fires schedules."""
    runs = Runs(container.database, container.plans, container.advance)
    return FireSchedules(container.database, Starter(container.submit, runs), container.dispatch)


def build_waiting(container: CoreServices) -> StartWaiting:
    """Return the job that starts fires which wait."""
    runs = Runs(container.database, container.plans, container.advance)
    return StartWaiting(
        container.database,
        Starter(container.submit, runs),
        container.dispatch,
        container.cancel,
        runs,
    )


def _fire_schedules(fire: FireSchedules, start: StartWaiting, limit: int) -> int:
    """Fire what is due, and start what has waited; the one may be what the other cancels."""
    return fire(limit) + start(limit)


def _then_send(dispatch: Dispatch, count: int) -> int:
    """Send what a job has made due, not in the next turn of another; return its count."""
    if count:
        dispatch.try_to_send()
    return count


def _repeated(work: Callable[[], int], seconds: float) -> int:
    """Do `work` while there is any, for about `seconds`; return how much it was."""
    until = time.monotonic() + seconds
    total = 0
    while done := work():
        total += done
        if time.monotonic() >= until:
            break
    return total


def build_retention(container: CoreServices) -> Retention:
    """Return the retention job."""
    settings = container.settings
    wanted = settings.retention
    policy = RetentionPolicy(
        executions=wanted.executions_days,
        sessions=wanted.sessions_days,
        files=wanted.files_days,
        logs=wanted.logs_days,
        audit=wanted.audit_days,
        idempotency_keys=wanted.idempotency_days,
        deliveries=wanted.deliveries_days,
        rollups=wanted.rollups_days,
    )
    return Retention(
        container.database,
        places(settings),
        policy,
        build_audit_trail(container),
        object_store(settings),
        batch=settings.keeper.batch_size,
    )


def build_audit_trail(container: CoreServices) -> AuditTrail | None:
    """Return the audit trail, or None without a secret key to seal it with."""
    if container.settings.secret_key is None:
        return None
    return AuditTrail(container.database, secret_key(container.settings))


def build_sender(container: CoreServices) -> Sender | None:
    """Return the sender of deliveries, or None without a secret key to sign them with."""
    settings = container.settings
    if settings.secret_key is None:
        return None
    return Sender(
        container.database,
        SigningKeys(secret_key(settings)),
        Messages(settings.public_url),
        DeliveryPost(settings.outbound.guard()),
    )


def build_notifications(container: CoreServices) -> Notifications | None:
    """Return the notifications of open questions, or None if no webhook is configured.

    Raises ConfigurationError without a secret key to sign links with, and for an address that would
    send them unencrypted over the internet.
    """
    settings = container.settings
    webhook, secret = settings.approvals.webhook, settings.approvals.webhook_secret
    if webhook is None or secret is None:
        return None
    guard = settings.outbound.guard()
    address = urlsplit(webhook)
    if address.scheme != "https" and not guard.names(address.hostname or ""):
        raise ConfigurationError(
            "CELERIAC_APPROVALS_WEBHOOK must begin with https://, unless its host is one of "
            "CELERIAC_OUTBOUND_ALLOW_HOSTS: the links that it is sent are secrets."
        )
    if settings.public_url is None:
        logger.warning(
            "approvals.notices_without_links",
            hint="set CELERIAC_PUBLIC_URL, where people reach the API with a browser",
        )
    return Notifications(
        container.database,
        ApprovalLinks(secret_key(settings)),
        Webhook(webhook, secret.get_secret_value(), guard),
        public_url=settings.public_url,
    )
