"""Checks of the servers: PostgreSQL and its schema, Redis, broker."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta

from celeriac.adapters import redis_server
from celeriac.adapters.celery_queue import QUEUES, CeleryTaskQueue, create_app
from celeriac.cli.core.output import ExitCode, duration, size
from celeriac.cli.core.server import open_database
from celeriac.cli.doctor.findings import Finding, failed, ok, warning
from celeriac.db import engine, migrate, partitions, workers
from celeriac.db.executions import queries
from celeriac.domain.errors import (
    BrokerUnavailableError,
    CeleriacError,
    ConfigurationError,
    DatabaseUnavailableError,
    UnavailableError,
)
from celeriac.kit.outbound import without_password
from celeriac.kit.words import counted
from celeriac.settings import Settings
from celeriac.wiring.core import celery_options
from celeriac.wiring.worker import worker_lock_seconds

DATABASE = "PostgreSQL"
POOLER = "pooler"
SCHEMA = "schema"
PARTITIONS = "partitions"
REDIS = "Redis"
BROKER = "broker"
CLOCK = "clock"

_OLDEST = 140_000
ALIVE_SECONDS = 30.0
"""A worker that has not reported itself for longer is not alive."""

_MOST_SKEW_SECONDS = 2.0
_CROWDED = 0.9
_AHEAD = timedelta(days=1)


def check_database(settings: Settings) -> Iterator[Finding]:
    """Check the database server, its clock and the schema."""
    try:
        with open_database(settings) as database, database.autocommit() as connection:
            said = engine.describe(connection)
            skew = abs((said.now - datetime.now(UTC)).total_seconds())
            schema = migrate.schema(connection)
            session = engine.session_settings(connection)
            odd = partitions.odd_partitions(connection) if schema.usable else []
            there = partitions.periods(connection) if schema.usable and not odd else []
    except ConfigurationError as error:
        yield failed(DATABASE, error.message, None, ExitCode.USAGE)
        return
    except DatabaseUnavailableError as error:
        yield failed(DATABASE, error.message, _database_cure(error.message))
        return
    yield _judge_server(said, database.address)
    if (finding := _judge_session(session, settings)) is not None:
        yield finding
    yield _judge_schema(schema)
    if schema.usable:
        yield from map(_judge_odd, odd)
        if not odd:
            yield _judge_partitions(there, said.now)
    yield _judge_clock(skew)


def check_redis(settings: Settings) -> Iterator[Finding]:
    """Check the application's Redis, and whether it may lose data."""
    try:
        said = redis_server.describe(settings.require_redis())
    except ConfigurationError as error:
        yield failed(REDIS, error.message, None, ExitCode.USAGE)
    except UnavailableError as error:
        yield failed(REDIS, error.message, _REDIS_CURE)
    else:
        yield _judge_redis(said)


def check_broker(settings: Settings) -> Iterator[Finding]:
    """Check that the broker returns the depths of its queues."""
    try:
        options = celery_options(settings, publisher=True)
        queue = CeleryTaskQueue(create_app(options))
        served, used = _known_queues(settings)
        names = dict.fromkeys((*QUEUES, *sorted(used.union(served or ()))))
        waiting = {name: queue.depth(name) for name in names}
    except ConfigurationError as error:
        yield failed(BROKER, error.message, None, ExitCode.USAGE)
    except BrokerUnavailableError as error:
        yield failed(BROKER, error.message, _BROKER_CURE)
    else:
        address = without_password(options.broker_url)
        depths = ", ".join(f"{name} {count}" for name, count in waiting.items())
        yield ok(BROKER, f"{address} answers; messages that wait: {depths}")
        for name, count in waiting.items():
            if count and served is not None and name not in served | used:
                yield warning(
                    "queues",
                    f"{counted(count, 'message')} in {name!r}, to which no worker listens",
                    f"Start one: `celeriac worker -Q {name}`.",
                )


def _known_queues(settings: Settings) -> tuple[set[str] | None, set[str]]:
    """Return the queues that live workers listen to, and those in which executions wait.

    The first is None if it is unknown. `doctor.work` warns of the second.
    """
    try:
        with open_database(settings) as database, database.autocommit() as connection:
            if not migrate.schema(connection).usable:  # another finding says so
                return None, set()
            found = workers.live(connection, within_seconds=ALIVE_SECONDS)
            used = set(queries.waiting_counts(connection))
    except CeleriacError:  # another finding says so
        return None, set()
    if not all(worker.queues for worker in found):  # one of an older release doesn't name them
        return None, used
    return {queue for worker in found for queue in worker.queues}, used


