"""`celeriac secrets`."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from celeriac.cli.core.arguments import STDIN, Description, Limit, json_argument, read_text
from celeriac.cli.core.context import CommandContext, api_command
from celeriac.cli.core.ids import names_of
from celeriac.cli.core.output import UsageProblemError

if TYPE_CHECKING:
    from celeriac import wire

app = typer.Typer(name="secrets", help="Secrets that agents can be given; values are never shown.")

SecretName = Annotated[
    str,
    typer.Argument(
        metavar="SECRET", help="The secret's name or id.", autocompletion=names_of("secrets")
    ),
]
ValueFile = Annotated[
    str | None,
    typer.Option(
        "--value-file",
        metavar="FILE",
        help="A file with the value, - for standard input. One line end at its end is left out.",
    ),
]
WorkerSource = Annotated[
    str | None,
    typer.Option(
        "--worker-source",
        metavar="NAME",
        help="Let workers read the value: a name in their CELERIAC_SECRET_SOURCES. For "
        "administrators.",
    ),
]


@api_command(app, "list")
def list_secrets(context: CommandContext, limit: Limit = 50) -> None:
    """List the secrets of the workspace without their values, the newest first."""
    context.output.write_list(
        context.client.secrets.list(),
        ("NAME", "SOURCE", "VERSION", "BY", "CHANGED", "DESCRIPTION"),
        lambda each: (
            each.name,
            _source(each),
            each.version,
            each.created_by,
            each.updated_at,
            each.description,
        ),
        limit=limit,
        cut=("DESCRIPTION", "NAME"),
        drop=("BY", "DESCRIPTION", "VERSION"),
    )


@api_command(app, "create")
def create_secret(
    context: CommandContext,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The name that agents use.")],
    *,
    value_file: ValueFile = None,
    worker_source: WorkerSource = None,
    github_app: Annotated[
        str | None,
        typer.Option(
            "--github-app",
            metavar="JSON",
            help="Give attempts tokens of a GitHub App, whose private key is the value: app_id, "
            "installation_id, repository and permissions, as JSON or the name of a file.",
        ),
    ] = None,
    description: Description = None,
) -> None:
    """Create a secret; its value comes from a file or from standard input, never as an argument.

    Examples:
      celeriac secrets create github --value-file token.txt
      pass show github | celeriac secrets create github
      celeriac secrets create vault-db --worker-source vault-db
    """
    value = None if worker_source is not None and value_file is None else _value(value_file)
    made = context.client.secrets.create(
        name,
        value,
        worker_source=worker_source,
        github_app=json_argument(github_app, "--github-app"),
        description=description or "",
    )
    _show(context, made)


@api_command(app)
def show(context: CommandContext, secret: SecretName) -> None:
    """Show a secret without its value."""
    _show(context, context.client.secrets.get(secret))


@api_command(app)
def change(
    context: CommandContext,
    secret: SecretName,
    *,
    value_file: ValueFile = None,
    worker_source: WorkerSource = None,
    description: Description = None,
) -> None:
    """Give a secret another value or description; attempts that start later get the new value.

    Examples:
      celeriac secrets change github --value-file token.txt
    """
    if value_file is None and worker_source is None and description is None:
        raise UsageProblemError("Give --value-file, --worker-source or --description.")
    changed = context.client.secrets.change(
        secret,
        value=None if value_file is None else _value(value_file),
        worker_source=worker_source,
        description=description,
    )
    _show(context, changed)


@api_command(app)
def delete(context: CommandContext, secret: SecretName) -> None:
    """Delete a secret; attempts of agents that name it fail from now on."""
    context.client.secrets.delete(secret)
    context.output.write({"secret": secret, "deleted": True}, f"deleted · {secret}")


@api_command(app)
def reencrypt(context: CommandContext) -> None:
    """Encrypt all values with the first of CELERIAC_ENCRYPTION_KEYS; for administrators."""
    count = context.client.secrets.reencrypt()
    context.output.write({"reencrypted": count}, f"encrypted anew · {count}")


def _value(file: str | None) -> str:
    """Return the value in a file or from standard input; ask for it on a terminal."""
    if file is None and sys.stdin.isatty():
        return str(typer.prompt("Value", hide_input=True, err=True))
    text = read_text(STDIN if file is None else file)
    return text.removesuffix("\n").removesuffix("\r")


def _source(secret: "wire.Secret") -> str:
    if secret.github_app is not None:
        return f"GitHub App: {secret.github_app['repository']}"
    return "stored" if secret.worker_source is None else f"worker: {secret.worker_source}"


def _show(context: CommandContext, found: "wire.Secret") -> None:
    context.output.write_details(
        found,
        {
            "id": found.id,
            "name": found.name,
            "source": _source(found),
            "version": found.version,
            "description": found.description,
            "by": found.created_by,
            "created": found.created_at,
            "changed": found.updated_at,
        },
    )
