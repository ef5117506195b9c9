"""What starts executions and runs of workflows."""

from enum import StrEnum


class TriggerType(StrEnum):
    """What started an execution (REQUIREMENTS A3)."""

    MANUAL = "manual"
    SCHEDULED = "scheduled"
    WEBHOOK = "webhook"
    WORKFLOW = "workflow"
    CELERY = "celery"
    """A Celery task, which ends with it (docs/celery.md)."""
