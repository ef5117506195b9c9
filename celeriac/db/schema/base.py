"""Naming of constraints, and common columns."""

from enum import Enum
from typing import Any

from sqlalchemy import CheckConstraint, Column, DateTime, MetaData, Uuid, func, text

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def uuid_pk() -> Column[Any]:
    """Return a primary key column holding a UUIDv7 made by the application."""
    return Column("id", Uuid, primary_key=True)


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
