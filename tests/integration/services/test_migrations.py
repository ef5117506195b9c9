"""The schema that the migrations make, how they are applied, and databases that refuse them."""

import importlib.util
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

import pytest
from sqlalchemy import CheckConstraint, text
from sqlalchemy.exc import IntegrityError

from celeriac.db import migrate
from celeriac.db.engine import Database
from celeriac.db.migrate import Migration, Phase
from celeriac.db.partitions import is_partition
from celeriac.db.schema import metadata
from celeriac.db.schema.base import PARTITION_OPTIONS
from celeriac.domain.errors import ConfigurationError, DatabaseBusyError
from tests.support.migrations import LATER, write_migrations
from tests.support.outages import holding
from tests.support.waiting import wait_until

VERSIONS = Path(migrate.__file__).parent / "migrations" / "versions"
ADDS, INDEXES, DROPS = (
    Migration("0002_adds", Phase.PRE),
    Migration("0003_indexes", Phase.PRE),
    Migration("0004_drops", Phase.POST),
)


@pytest.fixture
def url(own_database: Database) -> str:
    """The address of that database."""
    return own_database.engine.url.render_as_string(hide_password=False)


@pytest.fixture
def later(tmp_path: Path) -> list[Path]:
    """The migrations of a later release: `ADDS`, `INDEXES` and `DROPS`."""
    return [write_migrations(tmp_path)]


def test_the_migrations_make_the_tables_of_this_release(own_database: Database) -> None:
    with own_database.autocommit() as connection:
        found = migrate.schema(connection)
        assert found.up_to_date
        assert found.usable
        assert migrate.differences(connection) == []


def test_the_database_allows_exactly_the_values_of_the_enums(own_database: Database) -> None:
    with own_database.autocommit() as connection:
        found = {name: _values(definition) for name, definition in connection.execute(_CHECKS)}
    expected = {
        str(check.name): _values(str(check.sqltext))
        for table in metadata.tables.values()
        for check in table.constraints
        if isinstance(check, CheckConstraint)
    }
    assert len(expected) > 8
    assert found == expected


def test_the_storage_parameters_are_those_of_the_tables(own_database: Database) -> None:
    with own_database.autocommit() as connection:
        found = {
            name[:-9] if is_partition(name) else name: set(options)
            for name, options in connection.execute(_OPTIONS)
        }
    expected = {
        table.name: {f"{name}={value}" for name, value in options.items()}
        for table in metadata.tables.values()
        if (
            options := table.info.get(PARTITION_OPTIONS)
            or table.dialect_options["postgresql"]["with"]
        )
    }
    assert {"executions", "workers", "events"} <= expected.keys()
    assert found == expected


def test_columns_of_executions_need_no_padding(own_database: Database) -> None:
    """Columns of fixed width come first, the widest first."""
    with own_database.autocommit() as connection:
        widths = list(connection.execute(_WIDTHS).scalars())
    assert widths == sorted(widths, reverse=True)


_WIDTHS = text("""
SELECT greatest(attlen, 0) FROM pg_attribute
WHERE attrelid = 'executions'::regclass AND attnum > 0
ORDER BY attnum
""")

_OPTIONS = text("""
SELECT relname, reloptions FROM pg_class
WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' AND reloptions IS NOT NULL
""")


def _values(definition: str) -> set[str]:
    return set(re.findall("'([^']*)'", definition))


_CHECKS = text("""
SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint
WHERE contype = 'c' AND connamespace = 'public'::regnamespace
""")


def test_a_change_by_hand_is_found(own_database: Database) -> None:
    with own_database.autocommit() as connection:
        connection.execute(text("ALTER TABLE executions DROP COLUMN batch_no"))
        connection.execute(text("DROP INDEX ix_workers_hostname"))
        assert len(migrate.differences(connection)) == 2


def test_an_upgrade_may_run_twice(own_database: Database, url: str) -> None:
    assert migrate.upgrade(url) == []
    assert _schema(own_database).up_to_date


