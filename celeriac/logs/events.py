"""Stable names of what is logged; docs/logs.md explains each, and a test holds it to this list."""

from enum import StrEnum


class Step(StrEnum):
    """The steps of an execution's life (REQUIREMENTS A15), as the `event` of its log lines."""

    EXECUTION_REQUESTED = "execution.requested"
    EXECUTION_CREATED = "execution.created"
    EXECUTION_QUEUED = "execution.queued"
    EXECUTION_PICKED_UP = "execution.picked_up"
    SESSION_CREATED = "session.created"
    AGENT_SET_UP = "agent.set_up"
    MESSAGE_SENT = "message.sent"
    TOOL_EXECUTED = "tool.executed"
    REPORT_GENERATED = "report.generated"
    EXECUTION_COMPLETED = "execution.completed"
    EXECUTION_FAILED = "execution.failed"
    EXECUTION_CANCEL_REQUESTED = "execution.cancel_requested"
    EXECUTION_CANCELLED = "execution.cancelled"
    EXECUTION_RETRY_SCHEDULED = "execution.retry_scheduled"
    EXECUTION_HANDED_BACK = "execution.handed_back"
    EXECUTION_PARKED = "execution.parked"
    EXECUTION_RESUMED = "execution.resumed"
    APPROVAL_ASKED = "approval.asked"
    APPROVAL_ANSWERED = "approval.answered"
    EXECUTION_WORKER_LOST = "execution.worker_lost"
    EXECUTION_LEASE_LOST = "execution.lease_lost"


class CeleryEvent(StrEnum):
    """What Celery's signals report (REQUIREMENTS A10, B11), as the `event` of its log lines."""

    WORKER_READY = "celery.worker_ready"
    TASK_PRERUN = "celery.task_prerun"
    TASK_POSTRUN = "celery.task_postrun"
    TASK_SUCCESS = "celery.task_success"
    TASK_FAILURE = "celery.task_failure"
    TASK_RETRY = "celery.task_retry"
    TASK_REVOKED = "celery.task_revoked"


class Own(StrEnum):
    """What the log itself reports."""

    LINES_LOST = "logs.lines_lost"
