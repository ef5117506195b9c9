"""Upgrades a database to the schema of this release, and compares the two (docs/adr/0028).

A migration is a module in `migrations/versions` with Alembic's names and a `phase`:

- `pre`: applied before programs of the new release start. Programs of the release before must work
  with the result. New tables, columns with defaults, indexes.
- `post`: applied after the last program of an older release has ended. What only they needed is
  dropped.

Within a release all `pre` migrations come first. A migration is one transaction: `upgrade()`. What
must not run in a transaction, such as `CREATE INDEX CONCURRENTLY`, is done before it by a function
`concurrently(connection)`, which may be repeated (`create_index` in `celeriac.db.concurrently`).
"""

import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING

import structlog
from sqlalchemy import Connection, text

from celeriac.db.engine import Database
from celeriac.db.locks import AdvisoryLock, hold
from celeriac.db.partitions import DEFAULT_DAYS, is_partition, make_ahead
from celeriac.domain.errors import ConfigurationError, DatabaseBusyError
from celeriac.version import __version__

if TYPE_CHECKING:  # all programs import this module; few of them ask for the schema, and later
    from alembic.config import Config
    from alembic.script import Script, ScriptDirectory

logger = structlog.stdlib.get_logger(__name__)

_POLL_SECONDS = 0.2

LOCK_SECONDS = 2.0
"""How long a migration waits for a table: all statements on it wait behind the migration."""

PATIENCE_SECONDS = 300.0
"""How long a migration is tried again while others lock the table, or older workers live."""

_WORKER_SECONDS = 30
"""A worker that has not reported itself for longer is not alive."""


class Phase(StrEnum):
    """When a migration is applied: before new programs start, or after old ones have ended."""

    PRE = "pre"
    POST = "post"


@dataclass(frozen=True, slots=True)
class Migration:
    """One migration of this release."""

    revision: str
    phase: Phase


@dataclass(frozen=True, slots=True)
class Schema:
    """The revision of a database and the one that this release needs."""

    current: str | None
    """None for an empty database."""
    wanted: str
    known: bool
    """Whether this release can upgrade from `current`."""
    pending: Sequence[Migration] = ()
    newer: bool = False
    """Whether a newer release has upgraded the database, and programs of this one may run on."""

    @property
    def up_to_date(self) -> bool:
        """Whether the database has exactly the schema of this release."""
        return self.current == self.wanted

    @property
    def usable(self) -> bool:
        """Whether programs of this release can work with the database."""
        if not self.known:
            return self.newer
        return all(each.phase is Phase.POST for each in self.pending)

    @property
    def cure(self) -> str:
        """What to do about a schema that is not up to date."""
        if self.known and self.usable:
            return "Run `celeriac db upgrade` when no program of an older release runs any more."
        if self.known:
            return "Run `celeriac db upgrade`."
        if self.newer:
            return "Programs of this release work with it; upgrade them."
        if _unreleased(self.current or ""):
            return (
                "This database was made by another unreleased version of Celeriac and can't be "
                "upgraded; make a new one."
            )
        return "This database was upgraded by a newer version of Celeriac; run that version."


class UnknownSchemaError(ConfigurationError):
    """A database has a revision that this release can't upgrade."""


def _unreleased(revision: str) -> bool:
    return revision.isdecimal() or revision.startswith("0001_initial")


def upgrade(
    url: str,
    *,
    phases: Sequence[Phase] = tuple(Phase),
    extra: Sequence[Path] = (),
    partition_days: int = DEFAULT_DAYS,
    lock_seconds: float = LOCK_SECONDS,
    patience_seconds: float = PATIENCE_SECONDS,
) -> list[Migration]:
    """Apply the pending migrations of `phases`, and return them; safe to run concurrently.

    Then makes the partitions that executions need now and next; a period has `partition_days`.
    Uses two connections of its own, without the time-outs of the application. `extra` are further
    directories with migrations. Raises UnknownSchemaError for a database of an unreleased or a
    newer version, ConfigurationError if migrations of another phase must come first or workers of
    an older release are alive, and DatabaseBusyError if others lock a table for too long; what was
    applied until then stays.
    """
    with (
        closing(
            Database(
                url,
                connections=2,
                application="celeriac-migrate",
                lock_seconds=0,
                statement_seconds=0,
            )
        ) as database,
        _alone(database),
    ):
        with database.autocommit() as connection:
            planned = _planned(schema(connection, extra=extra), phases)
        for migration in planned:
            if migration.phase is Phase.POST:
                _wait_for_older_workers(database, patience_seconds)
            _patiently(partial(_apply, database, migration, extra, lock_seconds), patience_seconds)
            logger.info("migration.applied", revision=migration.revision, phase=migration.phase)
        with database.autocommit() as connection:
            make_ahead(connection, days=partition_days)
    return planned


def schema(connection: Connection, *, extra: Sequence[Path] = ()) -> Schema:
    """Return the revision of the database and the one that this release needs."""
    from alembic.migration import MigrationContext

    current = MigrationContext.configure(connection).get_current_revision()
    migrations = [_described(script) for script in _ordered(extra)]
    revisions = [each.revision for each in migrations]
    wanted = revisions[-1]
    if current is None:
        return Schema(None, wanted, known=True, pending=migrations)
    if current in revisions:
        return Schema(
            current, wanted, known=True, pending=migrations[revisions.index(current) + 1 :]
        )
    return Schema(current, wanted, known=False, newer=_only_prepared(connection, wanted))


def differences(connection: Connection) -> list[object]:
    """Return the differences between the tables of this release and the database's."""
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    from celeriac.db.schema import metadata

    options = {"include_name": _is_no_partition}
    return list(compare_metadata(MigrationContext.configure(connection, opts=options), metadata))


