"""Hooks, and what was delivered to them."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from celeriac.domain.accounts import Role
from celeriac.kit.json_types import JsonObject

MOST_REFUSED = 50
"""How many refused deliveries of a hook are kept, and as many ignored ones: the last."""

DEFAULT_PER_MINUTE = 600
MAX_PER_MINUTE = 60_000


class Verification(StrEnum):
    """How a hook knows that a request is from its sender."""

    STANDARD = "standard"
    """Signatures of the Standard Webhooks specification."""
    GITHUB = "github"
    """`X-Hub-Signature-256`."""
    STRIPE = "stripe"
    """`Stripe-Signature` with `t` and `v1`."""
    BEARER = "bearer"
    """The secret itself, as `Authorization: Bearer …`, from senders that can't sign."""


class HookDeliveryStatus(StrEnum):
    """What became of a request to a hook."""

    ACCEPTED = "accepted"
    """It has started an execution or a run."""
    IGNORED = "ignored"
    """It was genuine, and the hook's condition did not hold."""
    REFUSED = "refused"
    """It has started nothing; `reason` says why."""


class Refusal(StrEnum):
    """Why a request is not genuine; for one that is, the reason is the code of the error."""

    NOT_SIGNED = "not_signed"
    """A header of the signature is missing, or has another form."""
    SIGNATURE_WRONG = "signature_wrong"
    TOO_OLD = "too_old"
    """The signature is right, but its time is not near enough."""


@dataclass(frozen=True, slots=True)
class Hook:
    """A URL whose requests start executions of a task, or runs of a workflow."""

    id: UUID
    workspace_id: UUID
    owner_id: UUID
    """Who has made it, and with whose rights it acts."""
    name: str | None
    """Unique in its workspace."""
    task_id: UUID | None
    task_name: str | None
    workflow_id: UUID | None
    """Exactly one of the two is given."""
    workflow_name: str | None
    description: str
    verification: Verification
    mapping: JsonObject | None
    """The variables, or the run's input, with `${{ }}`; None: the body is taken as it is."""
    when: str | None
    """An expression; requests for which it is false are ignored."""
    per_minute: int
    active: bool
    secret_number: int
    """How many secrets it has had."""
    given_secret: bool
    """Whether the secret was given, and not made here."""
    previous_until: datetime | None
    """Until when the secret before the last rotation is valid, too."""
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class StoredSecret:
    """A secret of a hook, as it is stored."""

    number: int
    sealed: bytes | None
    """None: it is derived from the hook's id and the number."""


@dataclass(frozen=True, slots=True)
class CalledHook:
    """A hook that is called, and what its answer depends on."""

    hook: Hook
    secrets: tuple[StoredSecret, ...]
    """The valid ones, the current first."""
    owner_name: str | None
    owner_disabled: bool
    owner_role: Role | None
    """In the hook's workspace; None if its maker is no member."""
    now: float
    """Seconds since 1970, by the clock of the database."""


@dataclass(frozen=True, slots=True)
class HookDelivery:
    """A request to a hook."""

    id: UUID
    hook_id: UUID
    status: HookDeliveryStatus
    reason: str | None
    """Why it was refused, for programs."""
    message: str | None
    """The same for people."""
    verified: bool
    """Whether its signature, or its secret, was right."""
    delivery_id: str | None
    """What the sender calls it."""
    size: int
    execution_id: UUID | None
    run_id: UUID | None
    received_at: datetime
