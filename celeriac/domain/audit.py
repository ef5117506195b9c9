"""The audit trail: its entries, and the seals that show whether they were changed.

Entries have positions in the order in which they were written. A seal covers the entries of a range
of positions: a SHA-256 digest over them, and an HMAC-SHA256 over that digest and the seal before
it, with a key derived from the installation's secret. Someone who can write to the database but
does not have the secret can't change, remove, insert or move an entry without breaking a seal.
"""

import hashlib
import hmac
from collections.abc import Iterable
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from uuid import UUID

from pydantic import BaseModel

from celeriac.kit.json_types import JsonObject, JsonValue, canonical
from celeriac.kit.words import counted

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

NO_SEAL = bytes(32)
"""The value of `previous` in the first seal."""

_MOST_SHOWN = 200
_PURPOSE = b"celeriac/audit-seal/1"


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One entry of the audit trail."""

    id: UUID
    at: datetime
    workspace_id: UUID | None
    """The actor's; None for programs."""
    actor_id: UUID | None
    actor: str
    action: str
    resource_type: str
    resource_id: str
    request_id: str | None
    details: JsonObject
    position: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Seal:
    """A seal as it is stored; all positions are inclusive."""

    first_position: int
    last_position: int
    entries: int
    digest: bytes
    previous: bytes
    seal: bytes
    key_hash: str
    """Identifies the key: the first 16 hexadecimal digits of its SHA-256."""


class Sealer:
    """Makes and checks seals with a key that is derived from `secret_key`."""

    def __init__(self, secret_key: str) -> None:
        self._key = hmac.new(secret_key.encode(), _PURPOSE, hashlib.sha256).digest()
        self.key_hash = hashlib.sha256(self._key).hexdigest()[:16]

    def seal(
        self, entries: Iterable[AuditEntry], *, first: int, last: int, previous: bytes
    ) -> Seal:
        """Return the seal of the entries at the positions `first` to `last`, in their order."""
        digest = hashlib.sha256()
        count = 0
        for entry in entries:
            digest.update(_encoded(entry))
            count += 1
        return Seal(
            first_position=first,
            last_position=last,
            entries=count,
            digest=digest.digest(),
            previous=previous,
            seal=self._mac(first, last, count, digest.digest(), previous),
            key_hash=self.key_hash,
        )

    def fault(self, stored: Seal, entries: Iterable[AuditEntry], *, previous: bytes) -> str | None:
        """Return the fault of a seal or of its entries, or None."""
        if stored.key_hash != self.key_hash:
            return "was made with another secret key"
        if not hmac.compare_digest(stored.previous, previous):
            return "does not follow the seal before it"
        expected = self._mac(
            stored.first_position,
            stored.last_position,
            stored.entries,
            stored.digest,
            stored.previous,
        )
        if not hmac.compare_digest(stored.seal, expected):
            return "was not made by this installation, or was changed"
        found = self.seal(
            entries, first=stored.first_position, last=stored.last_position, previous=previous
        )
        if found.entries != stored.entries:
            return (
                f"covers {counted(stored.entries, 'entry', 'entries')}, but {found.entries} found"
            )
        if not hmac.compare_digest(found.digest, stored.digest):
            return "covers entries that were changed"
        return None

    def expiry_mac(self, position: int, seal: bytes) -> str:
        """Return the proof that retention removed the seals up to `position` and `seal`."""
        content = b"expired %d " % position + seal
        return hmac.new(self._key, content, hashlib.sha256).hexdigest()

    def _mac(self, first: int, last: int, count: int, digest: bytes, previous: bytes) -> bytes:
        content = b"%d %d %d " % (first, last, count) + digest + previous
        return hmac.new(self._key, content, hashlib.sha256).digest()


def changes(before: "DataclassInstance", after: "DataclassInstance") -> JsonObject:
    """Return which fields differ, for the details of an entry.

    Values are given as `{"before": …, "after": …}`, shortened. Of a specification only the names
    of the changed fields are given, because all its versions are kept.
    """
    details: dict[str, JsonValue] = {}
    for field in fields(before):
        old, new = getattr(before, field.name), getattr(after, field.name)
        if old == new or field.name == "updated_at":
            continue
        if isinstance(old, BaseModel) and isinstance(new, BaseModel):
            one, other = old.model_dump(mode="json"), new.model_dump(mode="json")
            names = sorted(one.keys() | other.keys())
            details[field.name] = [name for name in names if one.get(name) != other.get(name)]
        else:
            details[field.name] = {"before": _shown(old), "after": _shown(new)}
    return details


def _shown(value: object) -> JsonValue:
    if value is None or isinstance(value, bool | int):
        return value
    return str(value)[:_MOST_SHOWN]


def _encoded(entry: AuditEntry) -> bytes:
    """Return the canonical bytes of an entry."""
    fields = [
        entry.position,
        str(entry.id),
        entry.at.astimezone(UTC).isoformat(timespec="microseconds"),
        None if entry.workspace_id is None else str(entry.workspace_id),
        None if entry.actor_id is None else str(entry.actor_id),
        entry.actor,
        entry.action,
        entry.resource_type,
        entry.resource_id,
        entry.request_id,
        entry.details,
    ]
    return canonical(fields) + b"\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditFilter:
    """The entries to list; None means all."""

    workspace_id: UUID | None = None
    actor_id: UUID | None = None
    action: str | None = None
    resource_type: str | None = None
    resource_id: str | None = None
