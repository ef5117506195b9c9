"""Webhooks and their deliveries."""

from datetime import datetime
from uuid import UUID

from pydantic import Field

from celeriac.domain.webhooks import DeliveryStatus, PausedReason, WebhookEvent
from celeriac.wire.base import AT, ID, Links, Wire, links

_URL = "https://hooks.example.com/celeriac"


class Webhook(Wire):
    """Where a workspace has its events sent."""

    id: UUID
    workspace_id: UUID
    owner_id: UUID = Field(description="Who made it.")
    url: str = Field(examples=[_URL])
    events: list[WebhookEvent] = Field(examples=[["execution.completed", "execution.failed"]])
    description: str = Field(examples=["Notifications of the sales team"])
    active: bool = Field(description="Whether events are sent to it.", examples=[True])
    paused_reason: PausedReason | None = Field(
        description="Null while it is active. requested: somebody has paused it; gone: it has "
        "answered with 410; failing: nothing could be delivered for five days.",
    )
    failing_since: datetime | None = Field(
        description="When an attempt failed after which none was successful."
    )
    previous_until: datetime | None = Field(
        description="Until when what is sent is also signed with the secret before the last "
        "rotation."
    )
    created_at: datetime
    updated_at: datetime
    links: Links = links(
        self="/api/v1/webhooks/{id}",
        deliveries="/api/v1/webhook-deliveries?webhook_id={id}",
    )


class NewWebhook(Webhook):
    """A webhook that was just created, or whose secret was."""

    secret: str = Field(
        description="What its signatures are checked with. It is shown only once and is not "
        "stored.",
        examples=["whsec_…"],
    )


class CallbackSecret(Wire):
    """The secret of a workspace's callbacks."""

    secret: str = Field(
        description="What the signatures of requests to a `callback_url` are checked with.",
        examples=["whsec_…"],
    )


class Delivery(Wire):
    """An event that is sent to one webhook or callback, and its last attempt."""

    id: UUID = Field(description="The `webhook-id` of all its attempts.")
    workspace_id: UUID
    webhook_id: UUID | None = Field(description="Null for a callback.", examples=[ID])
    url: str | None = Field(description="Null if the webhook was deleted.", examples=[_URL])
    event: str = Field(examples=["execution.completed"])
    execution_id: UUID | None = Field(examples=[ID])
    run_id: UUID | None
    approval_id: UUID | None
    status: DeliveryStatus = Field(
        description="failed: it is not sent again, unless somebody asks for it.",
        examples=["delivered"],
    )
    attempts: int = Field(examples=[1])
    created_at: datetime = Field(description="When it happened.")
    available_at: datetime = Field(
        description="When a pending one is sent. During an attempt: when it counts as lost."
    )
    attempted_at: datetime | None = Field(examples=[AT])
    delivered_at: datetime | None = Field(examples=[AT])
    status_code: int | None = Field(description="Of the last answer.", examples=[204])
    error: str | None = Field(description="Why the last attempt failed.")
    duration_ms: int | None = Field(examples=[48])
    links: Links = links(
        self="/api/v1/webhook-deliveries/{id}",
        redeliver="/api/v1/webhook-deliveries/{id}/redeliver",
        webhook="/api/v1/webhooks/{webhook_id}",
        execution="/api/v1/task-executions/{execution_id}",
    )


class DeliveryDetails(Delivery):
    """A delivery with its texts."""

    body: str | None = Field(
        description="What is sent, the same each time. Null before the first attempt.",
        examples=['{"type":"execution.completed","timestamp":"…","data":{"…":"…"}}'],
    )
    answer: str | None = Field(
        description="The last answer: its first 64 KiB, with secrets masked.", examples=["ok"]
    )
