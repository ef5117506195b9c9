"""Upgrades a database to the schema of this release, and compares the two."""

from dataclasses import dataclass
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from celeriac.domain.errors import ConfigurationError

_LOCK = 0x63656C65  # "cele": one migration at a time per database


@dataclass(frozen=True, slots=True)
class Schema:
    """The revision of a database and the one that this release needs.

    `current` is None for an empty database.
    """

    current: str | None
    wanted: str | None
    known: bool
    """Whether this release can upgrade from `current`."""

    @property
    def up_to_date(self) -> bool:
        """Whether the database has the schema of this release."""
        return self.current == self.wanted

    @property
    def cure(self) -> str:
        """What to do about a schema that is not up to date."""
        if self.known:
            return "Run `celeriac db upgrade`."
        if str(self.current).isdecimal():
            return (
                "This database was made by an unreleased version of Celeriac and can't be "
                "upgraded; make a new one."
            )
        return "This database was upgraded by a newer version of Celeriac; run that version."


def _config(connection: Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config


def upgrade(connection: Connection) -> None:
    """Apply all missing migrations within the caller's transaction; safe to run concurrently.

    Raises ConfigurationError for a database of an unreleased or a newer version.
    """
    connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
    found = schema(connection)
    if not found.known:
        raise ConfigurationError(
            f"The database has the unknown schema revision {found.current}. {found.cure}"
        )
    command.upgrade(_config(connection), "head")


def schema(connection: Connection) -> Schema:
    """Return the revision of the database and the one that this release needs."""
    current = MigrationContext.configure(connection).get_current_revision()
    scripts = ScriptDirectory.from_config(_config())
    known = {script.revision for script in scripts.walk_revisions()}
    return Schema(current, scripts.get_current_head(), current is None or current in known)


def differences(connection: Connection) -> list[object]:
    """Return the differences between the tables of this release and the database's."""
    from alembic.autogenerate import compare_metadata

    from celeriac.db.schema import metadata

    return list(compare_metadata(MigrationContext.configure(connection), metadata))
