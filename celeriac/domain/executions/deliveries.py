"""Deliveries to hooks that are stored with the execution or run that they start."""

from dataclasses import dataclass
from uuid import UUID


@dataclass(frozen=True, slots=True)
class DeliveryKeys:
    """What names a delivery to a hook: of two that share one of these, the second is a repeat."""

    name: str | None
    """What the sender calls it: such as its `webhook-id`."""
    digest: str | None = None
    """Of the body, where the signature covers neither a name nor a time."""


@dataclass(frozen=True, slots=True)
class NewHookDelivery:
    """A delivery that is stored together with what it starts."""

    hook_id: UUID
    workspace_id: UUID
    keys: DeliveryKeys
    size: int
    """Bytes of the body."""
