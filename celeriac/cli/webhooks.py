"""`celeriac webhooks` and `celeriac deliveries`."""

from typing import TYPE_CHECKING, Annotated

import typer

from celeriac.cli.core.arguments import Limit
from celeriac.cli.core.context import CommandContext, api_command
from celeriac.cli.core.ids import DeliveryId, ExecutionOption, WebhookId, WebhookOption, short_id
from celeriac.cli.core.output import UsageProblemError
from celeriac.domain.webhooks import (
    DEFAULT_OVERLAP_HOURS,
    MAX_OVERLAP_HOURS,
    DeliveryStatus,
    WebhookEvent,
)

if TYPE_CHECKING:
    from celeriac import wire

app = typer.Typer(name="webhooks", help="Where events of a workspace are sent; for its admins.")
deliveries_app = typer.Typer(
    name="deliveries", help="What was sent to webhooks and callbacks; for admins."
)

Url = Annotated[str, typer.Argument(metavar="URL", help="https://…")]
Events = Annotated[
    list[WebhookEvent], typer.Option("--event", "-e", help="An event to send. Repeatable.")
]
About = Annotated[str | None, typer.Option("--description", help="What it is for.")]


@api_command(app, "list")
def list_webhooks(context: CommandContext, limit: Limit = 50) -> None:
    """List the webhooks of the workspace, the newest first."""
    context.output.write_list(
        context.client.webhooks.list(),
        ("ID", "URL", "EVENTS", "STATE", "CREATED"),
        lambda each: (each.id, each.url, ", ".join(each.events), _state(each), each.created_at),
        limit=limit,
        cut=("URL", "EVENTS"),
        drop=("CREATED",),
    )


@api_command(app, "create")
def create_webhook(
    context: CommandContext,
    url: Url,
    event: Events,
    description: About = None,
) -> None:
    """Have events of the workspace sent to a URL, and print the secret of the signatures.

    The secret can't be shown again.

    Examples:
      celeriac webhooks create https://hooks.example.com/celeriac -e execution.failed
    """
    made = context.client.webhooks.create(url, event, description=description or "")
    context.output.write(made, made.secret)
    context.output.say(
        f"The webhook {made.id} was created. This secret can't be shown again: give it to the "
        f"receiver. `celeriac webhooks test {short_id(made.id)}` sends a test."
    )


@api_command(app)
def show(context: CommandContext, webhook: WebhookId) -> None:
    """Show a webhook."""
    _show(context, context.client.webhooks.get(webhook))


@api_command(app)
def change(
    context: CommandContext,
    webhook: WebhookId,
    *,
    url: Annotated[str | None, typer.Option("--url", metavar="URL", help="https://…")] = None,
    event: Annotated[
        list[WebhookEvent],
        typer.Option(
            "--event", "-e", help="An event to send, instead of those until now. Repeatable."
        ),
    ] = [],  # noqa: B006 - Typer copies it
    description: About = None,
) -> None:
    """Change the URL, the events or the description of a webhook."""
    if url is None and not event and description is None:
        raise UsageProblemError("Give --url, --event or --description.")
    changed = context.client.webhooks.change(
        webhook, url=url, events=event or None, description=description
    )
    _show(context, changed)


@api_command(app)
def pause(context: CommandContext, webhook: WebhookId) -> None:
    """Pause a webhook: nothing is sent to it, and its waiting deliveries fail."""
    _show(context, context.client.webhooks.pause(webhook))


@api_command(app)
def resume(context: CommandContext, webhook: WebhookId) -> None:
    """Resume a paused webhook. What it missed is not sent; see `celeriac deliveries`."""
    _show(context, context.client.webhooks.resume(webhook))


