"""What limits count, and their policies. Standard library only: every command imports it."""

from enum import StrEnum


class LimitOf(StrEnum):
    """What a limit of a workspace is about."""

    EXECUTIONS = "executions"
    """Executions of tasks."""
    RUNS = "runs"
    """Runs of a workflow."""


class LimitCount(StrEnum):
    """What a limit counts."""

    RUNNING = "running"
    """What runs; what only waits gives its slot back."""
    ACTIVE = "active"
    """All from their begin to their end."""


class LimitPolicy(StrEnum):
    """What happens to a new one when a limit is reached."""

    QUEUE = "queue"
    CANCEL_NEW = "cancel_new"
    CANCEL_RUNNING = "cancel_running"
    KEEP_LATEST = "keep_latest"
    """One waits at most: the newest. The earlier ones end as `cancelled`."""
