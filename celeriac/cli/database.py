"""`celeriac db`: the schema of the database."""

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from celeriac.cli.core.arguments import Home, Json
from celeriac.cli.core.output import CommandError, Output
from celeriac.cli.local import open_database, read_settings

if TYPE_CHECKING:
    from celeriac.db.migrate import Schema


def build_app() -> typer.Typer:
    """Return the group `db`."""
    app = typer.Typer(name="db", help="Bring the database to this release's schema, or look at it.")
    app.command()(upgrade)
    app.command()(status)
    app.command()(check)
    return app


def upgrade(home: Home = None, as_json: Json = False) -> None:
    """Bring the database to the schema of this release.

    All missing migrations are applied in one transaction: all or none. Safe to
    run twice, and while others run it. `celeriac up` does it by itself.

    Examples:
      celeriac db upgrade
      DATABASE_URL=postgresql://celeriac@db/celeriac celeriac db upgrade
    """
    from celeriac.db import migrate

    output = Output(as_json=as_json)
    with open_database(read_settings(home)) as database, database.transaction() as connection:
        before = migrate.schema(connection).current
        migrate.upgrade(connection)
        after = migrate.schema(connection)
    if as_json:
        output.json({"before": before, "current": after.current, "wanted": after.wanted})
    elif before == after.current:
        output.raw(f"The schema is up to date: revision {after.current}.")
    else:
        output.raw(f"Upgraded from {before or 'nothing'} to revision {after.current}.")


def status(home: Home = None, as_json: Json = False) -> None:
    """Show the revision that the database has and the one that is wanted.

    Exits with 1 where they differ.
    """
    output = Output(as_json=as_json)
    schema = _schema(home)
    if as_json:
        output.json(
            {
                "current": schema.current,
                "wanted": schema.wanted,
                "up_to_date": schema.up_to_date,
            }
        )
    else:
        output.fields({"current": schema.current or "none", "wanted": schema.wanted or "none"})
    _require(schema)


def check(home: Home = None, as_json: Json = False) -> None:
    """Compare the tables with what this release expects, column by column.

    Finds what somebody changed by hand. Exits with 1 where anything differs.
    """
    from celeriac.db import migrate

    output = Output(as_json=as_json)
    _require(_schema(home))
    with open_database(read_settings(home)) as database, database.statement() as connection:
        found = [_words(difference) for difference in migrate.differences(connection)]
    if as_json:
        output.json({"differences": found})
    elif not found:
        output.raw("The tables are as this release expects them.")
    if found:
        raise CommandError(
            "\n".join(["To be as this release expects them, the tables would need:", *found]),
            cure="Somebody changed them by hand; undo that.",
            problem="schema_differs",
        )


def _words(difference: object) -> str:
    """Say what Alembic found, as `add_column executions.note`; its own tuples hold whole tables."""
    parts = difference if isinstance(difference, tuple) else (difference,)
    if isinstance(difference, list):  # changes of one column
        parts = difference[0]
    words = [part if isinstance(part, str) else getattr(part, "name", None) for part in parts]
    return "  " + " ".join(str(word) for word in words if word)


def _schema(home: Path | None) -> "Schema":
    from celeriac.db import migrate

    with open_database(read_settings(home)) as database, database.statement() as connection:
        return migrate.schema(connection)


def _require(schema: "Schema") -> None:
    if not schema.up_to_date:
        raise CommandError(
            f"The database has revision {schema.current or 'none'}; "
            f"this release needs {schema.wanted}.",
            cure=schema.cure,
            problem="schema_outdated",
        )