def _is_no_partition(name: str | None, kind: str, _parents: object) -> bool:
    return kind != "table" or not is_partition(name or "")


_LATER = text("""
SELECT phase FROM schema_migrations
WHERE number > (SELECT number FROM schema_migrations WHERE revision = :revision)
""")


def _only_prepared(connection: Connection, wanted: str) -> bool:
    """Whether `wanted` is applied, and after it only migrations that keep its programs working."""
    if connection.execute(text("SELECT to_regclass('schema_migrations')")).scalar_one() is None:
        return False
    later = set(connection.execute(_LATER, {"revision": wanted}).scalars())
    return later == {Phase.PRE.value}


def _config(extra: Sequence[Path], connection: Connection | None = None) -> "Config":
    from alembic.config import Config

    here = Path(__file__).parent / "migrations"
    config = Config()
    config.set_main_option("script_location", str(here))
    config.set_main_option("path_separator", "os")
    places = os.pathsep.join(map(str, (here / "versions", *extra)))
    config.set_main_option("version_locations", places)
    config.attributes["connection"] = connection
    return config


def _scripts(extra: Sequence[Path]) -> "ScriptDirectory":
    from alembic.script import ScriptDirectory

    return ScriptDirectory.from_config(_config(extra))


def _ordered(extra: Sequence[Path]) -> "list[Script]":
    """Return the migrations, the first one first."""
    return list(_scripts(extra).walk_revisions())[::-1]


def _described(script: "Script") -> Migration:
    return Migration(script.revision, Phase(script.module.phase))


def _planned(found: Schema, phases: Sequence[Phase]) -> list[Migration]:
    """Return what to apply now: the first of the pending migrations, as far as `phases` go."""
    if not found.known and not found.newer:
        raise UnknownSchemaError(
            f"The database has the unknown schema revision {found.current}. {found.cure}"
        )
    planned = list(takewhile(lambda each: each.phase in phases, found.pending))
    rest = found.pending[len(planned) :]
    left = any(each.phase in phases for each in rest)
    if left and (not planned or Phase.PRE in phases):
        first = rest[0]
        raise ConfigurationError(
            f"The {first.phase}-migration {first.revision} comes first. "
            f"`celeriac db upgrade --phase {first.phase}` applies it; to skip a release, end all "
            "programs and run `celeriac db upgrade`."
        )
    return planned


_SETTINGS = text("""
SELECT set_config(s.name, w.value, true)
FROM pg_settings s JOIN (VALUES
    ('lock_timeout', CAST(:lock AS text)), ('statement_timeout', '0'), ('enable_seqscan', 'on'),
    ('idle_in_transaction_session_timeout', '0'), ('transaction_timeout', '0')
) AS w (name, value) ON w.name = s.name
""")
"""PostgreSQL 17 and newer know all of them."""

_NOTE = text("INSERT INTO schema_migrations (revision, phase) VALUES (:revision, :phase)")


def _apply(
    database: Database, migration: Migration, extra: Sequence[Path], lock_seconds: float
) -> None:
    from alembic import command

    module = _scripts(extra).get_revision(migration.revision).module
    concurrently = getattr(module, "concurrently", None)
    if concurrently is not None:
        with database.autocommit() as connection:
            concurrently(connection)
    with database.transaction() as connection:
        connection.execute(_SETTINGS, {"lock": f"{round(lock_seconds * 1000)}ms"})
        command.upgrade(_config(extra, connection), migration.revision)
        connection.execute(_NOTE, {"revision": migration.revision, "phase": migration.phase.value})


def _patiently(work: Callable[[], None], seconds: float) -> None:
    """Call `work` until it gets its locks, with growing pauses, for at most about `seconds`."""
    until = time.monotonic() + seconds
    pause = 0.2
    while True:
        try:
            return work()
        except DatabaseBusyError:
            if time.monotonic() + pause > until:
                raise
        # others work in the meantime
        time.sleep(pause * random.uniform(0.8, 1.2))
        pause = min(2 * pause, 10.0)


@contextmanager
def _alone(database: Database) -> Iterator[None]:
    """Wait until no other process migrates this database, and keep others from it.

    A concurrent index build waits for all transactions with a snapshot. So who waits for the lock
    polls in transactions that end at once.
    """
    waits = False
    while True:
        with database.transaction() as connection:
            connection.execute(_SETTINGS, {"lock": "0"})
            if hold(connection, AdvisoryLock.MIGRATION):
                yield
                return
        if not waits:
            logger.warning("migration.waits", reason="another process migrates the database")
        waits = True
        time.sleep(_POLL_SECONDS)


_OLDER = text("""
SELECT DISTINCT hostname || ' (' || version || ')' FROM workers
WHERE stopped_at IS NULL AND seen_at > now() - make_interval(secs => :seconds)
  AND version <> :version
""")


def _wait_for_older_workers(database: Database, patience_seconds: float) -> None:
    """Wait until no worker of another release is alive. Raises ConfigurationError."""
    until = time.monotonic() + patience_seconds
    waits = False
    while True:
        with database.autocommit() as connection:
            values = {"seconds": _WORKER_SECONDS, "version": __version__}
            found = sorted(connection.execute(_OLDER, values).scalars())
        if not found:
            return
        if time.monotonic() > until:
            raise ConfigurationError(
                f"Workers of another release are alive: {', '.join(found)}. Stop them, then run "
                "`celeriac db upgrade --phase post`."
            )
        if not waits:
            logger.warning("migration.waits", reason=f"older workers live: {', '.join(found)}")
        waits = True
        time.sleep(_POLL_SECONDS)
