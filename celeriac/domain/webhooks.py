"""Webhooks: events, endpoints, signatures, and when a delivery is sent again.

Signatures are those of the Standard Webhooks specification.
"""

import base64
import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from celeriac.kit.json_types import JsonObject

_PURPOSE = b"celeriac/webhook/1"
_SECRET_PREFIX = "whsec_"  # noqa: S105 - what secrets begin with

RETRY_SECONDS = (5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400)
"""The pauses after the first attempts; the delivery has failed if the one after the last fails."""

_NUMBER_BYTES = 4

MAX_OVERLAP_HOURS = 168
"""The longest time in which two secrets sign."""

DEFAULT_OVERLAP_HOURS = 24

FAILING_DAYS = 5
"""An endpoint is paused when nothing was delivered for so many days, although it was tried."""

_GONE = 410


class WebhookEvent(StrEnum):
    """The events that can be sent."""

    EXECUTION_COMPLETED = "execution.completed"
    EXECUTION_FAILED = "execution.failed"
    EXECUTION_CANCELLED = "execution.cancelled"
    APPROVAL_ASKED = "approval.asked"
    BUDGET_SPENT = "budget.spent"
    SCHEDULE_LATE = "schedule.late"
    WORKFLOW_COMPLETED = "workflow.completed"
    WORKFLOW_FAILED = "workflow.failed"
    WORKFLOW_CANCELLED = "workflow.cancelled"


TEST_EVENT = "webhook.test"
"""What a test sends, whatever the events of the endpoint are."""


class DeliveryStatus(StrEnum):
    """Whether a delivery has arrived."""

    PENDING = "pending"
    """It was not sent yet, or is sent again later."""
    DELIVERED = "delivered"
    """The receiver has answered with 2xx."""
    FAILED = "failed"
    """It is not sent again, unless somebody asks for it."""


class PausedReason(StrEnum):
    """Why an endpoint is paused."""

    REQUESTED = "requested"
    """Somebody has paused it."""
    GONE = "gone"
    """It has answered with 410."""
    FAILING = "failing"
    """Nothing could be delivered for days."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a workspace has its events sent."""

    id: UUID
    workspace_id: UUID
    owner_id: UUID
    url: str
    events: list[str]
    description: str
    active: bool
    paused_reason: PausedReason | None
    failing_since: datetime | None
    """When the first attempt failed since the last that was successful."""
    secret_number: int
    """How many secrets it has had."""
    previous_until: datetime | None
    """Until when what is sent is also signed with the secret before the last rotation."""
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class Delivery:
    """An event that is sent to one endpoint or callback, and its last attempt."""

    id: UUID
    """Also that of the message: the receiver's `webhook-id`, the same in every attempt."""
    workspace_id: UUID
    endpoint_id: UUID | None
    """None for a callback."""
    url: str | None
    """That of a callback, or now of the endpoint."""
    event: str
    execution_id: UUID | None
    run_id: UUID | None
    approval_id: UUID | None
    status: DeliveryStatus
    attempts: int
    created_at: datetime
    available_at: datetime
    """When it is sent, if it is pending; during an attempt, when that counts as lost."""
    attempted_at: datetime | None
    delivered_at: datetime | None
    status_code: int | None
    error: str | None
    duration_ms: int | None


@dataclass(frozen=True, slots=True)
class DeliveryDetails:
    """A delivery with its texts."""

    delivery: Delivery
    body: str | None
    """What is sent; None before the first attempt."""
    answer: str | None
    """The beginning of the last answer, secrets masked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryFilter:
    """The deliveries to list; None means all."""

    workspace_id: UUID
    endpoint_id: UUID | None = None
    execution_id: UUID | None = None
    status: DeliveryStatus | None = None


@dataclass(frozen=True, slots=True)
class Reception:
    """What became of one attempt to send."""

    status_code: int | None
    """None without an answer."""
    error: str | None
    """None if it was accepted."""
    answer: str = ""
    seconds: float = 0.0
    refused: bool = False
    """Whether its target is not allowed: sending again would not help."""

    @property
    def gone(self) -> bool:
        """Whether the receiver wants no more deliveries."""
        return self.status_code == _GONE


def next_pause(tries: int, reception: Reception) -> float | None:
    """Return the seconds after which a delivery is sent again, None if it isn't.

    `tries` are those made so far. A target that is not allowed, and an answer 410, are final. All
    other failures may pass: a receiver that is being deployed answers 404, or 401.
    """
    if reception.refused or reception.gone or tries > len(RETRY_SECONDS):
        return None
    return float(RETRY_SECONDS[max(tries, 1) - 1])


class SigningKeys:
    """The keys of signatures: derived from the installation's secret, and stored nowhere."""

    def __init__(self, secret_key: str) -> None:
        self._key = hmac.new(secret_key.encode(), _PURPOSE, hashlib.sha256).digest()

    def secret(self, owner: UUID, number: int = 1) -> str:
        """Return a secret of an endpoint, or that of a workspace's callbacks: `whsec_…`.

        Each rotation of an endpoint's secret gives the next number.
        """
        name = owner.bytes if number == 1 else owner.bytes + number.to_bytes(_NUMBER_BYTES)
        digest = hmac.new(self._key, name, hashlib.sha256).digest()
        return _SECRET_PREFIX + base64.b64encode(digest).decode()


def signature(secret: str, message_id: str, at: int, body: bytes) -> str:
    """Return the signature of a body that is sent at the Unix time `at`: `v1,…`.

    `secret` is base64, with or without `whsec_`. Raises ValueError if it is not.
    """
    key = base64.b64decode(secret.removeprefix(_SECRET_PREFIX), validate=True)
    signed = f"{message_id}.{at}.".encode() + body
    return "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()


def signed_headers(secrets: Sequence[str], message_id: str, at: int, body: bytes) -> dict[str, str]:
    """Return the headers of a message that is sent at the Unix time `at`.

    It has a signature with each of `secrets`; receivers accept it if one of them is right.
    """
    return {
        "content-type": "application/json",
        "webhook-id": message_id,
        "webhook-timestamp": str(at),
        "webhook-signature": " ".join(signature(each, message_id, at, body) for each in secrets),
    }


@dataclass(frozen=True, slots=True)
class Due:
    """A delivery that a sender has claimed."""

    id: UUID
    token: UUID
    """Of the claim. Nothing is recorded with the token of an earlier one."""
    workspace_id: UUID
    lane: UUID
    endpoint_id: UUID | None
    url: str | None
    """None if its endpoint is gone or paused."""
    event: str
    execution_id: UUID | None
    run_id: UUID | None
    approval_id: UUID | None
    data: JsonObject | None
    body: str | None
    tries: int
    created_at: datetime
    secret_number: int | None
    """Of its endpoint."""
    overlaps: bool | None
    """Whether the secret before that signs, too."""

    @property
    def secret_numbers(self) -> list[int]:
        """The numbers of the secrets that sign it, the newest first."""
        newest = self.secret_number or 1
        return [newest, newest - 1] if self.overlaps and newest > 1 else [newest]