def _schema(database: Database, extra: list[Path] | None = None) -> migrate.Schema:
    with database.autocommit() as connection:
        return migrate.schema(connection, extra=extra or [])


@pytest.mark.parametrize(
    ("revision", "cure"),
    [
        ("0010", "another unreleased version of Celeriac and can't be upgraded; make a new one"),
        ("0001_initial", "another unreleased version of Celeriac and can't be upgraded"),
        ("0001_initial_0123456789ab", "another unreleased version of Celeriac"),
        ("0002_something", "upgraded by a newer version of Celeriac; run that version"),
    ],
)
def test_a_database_of_an_unknown_revision_is_refused(
    own_database: Database, url: str, revision: str, cure: str
) -> None:
    with own_database.autocommit() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = :v"), {"v": revision})
    found = _schema(own_database)
    assert not found.up_to_date
    assert not found.usable
    assert cure in found.cure
    with pytest.raises(migrate.UnknownSchemaError, match=cure) as refused:
        migrate.upgrade(url)
    assert revision in refused.value.message


def test_the_first_revision_names_its_statements_but_not_their_layout(tmp_path: Path) -> None:
    source = (VERSIONS / "0001_initial_schema.py").read_text()
    statements = (VERSIONS / "0001_initial_schema.sql").read_text()

    def revision(name: str, changed: str) -> object:
        (tmp_path / f"{name}.py").write_text(source)
        (tmp_path / f"{name}.sql").write_text(changed)
        return _loaded(tmp_path / f"{name}.py").revision

    as_it_is = revision("same", statements)
    assert as_it_is == _loaded(VERSIONS / "0001_initial_schema.py").revision
    assert revision("layout", "-- new\n" + statements.replace("\n", "\n\n")) == as_it_is
    assert revision("column", statements.replace("batch_no", "batch_number")) != as_it_is


