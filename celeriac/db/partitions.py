"""The partitions of executions and of what belongs to them (docs/adr/0046).

The tables are partitioned by ranges of the execution's id, a UUIDv7, and so by the time at which it
was made. A period has a partition of each table, with the same bounds, named after the day (UTC) on
which it begins: `events_20261123`. Periods may differ in length, and none needs to exist before its
first execution: `ensure` makes what lacks.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

from sqlalchemy import Connection, Table, text

from celeriac.db.locks import AdvisoryLock
from celeriac.db.schema.base import PARTITION_OPTIONS
from celeriac.db.schema.executions import (
    events,
    execution_inputs,
    execution_results,
    executions,
)
from celeriac.db.schema.reports import reports
from celeriac.db.schema.usage import model_calls
from celeriac.db.schema.workflows import workflow_runs
from celeriac.domain.errors import PartitionsError

TABLES: tuple[Table, ...] = (
    executions,
    execution_inputs,
    execution_results,
    events,
    model_calls,
    reports,
)
"""The partitioned tables. That of executions comes first: it decides which periods there are."""

DEFAULT_DAYS = 7

_DAY = 86_400_000
_MONDAY = 4 * _DAY
"""The first Monday of Unix time, in milliseconds: periods of a week begin on Mondays."""
_KNOWN = "celeriac_partitions"
_MARK = "celeriac drops this partition"
_CLOCK_SLACK = timedelta(hours=1)


@dataclass(frozen=True, slots=True, order=True)
class Period:
    """A period that has partitions: from its first millisecond to before its last one."""

    begin: int
    end: int

    @property
    def since(self) -> datetime:
        """When it begins."""
        return _moment(self.begin)

    @property
    def until(self) -> datetime:
        """When the next one begins."""
        return _moment(self.end)

    @property
    def least(self) -> UUID:
        """The smallest id in it."""
        return _id_at(self.begin)

    @property
    def above(self) -> UUID:
        """The smallest id after it."""
        return _id_at(self.end)

    def name(self, table: str) -> str:
        """Return the name of the partition of `table`."""
        return f"{table}_{self.since:%Y%m%d}"


def is_partition(name: str) -> bool:
    """Whether a table of this name is a partition."""
    return any(re.fullmatch(rf"{table.name}_\d{{8}}", name) for table in TABLES)


_ATTACHED = text("""
SELECT i.inhparent::regclass::text, i.inhrelid::regclass::text,
       pg_get_expr(c.relpartbound, c.oid)
FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
WHERE i.inhparent = ANY (CAST(CAST(:tables AS text[]) AS regclass[])) AND NOT i.inhdetachpending
ORDER BY 1, 2
""")
_BOUNDS = re.compile(r"FROM \('(.+)'\) TO \('(.+)'\)")


@dataclass(frozen=True, slots=True)
class OddPartition:
    """A partition without a beginning or an end, which somebody else has attached."""

    table: str
    name: str
    bounds: str

    def __str__(self) -> str:
        return f"{self.name} of {self.table} ({self.bounds})"

    @property
    def cure(self) -> str:
        """What to do about it."""
        return (
            f"Detach it: ALTER TABLE {self.table} DETACH PARTITION {self.name}; then insert its "
            f"rows into {self.table}."
        )


def odd_partitions(connection: Connection) -> list[OddPartition]:
    """Return the partitions that belong to no period: of all partitioned tables."""
    names = [table.name for table in TABLES]
    return [
        OddPartition(*row)
        for row in connection.execute(_ATTACHED, {"tables": names})
        if not _BOUNDS.search(row[2])
    ]


def periods(connection: Connection) -> list[Period]:
    """Return the periods that have partitions, the oldest first.

    Raises PartitionsError if a partition of `executions` belongs to no period.
    """
    found = []
    for row in connection.execute(_ATTACHED, {"tables": [executions.name]}):
        if not _BOUNDS.search(row[2]):
            odd = OddPartition(*row)
            raise PartitionsError(
                f"Celeriac did not make the partition {odd}, and can't make others beside it. "
                f"{odd.cure}"
            )
        found.append(_period(row[2]))
    return sorted(found)


def _period(bounds: str) -> Period:
    match = _BOUNDS.search(bounds)
    assert match is not None, "checked before, or made here"
    return Period(UUID(match[1]).int >> 80, UUID(match[2]).int >> 80)


def ensure(connection: Connection, ids: Sequence[UUID]) -> None:
    """Make the partitions that executions with these ids need, if they lack.

    The connection remembers what it has seen of the present, which is not dropped: as a rule this
    asks nothing. Raises PartitionsError.
    """
    least, most = min(ids).int >> 80, max(ids).int >> 80
    known = connection.info.get(_KNOWN)
    if known is not None and known.begin <= least and most < known.end:
        return
    there = periods(connection)
    missing = _missing(there, least, most, days=None)
    for period in missing:
        make(connection, period)
    around = _around(there, most)
    # not what is made here: the transaction may be rolled back
    if around is not None and not missing:
        recent = _stamp(datetime.now(UTC) - _CLOCK_SLACK)
        connection.info[_KNOWN] = Period(max(around.begin, recent), around.end)


def forget(connection: Connection) -> None:
    """Let the connection ask again which partitions there are."""
    connection.info.pop(_KNOWN, None)


def make_ahead(
    connection: Connection, *, days: int = DEFAULT_DAYS, now: datetime | None = None
) -> list[Period]:
    """Make the partitions from an hour ago to the next period but one, and return them.

    New periods are of `days`, unless a longer one would overlap another.
    """
    moment = now or connection.execute(text("SELECT clock_timestamp()")).scalar_one()
    least, most = _stamp(moment - _CLOCK_SLACK), _stamp(moment + timedelta(days=days))
    missing = _missing(periods(connection), least, most, days=days)
    for period in missing:
        make(connection, period)
    return missing


def covered_until(there: Sequence[Period], moment: datetime) -> datetime | None:
    """Return until when there are partitions without a gap from `moment` on; None if none then."""
    at = _stamp(moment)
    around = _around(there, at)
    return None if around is None else around.until


_STRAGGLER = """
WITH part AS MATERIALIZED (
    SELECT id, completed_at FROM {name} WHERE id >= :least AND id < :above ORDER BY id LIMIT :most
)
SELECT EXISTS (SELECT FROM part WHERE completed_at IS NULL
                  OR completed_at >= now() - make_interval(secs => :seconds)),
       (SELECT id FROM part ORDER BY id OFFSET :most - 1)
"""
_MOST_READ = 50_000
"""Rows that one statement reads: a partition may have too many for the statement time-out."""


def has_stragglers(connection: Connection, period: Period, *, days: float) -> bool:
    """Whether an execution or a run of a period lives, or ended less than `days` ago.

    Runs have their events in the period's partitions. Reads all of the period if there is none. Its
    partition of `executions` may be detached already.
    """
    return any(
        _has_straggler(connection, name, period, days)
        for name in (workflow_runs.name, period.name(executions.name))
    )


def _has_straggler(connection: Connection, name: str, period: Period, days: float) -> bool:
    query = text(_STRAGGLER.format(name=name))
    least: UUID | None = period.least
    while least is not None:
        parameters = {
            "least": least,
            "above": period.above,
            "most": _MOST_READ,
            "seconds": days * 86_400,
        }
        found, least = connection.execute(query, parameters).one()
        if found:
            return True
        if least is not None:
            least = UUID(int=least.int + 1)
    return False


_STATES = text("""
SELECT t.name, c.relispartition, coalesce(i.inhdetachpending, false)
FROM unnest(CAST(:names AS text[])) WITH ORDINALITY AS t (name, place)
JOIN pg_class c ON c.oid = to_regclass(t.name)
LEFT JOIN pg_inherits i ON i.inhrelid = c.oid
ORDER BY t.place
""")


def detach(connection: Connection, period: Period) -> None:
    """Detach the partition of `executions`, beside all other work; needs autocommit mode.

    Nothing is inserted into the period any more. May be repeated. The table is marked before, so
    that `left_over` finds it, and nothing that others have detached or copied.
    """
    name = period.name(executions.name)
    connection.exec_driver_sql(f"COMMENT ON TABLE {name} IS '{_MARK}'")
    _detach(connection, period, (executions,))


def attach(connection: Connection, period: Period) -> None:
    """Attach the partition of `executions` again."""
    name = period.name(executions.name)
    connection.exec_driver_sql(
        f"ALTER TABLE {executions.name} ATTACH PARTITION {name}"
        f" FOR VALUES FROM ('{period.least}') TO ('{period.above}')"
    )
    connection.exec_driver_sql(f"COMMENT ON TABLE {name} IS NULL")


def drop(connection: Connection, period: Period) -> None:
    """Drop all partitions of a period, beside all other work; needs autocommit mode.

    May be repeated: it continues where it was interrupted. That of `executions` goes last, so that
    `left_over` finds the rest.
    """
    order = (*TABLES[1:], TABLES[0])
    _detach(connection, period, order)
    for table in order:
        connection.exec_driver_sql(f"DROP TABLE IF EXISTS {period.name(table.name)}")


def _detach(connection: Connection, period: Period, tables: Sequence[Table]) -> None:
    names = {period.name(table.name): table.name for table in tables}
    for name, attached, pending in connection.execute(_STATES, {"names": list(names)}).all():
        if attached or pending:
            how = "FINALIZE" if pending else "CONCURRENTLY"
            connection.exec_driver_sql(f"ALTER TABLE {names[name]} DETACH PARTITION {name} {how}")


_LEFT_OVER = text("""
SELECT c.relname, pg_get_expr(other.relpartbound, other.oid)
FROM pg_class c
LEFT JOIN pg_class other
       ON other.oid = to_regclass('execution_inputs' || substr(c.relname, length('executions') + 1))
