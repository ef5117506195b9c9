"""The advisory locks of the database: each has a number of its own."""

from enum import IntEnum, unique

from sqlalchemy import Connection, text


@unique
class AdvisoryLock(IntEnum):
    """What a lock guards, with its number."""

    RETENTION = 4242421
    """One process deletes at a time."""
    AUDIT = 4242422
    """One process seals audit entries at a time."""
    CATALOG = 4242423
    """A change of a workspace's catalog; the second number is the hash of its id."""
    PARTITIONS = 4242424
    """One process makes or drops partitions at a time."""
    DELIVERIES = 4242425
    """One sender claims deliveries to webhooks at a time."""
    RUN_LIMIT = 4242426
    """A key of a limit of workflow runs; the second number is the hash of its workspace and it."""
    EXECUTION_LIMIT = 4242427
    """A key of a limit of executions; the second number is the hash of its workspace and it."""
    DEBOUNCE = 4242428
    """A key of a task's debounce; the second number is the hash of both."""
    MIGRATION = 0x63656C65
    """One migration at a time."""

    @property
    def taken(self) -> str:
        """SQL that waits for the lock, which lasts until the transaction ends."""
        return f"pg_advisory_xact_lock({self.value})"

    @property
    def tried(self) -> str:
        """SQL that is true if the lock could be taken at once; it lasts until the end, too."""
        return f"pg_try_advisory_xact_lock({self.value})"


def hold(connection: Connection, lock: AdvisoryLock) -> bool:
    """Take `lock` until the transaction ends; False if another transaction holds it.

    The transaction may wait while another connection works: it keeps no snapshot, for which
    `DETACH PARTITION CONCURRENTLY` and `CREATE INDEX CONCURRENTLY` would wait.
    """
    taken: bool = connection.execute(text(f"SELECT {lock.tried}")).scalar_one()
    # the result of a query keeps its snapshot until another statement follows
    connection.exec_driver_sql("SET LOCAL idle_in_transaction_session_timeout = 0")
    return taken