def _loaded(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_phases_are_applied_one_after_the_other(
    own_database: Database, url: str, later: list[Path]
) -> None:
    with pytest.raises(ConfigurationError, match=f"pre-migration {ADDS.revision} comes first"):
        migrate.upgrade(url, phases=[Phase.POST], extra=later)
    before = _schema(own_database, later)
    assert (before.pending, before.usable) == ([ADDS, INDEXES, DROPS], False)

    assert migrate.upgrade(url, phases=[Phase.PRE], extra=later) == [ADDS, INDEXES]
    between = _schema(own_database, later)
    assert (between.pending, between.usable, between.up_to_date) == ([DROPS], True, False)
    assert migrate.upgrade(url, phases=[Phase.PRE], extra=later) == []

    assert migrate.upgrade(url, phases=[Phase.POST], extra=later) == [DROPS]
    after = _schema(own_database, later)
    assert (after.pending, after.up_to_date) == ([], True)


def test_a_release_can_not_be_skipped_in_phases(url: str, tmp_path: Path) -> None:
    more = LATER.replace("0002_adds", "0005_next").replace("BEFORE", DROPS.revision)
    more = more.replace("COLUMN later", "COLUMN latest")
    extra = [write_migrations(tmp_path, more=more)]
    with pytest.raises(ConfigurationError, match=f"post-migration {DROPS.revision} comes first"):
        migrate.upgrade(url, phases=[Phase.PRE], extra=extra)
    assert len(migrate.upgrade(url, extra=extra)) == 4


def test_an_older_release_runs_on_until_the_second_phase(
    own_database: Database, url: str, later: list[Path]
) -> None:
    migrate.upgrade(url, phases=[Phase.PRE], extra=later)
    ours = _schema(own_database)
    assert (ours.known, ours.usable, ours.up_to_date) == (False, True, False)
    assert migrate.upgrade(url) == [], "there is nothing to do for the older release"

    migrate.upgrade(url, phases=[Phase.POST], extra=later)
    assert not _schema(own_database).usable
    with pytest.raises(migrate.UnknownSchemaError, match="run that version"):
        migrate.upgrade(url)


def test_the_second_phase_waits_for_workers_of_another_release(
    own_database: Database, url: str, later: list[Path]
) -> None:
    with own_database.autocommit() as connection:
        connection.execute(_OLD_WORKER)
    with pytest.raises(ConfigurationError, match=re.escape("old@host (0.0.1)")):
        migrate.upgrade(url, extra=later, patience_seconds=0)
    assert _schema(own_database, later).pending == [DROPS], "the first phase stays"

    with own_database.autocommit() as connection:
        connection.execute(text("UPDATE workers SET stopped_at = now()"))
    assert migrate.upgrade(url, extra=later) == [DROPS]


_OLD_WORKER = text("""
INSERT INTO workers (id, hostname, pid, pool, slots, version, seen_at)
VALUES (gen_random_uuid(), 'old@host', 1, 'threads', 1, '0.0.1', now() + interval '1 hour')
""")


def test_two_at_once_apply_each_migration_once(
    own_database: Database, url: str, later: list[Path]
) -> None:
    with ThreadPoolExecutor(4) as pool:
        each = list(pool.map(lambda _: migrate.upgrade(url, extra=later), range(4)))
    assert sorted(map(len, each)) == [0, 0, 0, 3]
    with own_database.autocommit() as connection:
        applied = connection.execute(text("SELECT count(*) FROM schema_migrations")).scalar_one()
    assert applied == 4


def test_a_migration_gives_up_where_a_table_stays_locked(
    own_database: Database, url: str, later: list[Path]
) -> None:
    with holding(own_database.engine.url, _READS), pytest.raises(DatabaseBusyError):
        migrate.upgrade(url, extra=later, lock_seconds=0.05, patience_seconds=0)
    assert _schema(own_database, later).pending == [ADDS, INDEXES, DROPS]


def test_a_waiting_migration_lets_others_through(
    own_database: Database, url: str, later: list[Path]
) -> None:
    with ThreadPoolExecutor(1) as pool:
        with holding(own_database.engine.url, _READS):
            running = pool.submit(migrate.upgrade, url, extra=later, lock_seconds=0.1)
            wait_until(lambda: _waits(own_database), "the migration waits for the table")
            with own_database.autocommit() as connection:
                # waits only until the migration gives up its place
                connection.execute(text("SELECT count(*) FROM executions"))
            assert not running.done()
        assert running.result(timeout=60) == [ADDS, INDEXES, DROPS]


_READS = "LOCK TABLE executions IN ACCESS SHARE MODE"


def _waits(database: Database) -> bool:
    with database.autocommit() as connection:
        return bool(connection.execute(_WAITING).scalar_one())


_WAITING = text("""
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND application_name = 'celeriac-migrate'
  AND wait_event_type = 'Lock'
""")


def test_an_index_whose_build_was_interrupted_is_built_again(
    own_database: Database, url: str, later: list[Path]
) -> None:
    with own_database.autocommit() as connection:
        for name in ("ada", "bob"):
            connection.execute(_USER, {"name": name})
    migrate.upgrade(url, phases=[Phase.PRE], extra=later)
    with own_database.autocommit() as connection:
        connection.execute(text("DROP INDEX ix_users_later"))
        with pytest.raises(IntegrityError):
            connection.execute(text(_INVALID))
        assert connection.execute(_VALID).scalar_one() is False
        connection.execute(_BACK, {"revision": ADDS.revision})
        connection.execute(text("DELETE FROM schema_migrations WHERE revision = '0003_indexes'"))
    migrate.upgrade(url, phases=[Phase.PRE], extra=later)
    with own_database.autocommit() as connection:
        assert connection.execute(_VALID).scalar_one() is True


_USER = text("INSERT INTO users (id, name, role) VALUES (gen_random_uuid(), :name, 'admin')")
_INVALID = "CREATE UNIQUE INDEX CONCURRENTLY ix_users_later ON users (role)"
_VALID = text("SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('ix_users_later')")
_BACK = text("UPDATE alembic_version SET version_num = :revision")