LEFT JOIN pg_inherits i ON i.inhrelid = c.oid
WHERE c.relkind = 'r' AND c.relname ~ '^executions_[0-9]{8}$' AND pg_table_is_visible(c.oid)
  AND (NOT c.relispartition OR i.inhdetachpending)
  AND obj_description(c.oid, 'pg_class') = :mark
ORDER BY c.relname
""")


def left_over(connection: Connection) -> list[Period]:
    """Return the periods that `detach` and `drop` were dropping when that was interrupted.

    One whose partitions are no longer all there has no length.
    """
    found = []
    for name, bounds in connection.execute(_LEFT_OVER, {"mark": _MARK}).all():
        day = datetime.strptime(name.removeprefix("executions_"), "%Y%m%d").replace(tzinfo=UTC)
        begin = _stamp(day)
        found.append(_period(bounds) if bounds else Period(begin, begin))
    return found


def _missing(there: Sequence[Period], least: int, most: int, *, days: int | None) -> list[Period]:
    """Return periods that fill the gaps from `least` to `most`."""
    last = there[-1] if there else None
    length = days * _DAY if days else last.end - last.begin if last else DEFAULT_DAYS * _DAY
    found = []
    at = least
    while at <= most:
        over = next((each for each in there if each.begin <= at < each.end), None)
        if over is None:
            begin = (at - _MONDAY) // length * length + _MONDAY
            over = Period(
                max([begin, *(each.end for each in there if each.end <= at)]),
                min([begin + length, *(each.begin for each in there if each.begin > at)]),
            )
            found.append(over)
        at = over.end
    return found


def _around(there: Sequence[Period], at: int) -> Period | None:
    """Return the time around `at` that has partitions without a gap."""
    around: Period | None = None
    for each in there:
        if around is not None and each.begin == around.end:
            around = Period(around.begin, each.end)
        elif around is None or around.end <= at:
            around = each
    return around if around is not None and around.begin <= at < around.end else None


def make(connection: Connection, period: Period) -> None:
    """Make the partitions of a period, all or none, beside all other work.

    A table that is attached afterwards locks nobody out; `CREATE TABLE … PARTITION OF` would.
    """
    steps = "".join(_step(table, period) for table in TABLES)
    connection.exec_driver_sql(
        f"DO $$ BEGIN PERFORM {AdvisoryLock.PARTITIONS.taken};{steps}\nEND $$",
        execution_options={"no_parameters": True},
    )


def _step(table: Table, period: Period) -> str:
    name = period.name(table.name)
    values = table.info[PARTITION_OPTIONS]
    options = ", ".join(f"{key} = {value}" for key, value in values.items())
    return f"""
    IF to_regclass('{name}') IS NULL THEN
        CREATE TABLE {name} (LIKE {table.name} INCLUDING DEFAULTS INCLUDING CONSTRAINTS
                             INCLUDING STORAGE) WITH ({options});
        ALTER TABLE {table.name} ATTACH PARTITION {name}
            FOR VALUES FROM ('{period.least}') TO ('{period.above}');
    ELSIF NOT (SELECT relispartition FROM pg_class WHERE oid = '{name}'::regclass) THEN
        RAISE '{name} is no partition: it is being dropped, or was detached'
            USING ERRCODE = 'lock_not_available';
    END IF;"""  # noqa: S608 - put together from constants and numbers


def _stamp(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


def _moment(stamp: int) -> datetime:
    return datetime.fromtimestamp(stamp / 1000, UTC)


def _id_at(stamp: int) -> UUID:
    return UUID(int=stamp << 80)
