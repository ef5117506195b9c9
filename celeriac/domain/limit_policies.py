"""The policies of limits. Standard library only, because every command imports it."""

from enum import StrEnum


class LimitPolicy(StrEnum):
    """What happens to a new one when a limit is reached."""

    QUEUE = "queue"
    CANCEL_NEW = "cancel_new"
    CANCEL_RUNNING = "cancel_running"
    KEEP_LATEST = "keep_latest"
    """One waits at most: the newest. The earlier ones end as `cancelled`."""
