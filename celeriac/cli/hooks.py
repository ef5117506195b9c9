"""`celeriac hooks`."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from celeriac.cli.core.arguments import Description, Limit, parse_pair, read_text
from celeriac.cli.core.context import CommandContext, api_command
from celeriac.cli.core.ids import HookId, names_of, short_id, starts_of
from celeriac.cli.core.output import UsageProblemError
from celeriac.domain.hooks.model import (
    HookDeliveryStatus,
    Verification,
)
from celeriac.domain.webhooks import DEFAULT_OVERLAP_HOURS, MAX_OVERLAP_HOURS
from celeriac.kit.json_types import dumps, loads

if TYPE_CHECKING:
    from celeriac import wire

app = typer.Typer(name="hooks", help="URLs whose requests start tasks and workflows; for admins.")

_MAPPED = "A variable, such as text='${{ body.issue.title }}'. Repeatable."

Map = Annotated[list[str], typer.Option("--map", "-m", metavar="NAME=VALUE", help=_MAPPED)]
When = Annotated[
    str | None,
    typer.Option(
        "--when",
        metavar="EXPRESSION",
        help="Ignore requests for which it is false, such as body.action == 'opened'.",
    ),
]
PerMinute = Annotated[
    int | None,
    typer.Option("--per-minute", min=1, help="Requests that each API process takes."),
]
Secret = Annotated[
    str | None,
    typer.Option(
        "--secret-file",
        metavar="FILE",
        help="A file with the secret that the sender has made, - for standard input.",
    ),
]


@api_command(app, "list")
def list_hooks(context: CommandContext, limit: Limit = 50) -> None:
    """List the hooks of the workspace, the newest first."""
    context.output.write_list(
        context.client.hooks.list(),
        ("ID", "NAME", "STARTS", "VERIFICATION", "STATE", "DESCRIPTION", "CREATED"),
        lambda each: (
            each.id,
            each.name,
            starts_of(each),
            each.verification,
            _state(each),
            each.description,
            each.created_at,
        ),
        limit=limit,
        cut=("DESCRIPTION",),
        drop=("CREATED", "DESCRIPTION", "VERIFICATION"),
    )


@api_command(app, "create")
def create_hook(
    context: CommandContext,
    *,
    name: Annotated[
        str | None,
        typer.Option("--name", help="Unique in the workspace; commands take it instead of the id."),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(
            "--task", metavar="NAME", help="The task to run.", autocompletion=names_of("tasks")
        ),
    ] = None,
    workflow: Annotated[
        str | None,
        typer.Option(
            "--workflow",
            metavar="NAME",
            help="The workflow to run.",
            autocompletion=names_of("workflows"),
        ),
    ] = None,
    verification: Annotated[
        Verification, typer.Option("--verification", help="How requests are verified.")
    ] = Verification.STANDARD,
    mapping: Map = [],  # noqa: B006 - Typer copies it
    when: When = None,
    secret_file: Secret = None,
    per_minute: PerMinute = None,
    description: Description = None,
) -> None:
    """Create a hook for a task or a workflow, and print its URL and its secret.

    The secret can't be shown again.

    Examples:
      celeriac hooks create --task summarise -m text='${{ body.issue.title }}'
    """
    if (task is None) == (workflow is None):
        raise UsageProblemError("Give --task or --workflow.")
    made = context.client.hooks.create(
        name=name,
        task=task,
        workflow=workflow,
        verification=verification.value,
        mapping=_mapping(mapping),
        when=when,
        secret=_secret(secret_file),
        per_minute=per_minute,
        description=description or "",
    )
    context.output.write(made, f"{made.url}\n{made.secret}")
    context.output.say(
        f"The hook {made.id} was created. Give its URL and this secret, which can't be shown "
        f"again, to the sender. `celeriac hooks test {short_id(made.id)}` sends a sample."
    )


@api_command(app)
def show(context: CommandContext, hook: HookId) -> None:
    """Show a hook with its URL."""
    _show(context, context.client.hooks.get(hook))


@api_command(app)
def change(
    context: CommandContext,
    hook: HookId,
    *,
    mapping: Map = [],  # noqa: B006 - Typer copies it
    when: When = None,
    per_minute: PerMinute = None,
    description: Description = None,
) -> None:
    """Change the variables, the condition, the limit or the description of a hook.

    The variables replace all those until now. An empty condition removes it.
    """
    values: dict[str, Any] = {}
    if mapping:
        values["mapping"] = _mapping(mapping)
    if when is not None:
        values["when"] = when or None
    if per_minute is not None:
        values["per_minute"] = per_minute
    if description is not None:
        values["description"] = description
    if not values:
        raise UsageProblemError("Give --map, --when, --per-minute or --description.")
    _show(context, context.client.hooks.change(hook, **values))


@api_command(app)
def pause(context: CommandContext, hook: HookId) -> None:
    """Pause a hook: it refuses what is sent to it."""
    _show(context, context.client.hooks.pause(hook))


@api_command(app)
def resume(context: CommandContext, hook: HookId) -> None:
    """Resume a paused hook. What it has refused must be sent again."""
    _show(context, context.client.hooks.resume(hook))


@api_command(app)
def rotate(
    context: CommandContext,
    hook: HookId,
    *,
    overlap_hours: Annotated[
        float,
        typer.Option(
            "--overlap-hours",
            min=0,
            max=MAX_OVERLAP_HOURS,
            help="Hours in which the secret until now is valid, too; 0 if it has leaked.",
        ),
    ] = DEFAULT_OVERLAP_HOURS,
    secret_file: Secret = None,
) -> None:
    """Give a hook a new secret, and print it. It can't be shown again."""
    made = context.client.hooks.rotate(
        hook, secret=_secret(secret_file), overlap_hours=overlap_hours
    )
    context.output.write(made, made.secret)
    context.output.say(f"The secret until now is valid until {made.previous_until}.")


