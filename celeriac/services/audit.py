"""The audit trail: sealing its entries, checking the seals, removing what is old.

Entries are written by the services that make the changes. `domain.audit` says what a seal proves.
"""

import hmac
from dataclasses import dataclass

import structlog
from sqlalchemy import Connection

from celeriac.db import audit
from celeriac.db.audit import Mark
from celeriac.db.engine import Database
from celeriac.domain.audit import NO_SEAL, Seal, Sealer
from celeriac.domain.errors import InvalidInputError

logger = structlog.get_logger(__name__)

_ENTRIES_PER_SEAL = 1_000
_SEALS_PER_ROUND = 100
_SEALS_PER_PAGE = 100


@dataclass(frozen=True, slots=True)
class Fault:
    """A seal that does not hold: entries between its positions were changed, or it was."""

    first_position: int
    last_position: int
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What a check of a part of the trail found; `ok` if there is no fault.

    `last_position` and `head` (hexadecimal) are the last seal that was checked. Kept elsewhere,
    they show later whether the end of the trail was cut off.
    """

    entries: int
    seals: int
    start: str
    """The seal before the first one that was checked, in hexadecimal."""
    last_position: int
    head: str
    faults: list[Fault]
    complete: bool
    """Whether there is no seal after `last_position`."""

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong with the part that was checked."""
        return not self.faults


class AuditTrail:
    """Seals, checks and shortens the trail. Used by one thread at a time."""

    def __init__(self, database: Database, secret_key: str) -> None:
        """Work on `database`; seals are made with a key that is derived from `secret_key`."""
        self._database = database
        self._sealer = Sealer(secret_key)
        self._mark: Mark | None = None

    def seal(self) -> int:
        """Seal the entries of transactions that have ended; return how many entries were sealed.

        Positions are handed out before their transactions end. So this notes the highest one, and
        seals up to it in a later round, when all transactions that may have a lower one are over.
        """
        with self._database.statement() as connection:
            ready = self._mark
            if ready is not None and not audit.settled(connection, ready):
                return 0
            self._mark = audit.mark(connection)
        if ready is None:
            return 0
        total = 0
        for _ in range(_SEALS_PER_ROUND):
            sealed = self._seal_batch(ready.position)
            total += sealed
            if sealed < _ENTRIES_PER_SEAL:
                break
        return total

    def _seal_batch(self, until: int) -> int:
        with self._database.transaction() as connection:
            if not audit.sealing_alone(connection):
                return 0
            last = audit.last_seal(connection)
            after, previous = (last.last_position, last.seal) if last else (0, NO_SEAL)
            end = audit.batch_end(connection, after, until, limit=_ENTRIES_PER_SEAL)
            if end is None:
                return 0
            entries = audit.between(connection, after + 1, end)
            seal = self._sealer.seal(entries, first=after + 1, last=end, previous=previous)
            audit.add_seal(connection, seal)
        logger.info("audit.sealed", last_position=end, entries=seal.entries, seal=seal.seal.hex())
        return seal.entries

    def verify(self, *, after: int = 0, seals: int = _SEALS_PER_PAGE) -> Verification:
        """Check up to `seals` seals that end above the position `after`, and their entries.

        A check from 0 also finds whether the beginning of the trail is missing. To check the whole
        trail, call it again with `after=last_position` until `complete`. Raises InvalidInputError
        where no seal ends at `after`.
        """
        with self._database.transaction() as connection:
            audit.read_one_snapshot(connection)  # retention may remove entries meanwhile
            faults: list[Fault] = []
            if after == 0:
                start, faults = self._beginning(connection)
            else:
                start = _end_at(connection, after)
            found = audit.seals_after(connection, start.position, limit=seals + 1)
            last, entries = start, 0
            for stored in found[:seals]:
                if message := self._fault(connection, stored, last):
                    faults.append(Fault(stored.first_position, stored.last_position, message))
                entries += stored.entries
                last = _End(stored.last_position, stored.seal)
        return Verification(
            entries=entries,
            seals=len(found[:seals]),
            start=start.seal.hex(),
            last_position=last.position,
            head=last.seal.hex(),
            faults=faults,
            complete=len(found) <= seals,
        )

    def expire(self, *, days: float, limit: int) -> int:
        """Remove the entries under up to `limit` seals older than `days`; return how many.

        An entry names the last seal that was removed, so that the next one can still be checked.
        """
        with self._database.transaction() as connection:
            if not audit.sealing_alone(connection):
                return 0
            gone = audit.delete_sealed(connection, seconds=days * 86_400, limit=limit)
            if gone is None:
                return 0
            audit.by_program(
                connection,
                "keeper",
                "audit_log.expire",
                "audit_log",
                audit.RETENTION,
                request_id=None,
                details={
                    "entries": gone.entries,
                    "position": gone.position,
                    "seal": gone.seal.hex(),
                    "mac": self._sealer.expiry_mac(gone.position, gone.seal),
                },
            )
        return gone.entries

    def _fault(self, connection: Connection, stored: Seal, last: "_End") -> str | None:
        entries = audit.between(connection, stored.first_position, stored.last_position)
        if stored.first_position != last.position + 1:
            return f"begins at {stored.first_position}, not at {last.position + 1}"
        return self._sealer.fault(stored, entries, previous=last.seal)

    def _beginning(self, connection: Connection) -> tuple["_End", list[Fault]]:
        """Return where the trail begins: at 0, or behind what retention has removed."""
        entry = audit.last_expiry(connection)
        if entry is None:
            return _End(0, NO_SEAL), []
        position, seal = int(entry.details["position"]), bytes.fromhex(entry.details["seal"])
        mac = self._sealer.expiry_mac(position, seal)
        if hmac.compare_digest(mac, str(entry.details["mac"])):
            return _End(position, seal), []
        message = "the entry about the removal of old entries was not made by this installation"
        return _End(position, seal), [Fault(entry.position, entry.position, message)]


@dataclass(frozen=True, slots=True)
class _End:
    """Where a seal ends, and its value."""

    position: int
    seal: bytes


def _end_at(connection: Connection, position: int) -> _End:
    stored = audit.seals_after(connection, position - 1, limit=1)
    if not stored or stored[0].last_position != position:
        raise InvalidInputError(
            "after must be 0, or `last_position` of an earlier check.", field="after"
        )
    return _End(position, stored[0].seal)
