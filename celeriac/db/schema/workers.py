"""Table of worker processes."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    Integer,
    Text,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY

from celeriac.db.schema.base import stored, table_of_ids, timestamp

workers = table_of_ids(
    "workers",
    Column("hostname", Text, nullable=False, index=True),
    Column("pid", Integer, nullable=False),
    Column("pool", Text, nullable=False),
    Column("slots", Integer, nullable=False),
    Column("coroutines", Integer, nullable=False, server_default="0"),
    Column("running", Integer, nullable=False, server_default="0"),
    Column("cpu_percent", Double, nullable=False, server_default="0"),
    Column("memory_bytes", BigInteger, nullable=False, server_default="0"),
    Column("version", Text, nullable=False),
    # empty and NULL: a worker of an older release
    Column("queues", ARRAY(Text), nullable=False, server_default=text("'{}'")),
    Column("consuming", Boolean),
    Column("messages_dropped", BigInteger, nullable=False, server_default="0"),
    Column("unknown_tasks", ARRAY(Text), nullable=False, server_default=text("'{}'")),
    # seconds before seen_at
    Column("unknown_tasks_ages", ARRAY(Double), nullable=False, server_default=text("'{}'")),
    Column("lacks", ARRAY(Text), nullable=False, server_default=text("'{}'")),
    Column("confinement", Text),
    # plain Celery tasks: how many run, and the last batch of counts of those that ended
    Column("plain_running", Integer, nullable=False, server_default="0"),
    Column("plain_batch", BigInteger, nullable=False, server_default="0"),
    timestamp("started_at", now=True),
    timestamp("seen_at", now=True),
    timestamp("stopped_at"),
    # No index: a renewal must stay a HOT update.
    timestamp("lease_until", now=True),
    timestamp("lost_at"),
    # Few rows, each updated every few seconds in columns that no index has: on pages half empty
    # most versions are removed by the next update, without a vacuum.
    postgresql_with=stored(dead=1_000, fill=50),
)
"""One row for each process that runs executions (each prefork child has its own).

A process whose `lost_at` or `stopped_at` is set claims and renews nothing under this row again.
"""