@api_command(app)
def rotate(
    context: CommandContext,
    webhook: WebhookId,
    *,
    overlap_hours: Annotated[
        float,
        typer.Option(
            "--overlap-hours",
            min=0,
            max=MAX_OVERLAP_HOURS,
            help="Hours in which the secret until now signs, too; 0 if it has leaked.",
        ),
    ] = DEFAULT_OVERLAP_HOURS,
) -> None:
    """Give a webhook a new secret, and print it. It can't be shown again."""
    made = context.client.webhooks.rotate(webhook, overlap_hours=overlap_hours)
    context.output.write(made, made.secret)
    context.output.say(f"The secret until now signs, too, until {made.previous_until}.")


@api_command(app)
def delete(context: CommandContext, webhook: WebhookId) -> None:
    """Delete a webhook."""
    context.client.webhooks.delete(webhook)
    context.output.write({"id": webhook, "deleted": True}, f"deleted · {webhook}")


@api_command(app)
def test(context: CommandContext, webhook: WebhookId) -> None:
    """Send webhook.test to a webhook, and print the id of the delivery."""
    made = context.client.webhooks.test(webhook)
    context.output.write(made, str(made.id))
    context.output.say(f"`celeriac deliveries show {short_id(made.id)}` shows what became of it.")


@api_command(app, "callback-secret")
def callback_secret(context: CommandContext) -> None:
    """Print the secret that signs the requests to every callback URL of the workspace."""
    secret = context.client.webhooks.callback_secret()
    context.output.write({"secret": secret}, secret)


@api_command(deliveries_app, "list")
def list_deliveries(
    context: CommandContext,
    limit: Limit = 50,
    webhook: WebhookOption = None,
    execution: ExecutionOption = None,
    status: Annotated[DeliveryStatus | None, typer.Option(help="Only with this status.")] = None,
) -> None:
    """List deliveries to webhooks and callbacks, the newest first."""
    context.output.write_list(
        context.client.deliveries.list(
            webhook_id=webhook,
            execution_id=execution,
            status=None if status is None else status.value,
        ),
        ("ID", "EVENT", "STATUS", "TRIES", "ANSWER", "URL", "CREATED"),
        lambda each: (
            each.id,
            each.event,
            each.status,
            each.attempts,
            _answer(each),
            each.url,
            each.created_at,
        ),
        limit=limit,
        cut=("URL",),
        drop=("CREATED", "URL"),
    )


@api_command(deliveries_app, "show")
def show_delivery(context: CommandContext, delivery: DeliveryId) -> None:
    """Show a delivery, what is sent, and the last answer."""
    _show_delivery(context, context.client.deliveries.get(delivery))


@api_command(deliveries_app)
def redeliver(context: CommandContext, delivery: DeliveryId) -> None:
    """Send a delivery once more, now, under the same id."""
    _show_delivery(context, context.client.deliveries.redeliver(delivery))


def _state(found: "wire.Webhook") -> str:
    if not found.active:
        return f"paused ({found.paused_reason})"
    return "active" if found.failing_since is None else "failing"


def _answer(found: "wire.Delivery") -> object:
    return found.error if found.status_code is None else found.status_code


def _show(context: CommandContext, found: "wire.Webhook") -> None:
    context.output.write_details(
        found,
        {
            "id": found.id,
            "url": found.url,
            "events": ", ".join(found.events),
            "description": found.description,
            "state": _state(found),
            "failing since": found.failing_since or "",
            "old secret signs until": found.previous_until or "",
            "created": found.created_at,
        },
    )


def _show_delivery(context: CommandContext, found: "wire.DeliveryDetails") -> None:
    context.output.write_details(
        found,
        {
            "id": found.id,
            "event": found.event,
            "url": found.url or "",
            "status": found.status,
            "attempts": found.attempts,
            "created": found.created_at,
            "next attempt": found.available_at if found.status == "pending" else "",
            "last attempt": found.attempted_at or "",
            "answered with": found.status_code or "",
            "error": found.error or "",
            "body": found.body or "",
            "answer": found.answer or "",
        },
    )
