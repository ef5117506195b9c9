"""Webhook endpoints of a workspace, and the log of their deliveries; for its admins."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from uuid import UUID

import structlog

from celeriac.db import audit
from celeriac.db.engine import Connection, Database
from celeriac.db.webhooks import deliveries, endpoints
from celeriac.domain.accounts import Actor, Role
from celeriac.domain.audit import changes
from celeriac.domain.errors import ConflictError
from celeriac.domain.paging import Page
from celeriac.domain.webhooks import (
    DEFAULT_OVERLAP_HOURS,
    TEST_EVENT,
    Delivery,
    DeliveryDetails,
    DeliveryFilter,
    DeliveryStatus,
    Endpoint,
    SigningKeys,
    WebhookEvent,
)
from celeriac.kit.json_types import JsonValue
from celeriac.kit.outbound import OutboundGuard
from celeriac.services.reading import present, read_page
from celeriac.services.webhooks.send import PAUSED
from celeriac.services.webhooks.targets import check_url

logger = structlog.get_logger(__name__)

MOST_ENDPOINTS = 50
"""How many a workspace may have: each end of an execution is written for all that want it."""


@dataclass(frozen=True, slots=True)
class NewEndpoint:
    """A new endpoint, or one with a new secret; `secret` is shown once."""

    endpoint: Endpoint
    secret: str


class Webhooks:
    """Endpoints and deliveries. Safe to share between threads."""

    def __init__(self, database: Database, keys: SigningKeys, guard: OutboundGuard) -> None:
        self._database = database
        self._keys = keys
        self._guard = guard

    def create(
        self, actor: Actor, *, url: str, events: Sequence[WebhookEvent], description: str = ""
    ) -> NewEndpoint:
        """Create an endpoint. Raises ForbiddenError, InvalidInputError, ConflictError."""
        actor.require(Role.ADMIN)
        check_url(self._guard, url, "url")
        with self._database.transaction() as connection:
            if endpoints.count(connection, actor.workspace_id) >= MOST_ENDPOINTS:
                raise ConflictError(
                    f"The workspace has {MOST_ENDPOINTS} webhooks, which is the most; delete one "
                    "first."
                )
            endpoint_id = endpoints.add(
                connection,
                workspace_id=actor.workspace_id,
                owner_id=actor.user_id,
                url=url,
                events=_sorted(events),
                description=description,
            )
            made = _found(connection, actor, endpoint_id)
            _record(connection, actor, "create", endpoint_id, events=list(made.events))
        logger.info("webhook.created", endpoint_id=endpoint_id)
        return NewEndpoint(made, self._keys.secret(endpoint_id))

    def get(self, actor: Actor, endpoint_id: UUID) -> Endpoint:
        """Return an endpoint. Raises ForbiddenError, NotFoundError."""
        actor.require(Role.ADMIN)
        with self._database.autocommit() as connection:
            return _found(connection, actor, endpoint_id)

    def find(self, actor: Actor, *, cursor: str | None = None, limit: int = 50) -> Page[Endpoint]:
        """Return a page of the workspace's endpoints, the newest first.

        Raises ForbiddenError, CursorInvalidError.
        """
        actor.require(Role.ADMIN)
        find = partial(endpoints.find, workspace=actor.workspace_id)
        return read_page(self._database, "webhooks", cursor, limit, find)

    def change(
        self,
        actor: Actor,
        endpoint_id: UUID,
        *,
        url: str | None = None,
        events: Sequence[WebhookEvent] | None = None,
        description: str | None = None,
    ) -> Endpoint:
        """Change what is given.

        Raises ForbiddenError, NotFoundError, InvalidInputError.
        """
        actor.require(Role.ADMIN)
        if url is not None:
            check_url(self._guard, url, "url")
        with self._database.transaction() as connection:
            before = _found(connection, actor, endpoint_id, lock=True)
            endpoints.change(
                connection,
                endpoint_id,
                url=before.url if url is None else url,
                events=before.events if events is None else _sorted(events),
                description=before.description if description is None else description,
            )
            after = _found(connection, actor, endpoint_id)
            # not the URLs, which may hold secrets
            fields = sorted(changes(before, after))
            _record(connection, actor, "change", endpoint_id, fields=fields)
        logger.info("webhook.changed", endpoint_id=endpoint_id)
        return after

    def pause(self, actor: Actor, endpoint_id: UUID) -> Endpoint:
        """Send nothing to an endpoint until it is resumed; what waits for it fails.

        Raises ForbiddenError, NotFoundError.
        """
        return self._set_active(actor, endpoint_id, active=False)

    def resume(self, actor: Actor, endpoint_id: UUID) -> Endpoint:
        """Send events to an endpoint again, whyever it was paused; those that it missed are not.

        Raises ForbiddenError, NotFoundError.
        """
        return self._set_active(actor, endpoint_id, active=True)

    def _set_active(self, actor: Actor, endpoint_id: UUID, *, active: bool) -> Endpoint:
        actor.require(Role.ADMIN)
        with self._database.transaction() as connection:
            found = _found(connection, actor, endpoint_id, lock=True)
            if found.active is not active:
                endpoints.set_active(connection, endpoint_id, active=active)
                if not active:
                    deliveries.give_up(connection, endpoint_id, PAUSED)
                _record(connection, actor, "resume" if active else "pause", endpoint_id)
            return _found(connection, actor, endpoint_id)

    def rotate(
        self, actor: Actor, endpoint_id: UUID, *, overlap_hours: float = DEFAULT_OVERLAP_HOURS
    ) -> NewEndpoint:
        """Give an endpoint a new secret.

        For `overlap_hours` what is sent is also signed with the one until now. Raises
        ForbiddenError, NotFoundError.
        """
        actor.require(Role.ADMIN)
        with self._database.transaction() as connection:
            _found(connection, actor, endpoint_id, lock=True)
            endpoints.rotate(connection, endpoint_id, hours=overlap_hours)
            after = _found(connection, actor, endpoint_id)
            _record(connection, actor, "rotate", endpoint_id, overlap_hours=overlap_hours)
        logger.info("webhook.rotated", endpoint_id=endpoint_id, overlap_hours=overlap_hours)
        return NewEndpoint(after, self._keys.secret(endpoint_id, after.secret_number))

    def delete(self, actor: Actor, endpoint_id: UUID) -> None:
        """Delete an endpoint; what waits for it fails. Raises ForbiddenError, NotFoundError."""
        actor.require(Role.ADMIN)
        with self._database.transaction() as connection:
            _found(connection, actor, endpoint_id, lock=True)
            endpoints.delete(connection, endpoint_id)
            deliveries.give_up(connection, endpoint_id, PAUSED)
            _record(connection, actor, "delete", endpoint_id)
        logger.info("webhook.deleted", endpoint_id=endpoint_id)

    def test(self, actor: Actor, endpoint_id: UUID) -> Delivery:
        """Send a test to an endpoint; return its delivery, which is pending.

        Raises ForbiddenError, NotFoundError, and ConflictError if the endpoint is paused.
        """
        actor.require(Role.ADMIN)
        with self._database.transaction() as connection:
            endpoint = _found(connection, actor, endpoint_id)
            _require_active(endpoint)
            delivery_id = deliveries.add(
                connection,
                endpoint_id,
                workspace_id=actor.workspace_id,
                event=TEST_EVENT,
                data={"webhook_id": str(endpoint_id), "by": actor.name},
            )
            _record(connection, actor, "test", endpoint_id)
            return _delivery(connection, actor, delivery_id).delivery

    def callback_secret(self, actor: Actor) -> str:
        """Return the secret that signs the workspace's callbacks. Raises ForbiddenError."""
        actor.require(Role.OPERATOR)
        return self._keys.secret(actor.workspace_id)

    def deliveries(
        self,
        actor: Actor,
        *,
        endpoint_id: UUID | None = None,
        execution_id: UUID | None = None,
        status: DeliveryStatus | None = None,
        cursor: str | None = None,
        limit: int = 50,
    ) -> Page[Delivery]:
        """Return a page of the workspace's deliveries, the newest first.

        Raises ForbiddenError, CursorInvalidError.
        """
        actor.require(Role.ADMIN)
        wanted = DeliveryFilter(
            workspace_id=actor.workspace_id,
            endpoint_id=endpoint_id,
            execution_id=execution_id,
            status=status,
        )
        return read_page(self._database, "deliveries", cursor, limit, partial(_find, wanted=wanted))

    def delivery(self, actor: Actor, delivery_id: UUID) -> DeliveryDetails:
        """Return a delivery with what is sent and the last answer.

        Raises ForbiddenError, NotFoundError.
        """
        actor.require(Role.ADMIN)
        with self._database.autocommit() as connection:
            return _delivery(connection, actor, delivery_id)

    def redeliver(self, actor: Actor, delivery_id: UUID) -> DeliveryDetails:
        """Send a delivery once more, now, under the same id, with all its tries.

        Raises ForbiddenError, NotFoundError, and ConflictError while it is being sent or if its
        endpoint is paused or deleted.
        """
        actor.require(Role.ADMIN)
        with self._database.transaction() as connection:
            found = _delivery(connection, actor, delivery_id).delivery
            if found.endpoint_id is not None:
                endpoint = endpoints.get(
                    connection, found.endpoint_id, workspace=actor.workspace_id
                )
                if endpoint is None:
                    raise ConflictError("The webhook of this delivery was deleted.")
                _require_active(endpoint)
            if not deliveries.send_again(connection, delivery_id):
                raise ConflictError("The delivery is being sent; look at it in a minute.")
            audit.record(
                connection,
                actor,
                "delivery.redeliver",
                [delivery_id],
                workspace_id=actor.workspace_id,
            )
            return _delivery(connection, actor, delivery_id)


def _find(
    connection: Connection, *, wanted: DeliveryFilter, before: UUID | None, limit: int
) -> list[Delivery]:
    return deliveries.find(connection, wanted, before=before, limit=limit)


def _sorted(events: Sequence[WebhookEvent]) -> list[str]:
    return sorted({each.value for each in events})


def _require_active(endpoint: Endpoint) -> None:
    if not endpoint.active:
        raise ConflictError("The webhook is paused; resume it first.")


def _found(
    connection: Connection, actor: Actor, endpoint_id: UUID, *, lock: bool = False
) -> Endpoint:
    found = endpoints.get(connection, endpoint_id, workspace=actor.workspace_id, lock=lock)
    return present(found, "webhook", endpoint_id)


def _delivery(connection: Connection, actor: Actor, delivery_id: UUID) -> DeliveryDetails:
    found = deliveries.get(connection, delivery_id, workspace=actor.workspace_id)
    return present(found, "delivery", delivery_id)


def _record(
    connection: Connection, actor: Actor, verb: str, endpoint_id: UUID, **details: JsonValue
) -> None:
    audit.record(
        connection,
        actor,
        f"webhook.{verb}",
        [endpoint_id],
        details=details,
        workspace_id=actor.workspace_id,
    )