_REDIS_CURE = "Start it or correct REDIS_URL; `celeriac up` starts one of its own."
_BROKER_CURE = "Start it, or correct CELERY_BROKER_URL (without it: database 1 of REDIS_URL)."


_POOLER_CURE = "set CELERIAC_DATABASE_POOLER=true."


def _database_cure(message: str) -> str:
    if "password authentication failed" in message:
        return "Correct user and password in DATABASE_URL."
    if "unsupported startup parameter" in message:
        return f"A pooler answers there: {_POOLER_CURE}"
    if "does not exist" in message:
        return "Create it, or correct DATABASE_URL."
    return "Start it or correct DATABASE_URL; `celeriac up` starts one of its own."


def _judge_server(said: engine.DatabaseServer, address: str) -> Finding:
    where = f"{said.version} at {address}"
    if said.number < _OLDEST:
        return failed(DATABASE, where, "Celeriac needs PostgreSQL 14 or newer.", ExitCode.FAILED)
    used = f"{said.connections} of {said.max_connections} connections in use"
    if said.connections > said.max_connections * _CROWDED:
        return warning(DATABASE, f"{where}, {used}", "Raise its max_connections.")
    return ok(DATABASE, f"{where}, {used}")


def _judge_session(session: engine.SessionSettings, settings: Settings) -> Finding | None:
    """Judge the settings of a session, which a pooler takes from the role."""
    pooled = settings.database.pooler
    limit = worker_lock_seconds(settings) if pooled else engine.LOCK_SECONDS
    faults = session.role_faults(limit)
    if not faults:
        return ok(POOLER, f"the role {session.role} has the right settings") if pooled else None
    if not pooled:
        return warning(
            POOLER, "it drops the settings of connections", f"A pooler is used: {_POOLER_CURE}"
        )
    named = ", ".join(faults)
    cure = f"{session.cure(faults)} Then let the pooler connect anew (RECONNECT in its console)."
    return warning(POOLER, f"the role {session.role} has wrong settings for {named}", cure)


def _judge_schema(schema: migrate.Schema) -> Finding:
    if schema.up_to_date:
        return ok(SCHEMA, f"revision {schema.current}")
    if schema.current is None:
        return failed(
            SCHEMA, "the database is empty", "Run `celeriac db upgrade`.", ExitCode.FAILED
        )
    message = f"the database has revision {schema.current}, this release needs {schema.wanted}"
    if schema.usable:
        return warning(SCHEMA, message, schema.cure)
    return failed(SCHEMA, message, schema.cure, ExitCode.FAILED)


def _judge_odd(odd: partitions.OddPartition) -> Finding:
    message = f"Celeriac did not make {odd}: no partitions can be made beside it, or dropped"
    return failed(PARTITIONS, message, odd.cure)


def _judge_partitions(there: Sequence[partitions.Period], now: datetime) -> Finding:
    cure = "Run beat: it makes them ahead of time. `celeriac db upgrade` makes them, too."
    until = partitions.covered_until(there, now)
    if until is None:
        return warning(PARTITIONS, "there is none for executions that are made now", cure)
    if until < now + _AHEAD:
        return warning(PARTITIONS, f"there are none from {until:%Y-%m-%d %H:%M} UTC on", cure)
    covered = f"from {there[0].since:%Y-%m-%d} to {until:%Y-%m-%d}"
    return ok(PARTITIONS, f"{counted(len(there), 'period')} {covered}")


def _judge_clock(skew: float) -> Finding:
    message = f"{duration(skew)} apart from the database's"
    if skew > _MOST_SKEW_SECONDS:
        return warning(
            CLOCK,
            message,
            "Set this machine's clock by NTP: logs mislead, and filters by time miss executions.",
        )
    return ok(CLOCK, message)


def _judge_redis(said: redis_server.RedisServer) -> Finding:
    where = f"{said.product} {said.version}, {size(said.used_memory)} in use"
    if said.max_memory and said.eviction != "noeviction":
        return warning(
            REDIS,
            f"{where}; when full it drops entries ({said.eviction})",
            "Set maxmemory-policy to noeviction: a queue must keep what it holds.",
        )
    if not said.append_only:
        return warning(
            REDIS,
            f"{where}; it forgets its queues when it dies",
            "Set appendonly to yes. Without it nothing is lost, but messages are sent again late.",
        )
    return ok(REDIS, where)
