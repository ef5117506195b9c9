"""Webhooks over HTTP: where events of a workspace are sent, and the log of deliveries."""

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Path, Query
from pydantic import ConfigDict, Field
from starlette.responses import Response

from celeriac import wire
from celeriac.api.core import views
from celeriac.api.core.auth import Admin, Operator
from celeriac.api.core.pages import Paging
from celeriac.api.core.parameters import Services
from celeriac.api.core.requests import JsonRoute
from celeriac.api.core.responses import problem_responses
from celeriac.domain.base import Strict
from celeriac.domain.webhooks import (
    DEFAULT_OVERLAP_HOURS,
    MAX_OVERLAP_HOURS,
    DeliveryStatus,
    WebhookEvent,
)

router = APIRouter(prefix="/webhooks", tags=["webhooks"], route_class=JsonRoute)
secret_router = APIRouter(tags=["webhooks"], route_class=JsonRoute)
deliveries_router = APIRouter(
    prefix="/webhook-deliveries", tags=["webhooks"], route_class=JsonRoute
)

_WEBHOOK: dict[str, Any] = {
    "url": "https://hooks.example.com/celeriac",
    "events": ["execution.completed", "execution.failed"],
    "description": "Notifications of the sales team",
}

Url = Annotated[str, Field(min_length=1, max_length=2_000)]
Events = Annotated[
    list[Annotated[WebhookEvent, Field(strict=False)]],
    Field(min_length=1, max_length=len(WebhookEvent), description="The events to send."),
]
Description = Annotated[str, Field(max_length=2_000)]
WebhookPath = Annotated[UUID, Path(description="The webhook's id.")]
DeliveryPath = Annotated[UUID, Path(description="The delivery's id.")]


class NewWebhook(Strict):
    """A webhook to create."""

    model_config = ConfigDict(json_schema_extra={"examples": [_WEBHOOK]})

    url: Url = Field(
        description="`https://…`, on the public internet; an operator of the installation can "
        "allow other hosts, also with `http://`."
    )
    events: Events
    description: Description = ""


class WebhookChange(Strict):
    """What to change of a webhook; what is left out stays as it is."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"events": ["execution.failed"]}]})

    url: Url | None = None
    events: Events | None = None
    description: Description | None = None


class SecretRotation(Strict):
    """A new secret for a webhook."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"overlap_hours": 24}]})

    overlap_hours: float = Field(
        default=DEFAULT_OVERLAP_HOURS,
        ge=0,
        le=MAX_OVERLAP_HOURS,
        description="Hours in which the secret until now signs, too; 0 if it has leaked.",
    )


@router.post("", status_code=201, summary="Create a webhook", responses=problem_responses(409))
def create_webhook(body: NewWebhook, actor: Admin, services: Services) -> wire.NewWebhook:
    """Have events of the workspace sent to a URL, signed by the Standard Webhooks specification.

    The `secret` is shown only now.
    """
    made = services.webhooks.create(
        actor, url=body.url, events=body.events, description=body.description
    )
    return views.new_webhook(made)


@router.get("", response_model=wire.Page[wire.Webhook], summary="List webhooks")
def list_webhooks(actor: Admin, services: Services, paging: Paging) -> Response:
    """Return the webhooks of the workspace, the newest first."""
    return paging.answer(views.webhook, services.webhooks.find, actor)


@secret_router.get("/webhook-callback-secret", summary="Get the secret of callbacks")
def get_callback_secret(actor: Operator, services: Services) -> wire.CallbackSecret:
    """Return what signs the requests to every `callback_url` of the workspace."""
    return wire.CallbackSecret(secret=services.webhooks.callback_secret(actor))


@router.get("/{webhook_id}", summary="Get a webhook")
def get_webhook(webhook_id: WebhookPath, actor: Admin, services: Services) -> wire.Webhook:
    """Return a webhook, without its secret."""
    return views.webhook(services.webhooks.get(actor, webhook_id))