@api_command(app, "delete")
def delete_hook(context: CommandContext, hook: HookId) -> None:
    """Delete a hook: its URL is unknown from then on."""
    context.client.hooks.delete(hook)
    context.output.write({"id": hook, "deleted": True}, f"deleted · {hook}")


@api_command(app, "test")
def send_sample(
    context: CommandContext,
    hook: HookId,
    *,
    body: Annotated[
        str, typer.Option("--body", metavar="JSON", help="The body, or @FILE, or @- for input.")
    ] = "{}",
    header: Annotated[
        list[str], typer.Option("--header", metavar="NAME=VALUE", help="A header. Repeatable.")
    ] = [],  # noqa: B006 - Typer copies it
    query: Annotated[
        list[str],
        typer.Option("--query", metavar="NAME=VALUE", help="A parameter of the URL. Repeatable."),
    ] = [],  # noqa: B006 - Typer copies it
) -> None:
    """Send a signed sample to a hook, as its sender would. It really starts something."""
    receipt = context.client.hooks.test(
        hook, _body(body), headers=_texts(header, "--header"), query=_texts(query, "--query")
    )
    started = receipt.execution_id or receipt.run_id
    context.output.write(receipt, "ignored" if started is None else str(started))


@api_command(app)
def deliveries(
    context: CommandContext,
    hook: HookId,
    limit: Limit = 50,
    status: Annotated[
        HookDeliveryStatus | None, typer.Option(help="Only with this status.")
    ] = None,
) -> None:
    """List what was sent to a hook, the newest first, with why it was refused."""
    context.output.write_list(
        context.client.hooks.deliveries(hook, status=None if status is None else status.value),
        ("RECEIVED", "STATUS", "REASON", "DELIVERY", "STARTED", "MESSAGE"),
        lambda each: (
            each.received_at,
            each.status,
            each.reason,
            each.delivery_id,
            each.execution_id or each.run_id,
            each.message,
        ),
        limit=limit,
        cut=("MESSAGE", "DELIVERY"),
        drop=("MESSAGE", "DELIVERY"),
    )


def _mapping(pairs: list[str]) -> dict[str, Any] | None:
    return dict(parse_pair(pair, option="--map") for pair in pairs) or None


def _texts(pairs: list[str], option: str) -> dict[str, str]:
    found = (parse_pair(pair, option=option, what="name") for pair in pairs)
    return {name: value if isinstance(value, str) else dumps(value) for name, value in found}


def _secret(file: str | None) -> str | None:
    return None if file is None else read_text(file).strip()


def _body(text: str) -> Any:
    written = read_text(text[1:]) if text.startswith("@") else text
    try:
        return loads(written)
    except ValueError as error:
        raise UsageProblemError(f"--body is no JSON: {error}.") from error


def _state(found: "wire.Hook") -> str:
    return "active" if found.active else "paused"


def _show(context: CommandContext, found: "wire.Hook") -> None:
    context.output.write_details(
        found,
        {
            "id": found.id,
            "name": found.name or "",
            "url": found.url,
            "starts": starts_of(found),
            "verification": found.verification,
            "variables": "the body" if found.mapping is None else dumps(found.mapping),
            "when": found.when or "",
            "per minute": found.per_minute,
            "description": found.description,
            "state": _state(found),
            "old secret valid until": found.previous_until or "",
            "created": found.created_at,
        },
    )
