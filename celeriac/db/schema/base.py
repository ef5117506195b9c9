"""What all tables are built from, and the list of migrations."""

from enum import Enum
from typing import Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    DateTime,
    Identity,
    Integer,
    MetaData,
    Numeric,
    Table,
    Text,
    Uuid,
    func,
    text,
)
from sqlalchemy.schema import SchemaItem

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def table_of_ids(name: str, *items: SchemaItem, **options: Any) -> Table:
    """Return a table whose primary key `id` is a UUIDv7 made by the application."""
    return Table(name, metadata, Column("id", Uuid, primary_key=True), *items, **options)


def timestamp(name: str, *, now: bool = False) -> Column[Any]:
    """Return a column for a time: nullable, or with `now` required and set by the database."""
    if now:
        return Column(name, DateTime(timezone=True), nullable=False, server_default=func.now())
    return Column(name, DateTime(timezone=True), nullable=True)


def enum_check(column: str, values: type[Enum]) -> CheckConstraint:
    """Return a check that `column` holds one of the enum's values."""
    listed = ", ".join(f"'{member.value}'" for member in values)
    return CheckConstraint(f"{column} IN ({listed})", name=f"{column}_known")


def where(condition: str) -> dict[str, Any]:
    """Return the argument that makes an index partial."""
    return {"postgresql_where": text(condition)}


def stored(
    *, dead: int, share: float = 0, inserted: int | None = None, fill: int | None = None
) -> dict[str, str]:
    """Return the storage parameters of a table that changes much.

    It is vacuumed after `dead` rows and the `share` of its rows have died. PostgreSQL's own fifth
    is 20 million of 100 million rows: until then, the indexes of what is due and of what lives keep
    entries of rows that are gone. A frequent vacuum is cheap: it skips pages in which nothing has
    changed, and the indexes while fewer than 2 % of the pages have dead rows. It also comes after
    `inserted` new rows, so that a table that only grows is frozen in parts. `fill` leaves room on
    each page for new versions of its rows, for updates that write no index.
    """
    values: dict[str, object] = {
        "autovacuum_vacuum_scale_factor": share,
        "autovacuum_vacuum_threshold": dead,
    }
    if inserted is not None:
        values |= {
            "autovacuum_vacuum_insert_scale_factor": 0,
            "autovacuum_vacuum_insert_threshold": inserted,
        }
    if fill is not None:
        values["fillfactor"] = fill
    return {name: str(value) for name, value in values.items()}


PARTITION_OPTIONS = "partition_options"


def partitioned(key: str, **options: Any) -> dict[str, Any]:
    """Return the arguments of a table that is partitioned by ranges of `key`, an execution's id.

    `options` are those of `stored`, for its partitions: the table itself stores nothing.
    """
    return {
        "postgresql_partition_by": f"RANGE ({key})",
        "info": {PARTITION_OPTIONS: stored(**options)},
    }


def dollars(name: str, *, required: bool = True) -> Column[object]:
    """Return a column for an amount of money in US dollars, 0 if it is required."""
    if required:
        return Column(name, Numeric(24, 9), nullable=False, server_default="0")
    return Column(name, Numeric(24, 9))


def count(name: str) -> Column[object]:
    """Return a column for a sum of counts, 0 by default."""
    return Column(name, BigInteger, nullable=False, server_default="0")


schema_migrations = Table(
    "schema_migrations",
    metadata,
    Column("number", Integer, Identity(always=True), nullable=False),
    Column("revision", Text, primary_key=True),
    Column("phase", Text, nullable=False),
    timestamp("applied_at", now=True),
)
"""The migrations that were applied. An older release reads here whether it may run on."""
