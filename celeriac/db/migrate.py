"""Bringing a database to the schema of this release."""

from dataclasses import dataclass
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

_LOCK = 0x63656C65  # "cele": one migration at a time per database


@dataclass(frozen=True, slots=True)
class Schema:
    """The revision that a database has and the one that this release wants."""

    current: str | None
    wanted: str | None

    @property
    def up_to_date(self) -> bool:
        """Whether the two are the same."""
        return self.current == self.wanted


def _config(connection: Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config


def upgrade(connection: Connection) -> None:
    """Apply all missing migrations within the caller's transaction; safe to run concurrently."""
    connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
    command.upgrade(_config(connection), "head")


def revise(connection: Connection, message: str) -> None:
    """Write a new migration from the difference between the models and the database."""
    command.revision(_config(connection), message=message, autogenerate=True)


def schema(connection: Connection) -> Schema:
    """Return which revision the database has and which one is wanted."""
    current = MigrationContext.configure(connection).get_current_revision()
    return Schema(current, ScriptDirectory.from_config(_config()).get_current_head())


def differences(connection: Connection) -> list[object]:
    """Return what the models have and the database lacks, or the reverse; empty when equal."""
    from alembic.autogenerate import compare_metadata

    from celeriac.db.schema import metadata

    return list(compare_metadata(MigrationContext.configure(connection), metadata))
