"""What doctor says of PostgreSQL, its schema and clock, of Redis, and of the broker."""

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta

from celeriac.db import engine, migrate, partitions, server
from celeriac.domain.doctor import (
    BrokerServer,
    Cause,
    Code,
    Finding,
    RedisServer,
    failed,
    ok,
    warning,
)
from celeriac.kit.units import duration, size
from celeriac.kit.words import counted

REDIS_CURE = "Start it or correct REDIS_URL; `celeriac up` starts one of its own."
BROKER_CURE = "Start it, or correct CELERY_BROKER_URL (without it: database 1 of REDIS_URL)."

OBJECTS_CURE = (
    "Correct CELERIAC_OBJECT_STORE, CELERIAC_OBJECT_STORE_ENDPOINT, the region or the credentials; "
    "they must allow to read, write and delete objects."
)

_OLDEST = 140_000
_MOST_SKEW_SECONDS = 2.0
_CROWDED = 0.9
_AHEAD = timedelta(days=1)
_LIMITS_BY_QUEUE = (3, 12)
"""The first RabbitMQ that follows `x-consumer-timeout` of a queue: docs/adr/0038."""
_POOLER_CURE = "set CELERIAC_DATABASE_POOLER=true."


def database_cure(message: str) -> str:
    """Return what helps against an error of the connection to PostgreSQL."""
    if "password authentication failed" in message:
        return "Correct user and password in DATABASE_URL."
    if "unsupported startup parameter" in message:
        return f"A pooler answers there: {_POOLER_CURE}"
    if "does not exist" in message:
        return "Create it, or correct DATABASE_URL."
    return "Start it or correct DATABASE_URL; `celeriac up` starts one of its own."


def judge_server(said: server.DatabaseServer, address: str) -> Finding:
    """Judge the version of the server, and how many connections are left."""
    where = f"{said.version} at {address}"
    if said.number < _OLDEST:
        cure = "Celeriac needs PostgreSQL 14 or newer."
        return failed(Code.DATABASE, where, cure, Cause.BROKEN)
    used = f"{said.connections} of {said.max_connections} connections in use"
    if said.connections > said.max_connections * _CROWDED:
        return warning(Code.DATABASE, f"{where}, {used}", "Raise its max_connections.")
    return ok(Code.DATABASE, f"{where}, {used}")


def judge_session(
    session: server.SessionSettings, *, pooled: bool, lock_seconds: float
) -> Finding | None:
    """Judge the settings of a session, which a pooler takes from the role."""
    faults = session.role_faults(lock_seconds if pooled else engine.LOCK_SECONDS)
    if not faults:
        if not pooled:
            return None
        return ok(Code.POOLER, f"the role {session.role} has the right settings")
    if not pooled:
        return warning(
            Code.POOLER, "it drops the settings of connections", f"A pooler is used: {_POOLER_CURE}"
        )
    named = ", ".join(faults)
    cure = f"{session.cure(faults)} Then let the pooler connect anew (RECONNECT in its console)."
    return warning(Code.POOLER, f"the role {session.role} has wrong settings for {named}", cure)


def judge_schema(schema: migrate.Schema) -> Finding:
    """Judge the revision of the schema."""
    if schema.up_to_date:
        return ok(Code.SCHEMA, f"revision {schema.current}")
    if schema.current is None:
        return failed(
            Code.SCHEMA, "the database is empty", "Run `celeriac db upgrade`.", Cause.BROKEN
        )
    message = f"the database has revision {schema.current}, this release needs {schema.wanted}"
    if schema.usable:
        return warning(Code.SCHEMA, message, schema.cure)
    return failed(Code.SCHEMA, message, schema.cure, Cause.BROKEN)


def judge_partitions(
    odd: Sequence[partitions.OddPartition], there: Sequence[partitions.Period], now: datetime
) -> Iterator[Finding]:
    """Judge whether there are partitions for what is made now, and foreign ones beside them."""
    for each in odd:
        message = f"Celeriac did not make {each}: no partitions can be made beside it, or dropped"
        yield failed(Code.PARTITIONS, message, each.cure)
    if not odd:
        yield _judge_periods(there, now)


def _judge_periods(there: Sequence[partitions.Period], now: datetime) -> Finding:
    cure = "Run beat: it makes them ahead of time. `celeriac db upgrade` makes them, too."
    until = partitions.covered_until(there, now)
    if until is None:
        return warning(Code.PARTITIONS, "there is none for executions that are made now", cure)
    if until < now + _AHEAD:
        return warning(Code.PARTITIONS, f"there are none from {until:%Y-%m-%d %H:%M} UTC on", cure)
    covered = f"from {there[0].since:%Y-%m-%d} to {until:%Y-%m-%d}"
    return ok(Code.PARTITIONS, f"{counted(len(there), 'period')} {covered}")


def judge_clock(skew: float) -> Finding:
    """Judge how many seconds this machine's clock and the database's are apart."""
    message = f"{duration(skew)} apart from the database's"
    if skew > _MOST_SKEW_SECONDS:
        return warning(
            Code.CLOCK,
            message,
            "Set this machine's clock by NTP: logs mislead, and filters by time miss executions.",
        )
    return ok(Code.CLOCK, message)


def judge_redis(said: RedisServer) -> Finding:
    """Judge whether Redis may lose what it holds."""
    where = f"{said.product} {said.version}, {size(said.used_memory)} in use"
    if said.max_memory and said.eviction != "noeviction":
        return warning(
            Code.REDIS,
            f"{where}; when full it drops entries ({said.eviction})",
            "Set maxmemory-policy to noeviction: a queue must keep what it holds.",
        )
    if not said.append_only:
        return warning(
            Code.REDIS,
            f"{where}; it forgets its queues when it dies",
            "Set appendonly to yes. Without it nothing is lost, but messages are sent again late.",
        )
    return ok(Code.REDIS, where)


def judge_broker(
    address: str, waiting: Mapping[str, int], *, served: set[str] | None, used: set[str]
) -> Iterator[Finding]:
    """Judge the messages of each queue.

    `served` are the queues that live workers listen to, None if they are unknown; `used` are those
    in which executions wait, of which other findings warn.
    """
    depths = ", ".join(f"{name} {count}" for name, count in waiting.items())
    yield ok(Code.BROKER, f"{address} answers; messages that wait: {depths}")
    for name, count in waiting.items():
        if count and served is not None and name not in served | used:
            yield warning(
                Code.QUEUES,
                f"{counted(count, 'message')} in {name!r}, to which no worker listens",
                f"Start one: `celeriac worker -Q {name}`.",
            )


def judge_rabbitmq(said: BrokerServer) -> Iterator[Finding]:
    """Judge the version of the broker: an old RabbitMQ limits how long executions may run."""
    numbers = re.match(r"(\d+)\.(\d+)", said.version)
    old = numbers is not None and tuple(map(int, numbers.groups())) < _LIMITS_BY_QUEUE
    if said.product == "RabbitMQ" and old:
        yield warning(
            Code.BROKER,
            f"RabbitMQ {said.version} closes a worker's channel when an execution keeps its slot "
            "for longer than the server's consumer_timeout, usually 30 minutes",
            "Upgrade to RabbitMQ 3.12 or newer; until then set consumer_timeout in rabbitmq.conf "
            "above your longest execution.",
        )
