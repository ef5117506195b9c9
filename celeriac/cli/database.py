"""`celeriac db`: what needs the database alone: its schema, and a first API key."""

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from celeriac.cli.core.arguments import Home, Json
from celeriac.cli.core.output import CommandError, Output, UsageProblemError
from celeriac.cli.core.server import open_database, read_settings

if TYPE_CHECKING:
    from celeriac.db.migrate import Migration, Schema


class MigrationPhase(StrEnum):
    """The values of `--phase`; those of `celeriac.db.migrate`, which is slow to import."""

    PRE = "pre"
    POST = "post"


app = typer.Typer(name="db", help="The database: its schema, and a first API key.")


@app.command()
def upgrade(
    phase: Annotated[
        MigrationPhase | None,
        typer.Option(help="Apply only these migrations: pre or post; both if not given."),
    ] = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Upgrade the database to the schema of this release.

    Each migration is a transaction of its own. Migrations of the phase `pre`
    keep programs of the release before working: apply them first, then replace
    all programs, then apply those of the phase `post`, which wait for workers
    of other releases to end, for up to five minutes. Safe to repeat, and to
    run in several places at once. `celeriac up` does it by itself.

    Behind a pooler it needs CELERIAC_DATABASE_DIRECT_URL.

    Examples:
      celeriac db upgrade
      celeriac db upgrade --phase pre
      DATABASE_URL=postgresql://celeriac@db/celeriac celeriac db upgrade
    """
    from celeriac.db import migrate

    output = Output(as_json=as_json)
    before = _schema(home).current
    settings = read_settings(home)
    applied = migrate.upgrade(
        settings.direct_database(),
        phases=[migrate.Phase(phase.value)] if phase else tuple(migrate.Phase),
        partition_days=settings.retention.partition_days,
    )
    schema = _schema(home)
    text = f"Upgraded from {before or 'nothing'} to revision {schema.current}."
    if not applied:
        text = f"Nothing to do: the schema has revision {schema.current}."
        if schema.up_to_date:
            text = f"The schema is up to date: revision {schema.current}."
    if schema.pending:
        text += f" To be applied: {_listed(schema)}."
    output.write(
        {
            "before": before,
            "current": schema.current,
            "wanted": schema.wanted,
            "applied": _as_json(applied),
            "pending": _as_json(schema.pending),
        },
        text,
    )


@app.command()
def status(home: Home = None, as_json: Json = False) -> None:
    """Show the database's revision, the one of this release, and what is pending.

    Exits with 1 if they differ.
    """
    schema = _schema(home)
    revisions = {"current": schema.current, "wanted": schema.wanted}
    Output(as_json=as_json).write_details(
        {**revisions, "up_to_date": schema.up_to_date, "pending": _as_json(schema.pending)},
        {
            **{name: revision or "none" for name, revision in revisions.items()},
            **({"pending": _listed(schema)} if schema.pending else {}),
        },
    )
    _require(schema)


def _listed(schema: "Schema") -> str:
    return ", ".join(f"{each.revision} ({each.phase})" for each in schema.pending)


def _as_json(migrations: "Sequence[Migration]") -> list[dict[str, str]]:
    return [{"revision": each.revision, "phase": each.phase.value} for each in migrations]


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


@app.command(name="admin-key")
def admin_key(
    name: Annotated[
        str, typer.Argument(metavar="USER", help="The administrator's name.")
    ] = "admin",
    key_name: Annotated[
        str, typer.Option("--key-name", help="The name of the key in lists.")
    ] = "celeriac db admin-key",
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Create an API key of an administrator, with the database alone.

    For the first key of an installation, and where all keys are lost: whoever
    has DATABASE_URL and CELERIAC_SECRET_KEY may do this. The user is created if
    missing. The key is written to standard output, once: it is not stored.

    Examples:
      celeriac db admin-key
      celeriac db admin-key ada --key-name laptop
    """
    from celeriac.services.accounts import Accounts
    from celeriac.wiring.core import secret_key

    _check_names(name, key_name)
    settings = read_settings(home)
    _require(_schema(home))
    with open_database(settings) as database:
        made = Accounts(database, secret_key(settings)).bootstrap_admin(name, key_name=key_name)
    output = Output(as_json=as_json)
    output.write({"user": name, "key": made.token}, made.token)


def _check_names(user: str, key: str) -> None:
    """Raise UsageProblemError for names that the API would refuse."""
    from pydantic import StringConstraints, TypeAdapter, ValidationError

    from celeriac.domain.base import Label, Name

    key_name = Annotated[Label, StringConstraints(min_length=1, max_length=100)]
    wanted: list[tuple[str, str, Any]] = [("USER", user, Name), ("--key-name", key, key_name)]
    for option, value, kind in wanted:
        try:
            TypeAdapter[Any](kind).validate_python(value)
        except ValidationError as error:
            reason = error.errors()[0]["msg"].removeprefix("Value error, ")
            raise UsageProblemError(f"{option} {value!r}: {reason}.") from error


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
