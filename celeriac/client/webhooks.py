"""Webhooks and their deliveries."""

from collections.abc import Iterator, Sequence
from uuid import UUID

from celeriac import wire
from celeriac.client.transport import Resource, given, path

_WEBHOOKS = "webhooks"
_DELIVERIES = "webhook-deliveries"


class Webhooks(Resource):
    """`client.webhooks`: where events of the workspace are sent. For its admins."""

    def create(self, url: str, events: Sequence[str], *, description: str = "") -> wire.NewWebhook:
        """Have `events`, such as `execution.failed`, sent to `url`.

        Only this answer has the `secret` that signatures are checked with.
        """
        body = {"url": url, "events": list(events), "description": description}
        return self._transport.post(wire.NewWebhook, path(_WEBHOOKS), body)

    def get(self, webhook_id: str | UUID) -> wire.Webhook:
        """Return a webhook."""
        return self._transport.get(wire.Webhook, path(_WEBHOOKS, webhook_id))

    def list(self) -> Iterator[wire.Webhook]:
        """Yield the webhooks of the workspace, the newest first."""
        return self._transport.pages(wire.Webhook, path(_WEBHOOKS))

    def change(
        self,
        webhook_id: str | UUID,
        *,
        url: str | None = None,
        events: Sequence[str] | None = None,
        description: str | None = None,
    ) -> wire.Webhook:
        """Change what is given."""
        body = given(
            url=url,
            events=None if events is None else [*events],
            description=description,
        )
        return self._transport.patch(wire.Webhook, path(_WEBHOOKS, webhook_id), body)

    def pause(self, webhook_id: str | UUID) -> wire.Webhook:
        """Have nothing sent to a webhook; what waits for it fails."""
        return self._transport.post(wire.Webhook, path(_WEBHOOKS, webhook_id, "pause"), None)

    def resume(self, webhook_id: str | UUID) -> wire.Webhook:
        """Have events sent to a webhook again; those that it missed are not."""
        return self._transport.post(wire.Webhook, path(_WEBHOOKS, webhook_id, "resume"), None)

    def rotate(
        self, webhook_id: str | UUID, *, overlap_hours: float | None = None
    ) -> wire.NewWebhook:
        """Give a webhook a new secret; the one until now signs, too, for 24, or `overlap_hours`."""
        body = given(overlap_hours=overlap_hours)
        return self._transport.post(wire.NewWebhook, path(_WEBHOOKS, webhook_id, "rotate"), body)

    def delete(self, webhook_id: str | UUID) -> None:
        """Delete a webhook; what waits for it fails."""
        self._transport.send("DELETE", path(_WEBHOOKS, webhook_id))

    def test(self, webhook_id: str | UUID) -> wire.Delivery:
        """Send `webhook.test` to a webhook; return its delivery, which is sent right after."""
        return self._transport.post(wire.Delivery, path(_WEBHOOKS, webhook_id, "test"), None)

    def callback_secret(self) -> str:
        """Return the secret that signs the requests to every `callback_url` of the workspace."""
        found = self._transport.get(wire.CallbackSecret, path("webhook-callback-secret"))
        return found.secret


class Deliveries(Resource):
    """`client.deliveries`: what was sent to webhooks and callbacks. For admins."""

    def list(
        self,
        *,
        webhook_id: str | UUID | None = None,
        execution_id: str | UUID | None = None,
        status: str | None = None,
    ) -> Iterator[wire.Delivery]:
        """Yield deliveries, the newest first; `status` is `pending`, `delivered` or `failed`."""
        wanted = given(webhook_id=webhook_id, execution_id=execution_id, status=status)
        return self._transport.pages(wire.Delivery, path(_DELIVERIES), wanted)

    def get(self, delivery_id: str | UUID) -> wire.DeliveryDetails:
        """Return a delivery with what is sent and the last answer."""
        return self._transport.get(wire.DeliveryDetails, path(_DELIVERIES, delivery_id))

    def redeliver(self, delivery_id: str | UUID) -> wire.DeliveryDetails:
        """Send a delivery once more, now, under the same id."""
        return self._transport.post(
            wire.DeliveryDetails, path(_DELIVERIES, delivery_id, "redeliver"), None
        )