@router.patch("/{webhook_id}", summary="Change a webhook")
def change_webhook(
    webhook_id: WebhookPath, body: WebhookChange, actor: Admin, services: Services
) -> wire.Webhook:
    """Change a webhook. Its secret stays the same."""
    return views.webhook(
        services.webhooks.change(
            actor,
            webhook_id,
            url=body.url,
            events=body.events,
            description=body.description,
        )
    )


@router.delete("/{webhook_id}", status_code=204, summary="Delete a webhook")
def delete_webhook(webhook_id: WebhookPath, actor: Admin, services: Services) -> None:
    """Delete a webhook. What waits for it fails; its deliveries stay in the log."""
    services.webhooks.delete(actor, webhook_id)


@router.post("/{webhook_id}/pause", summary="Pause a webhook")
def pause_webhook(webhook_id: WebhookPath, actor: Admin, services: Services) -> wire.Webhook:
    """Send nothing to a webhook until it is resumed. What waits for it fails."""
    return views.webhook(services.webhooks.pause(actor, webhook_id))


@router.post("/{webhook_id}/resume", summary="Resume a webhook")
def resume_webhook(webhook_id: WebhookPath, actor: Admin, services: Services) -> wire.Webhook:
    """Send events to a paused webhook again. Those that it missed are not sent."""
    return views.webhook(services.webhooks.resume(actor, webhook_id))


@router.post("/{webhook_id}/rotate", summary="Rotate the secret of a webhook")
def rotate_webhook(
    webhook_id: WebhookPath,
    actor: Admin,
    services: Services,
    body: SecretRotation | None = None,
) -> wire.NewWebhook:
    """Give a webhook a new secret, which is shown only now.

    For `overlap_hours` each request has two signatures, with the new secret and with the one until
    now: the receiver may change it at any time in between.
    """
    hours = (body or SecretRotation()).overlap_hours
    return views.new_webhook(services.webhooks.rotate(actor, webhook_id, overlap_hours=hours))


@router.post(
    "/{webhook_id}/test",
    status_code=202,
    summary="Test a webhook",
    responses=problem_responses(409),
)
def test_webhook(webhook_id: WebhookPath, actor: Admin, services: Services) -> wire.Delivery:
    """Send `webhook.test` to a webhook. The answer is its delivery, which is sent right after."""
    return views.delivery(services.webhooks.test(actor, webhook_id))


@deliveries_router.get(
    "", response_model=wire.Page[wire.Delivery], summary="List deliveries to webhooks"
)
def list_deliveries(
    actor: Admin,
    services: Services,
    paging: Paging,
    webhook_id: Annotated[UUID | None, Query(description="To this webhook.")] = None,
    execution_id: Annotated[UUID | None, Query(description="About this execution.")] = None,
    status: Annotated[DeliveryStatus | None, Query(description="With this status.")] = None,
) -> Response:
    """Return the deliveries of the workspace to its webhooks and callbacks, the newest first."""
    return paging.answer(
        views.delivery,
        services.webhooks.deliveries,
        actor,
        endpoint_id=webhook_id,
        execution_id=execution_id,
        status=status,
    )


@deliveries_router.get("/{delivery_id}", summary="Get a delivery")
def get_delivery(
    delivery_id: DeliveryPath, actor: Admin, services: Services
) -> wire.DeliveryDetails:
    """Return a delivery with what is sent and the last answer."""
    return views.delivery_details(services.webhooks.delivery(actor, delivery_id))


@deliveries_router.post(
    "/{delivery_id}/redeliver",
    status_code=202,
    summary="Send a delivery again",
    responses=problem_responses(409),
)
def redeliver(delivery_id: DeliveryPath, actor: Admin, services: Services) -> wire.DeliveryDetails:
    """Send a delivery once more, now, with the same `webhook-id`, whatever became of it before."""
    return views.delivery_details(services.webhooks.redeliver(actor, delivery_id))
