"""`celeriac db`: the schema of the database."""

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from celeriac.cli.core.arguments import Home, Json
from celeriac.cli.core.output import CommandError, Output
from celeriac.cli.core.server import open_database, read_settings

if TYPE_CHECKING:
    from celeriac.db.migrate import Schema


app = typer.Typer(name="db", help="The schema of the database: upgrade or check it.")


@app.command()
def upgrade(home: Home = None, as_json: Json = False) -> None:
    """Upgrade the database to the schema of this release.

    Applies all missing migrations in one transaction. Safe to repeat, and to
    run in several places at once. `celeriac up` does it by itself.

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
    text = f"Upgraded from {before or 'nothing'} to revision {after.current}."
    if before == after.current:
        text = f"The schema is up to date: revision {after.current}."
    output.write({"before": before, "current": after.current, "wanted": after.wanted}, text)


@app.command()
def status(home: Home = None, as_json: Json = False) -> None:
    """Show the database's revision and the one of this release.

    Exits with 1 if they differ.
    """
    schema = _schema(home)
    revisions = {"current": schema.current, "wanted": schema.wanted}
    Output(as_json=as_json).write_details(
        {**revisions, "up_to_date": schema.up_to_date},
        {name: revision or "none" for name, revision in revisions.items()},
    )
    _require(schema)


@app.command()
def check(home: Home = None, as_json: Json = False) -> None:
    """Compare the tables with those of this release, column by column.

    Finds changes that were made by hand. Exits with 1 if anything differs.
    """
    from celeriac.db import migrate

    output = Output(as_json=as_json)
    _require(_schema(home))
    with open_database(read_settings(home)) as database, database.autocommit() as connection:
        found = [_words(difference) for difference in migrate.differences(connection)]
    if as_json:
        output.json({"differences": found})
    elif not found:
        output.raw("The tables are as this release expects them.")
    if found:
        raise CommandError(
            "\n".join(["The tables differ from this release's. They need:", *found]),
            cure="Somebody changed them by hand; undo that.",
            problem="schema_differs",
        )


def _words(difference: object) -> str:
    """Return a difference as `add_column executions.note`; Alembic's tuples hold whole tables."""
    parts = difference if isinstance(difference, tuple) else (difference,)
    if isinstance(difference, list):  # changes of one column
        parts = difference[0]
    words = [part if isinstance(part, str) else getattr(part, "name", None) for part in parts]
    return "  " + " ".join(str(word) for word in words if word)


def _schema(home: Path | None) -> "Schema":
    from celeriac.db import migrate

    with open_database(read_settings(home)) as database, database.autocommit() as connection:
        return migrate.schema(connection)


def _require(schema: "Schema") -> None:
    if not schema.up_to_date:
        raise CommandError(
            f"The database has revision {schema.current or 'none'}; "
            f"this release needs {schema.wanted}.",
            cure=schema.cure,
            problem="schema_outdated",
        )
