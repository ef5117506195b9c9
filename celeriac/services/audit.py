"""The audit trail: recording access, sealing, listing and verification."""

import hmac
import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from uuid import UUID

import structlog

from celeriac.db import accounts, audit, owners
from celeriac.db.audit import Mark, Program
from celeriac.db.engine import Connection, Database
from celeriac.domain.accounts import Actor
from celeriac.domain.audit import NO_SEAL, Seal, Sealer
from celeriac.domain.errors import InvalidInputError, UnavailableError
from celeriac.kit.outbound import network_of

logger = structlog.get_logger(__name__)

_ENTRIES_PER_SEAL = 1_000
_SEALS_PER_ROUND = 100
_SEALS_PER_PAGE = 100


@dataclass(frozen=True, slots=True)
class BrokenSeal:
    """A broken seal: it, or entries between its positions, were changed."""

    first_position: int
    last_position: int
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """The result of checking a part of the trail.

    `last_position` and `head` (hexadecimal) are the last seal that was checked. Stored elsewhere,
    they show later whether the end of the trail was cut off.
    """

    entries: int
    seals: int
    start: str
    """The seal before the first one that was checked, in hexadecimal."""
    last_position: int
    head: str
    faults: list[BrokenSeal]
    complete: bool
    """Whether there is no seal after `last_position`."""

    @property
    def ok(self) -> bool:
        """Whether the checked part has no fault."""
        return not self.faults


class AuditTrail:
    """Seals, verifies and expires the trail. Used by one thread at a time."""

    def __init__(self, database: Database, secret_key: str) -> None:
        """Work on `database`; seals are made with a key that is derived from `secret_key`."""
        self._database = database
        self._sealer = Sealer(secret_key)
        self._mark: Mark | None = None

    def seal(self) -> int:
        """Seal the entries of transactions that have ended; return how many entries were sealed.

        Positions are assigned before their transactions end. So this remembers the highest one, and
        seals up to it in a later call, when all transactions that may have a lower one have ended.
        """
        with self._database.autocommit() as connection:
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

        A check from 0 also detects a missing beginning. To check the whole trail, call it again
        with `after=last_position` until `complete`. Raises InvalidInputError if no seal ends at
        `after`.
        """
        with self._database.transaction() as connection:
            audit.read_one_snapshot(connection)  # retention may remove entries meanwhile
            faults: list[BrokenSeal] = []
            if after == 0:
                start, faults = self._beginning(connection)
            else:
                start = _end_at(connection, after)
            found = audit.seals_after(connection, start.position, limit=seals + 1)
            last, entries = start, 0
            for stored in found[:seals]:
                if message := self._fault(connection, stored, last):
                    faults.append(BrokenSeal(stored.first_position, stored.last_position, message))
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
        """Delete the entries of up to `limit` seals older than `days`; return how many.

        An entry records the last deleted seal, so that the next one can still be checked.
        """
        with self._database.transaction() as connection:
            if not audit.sealing_alone(connection):
                return 0
            gone = audit.delete_sealed(connection, seconds=days * 86_400, limit=limit)
            if gone is None:
                return 0
            details = {
                "entries": gone.entries,
                "position": gone.position,
                "seal": gone.seal.hex(),
                "mac": self._sealer.expiry_mac(gone.position, gone.seal),
            }
            audit.record(
                connection,
                Program("keeper"),
                "audit_log.expire",
                [audit.RETENTION],
                details=details,
            )
        return gone.entries

    def _fault(self, connection: Connection, stored: Seal, last: "_End") -> str | None:
        entries = audit.between(connection, stored.first_position, stored.last_position)
        if stored.first_position != last.position + 1:
            return f"begins at {stored.first_position}, not at {last.position + 1}"
        return self._sealer.fault(stored, entries, previous=last.seal)

    def _beginning(self, connection: Connection) -> tuple["_End", list[BrokenSeal]]:
        """Return where the trail begins: at 0, or after what retention has deleted."""
        entry = audit.last_expiry(connection)
        if entry is None:
            return _End(0, NO_SEAL), []
        position, seal = int(entry.details["position"]), bytes.fromhex(entry.details["seal"])
        mac = self._sealer.expiry_mac(position, seal)
        if hmac.compare_digest(mac, str(entry.details["mac"])):
            return _End(position, seal), []
        message = "the entry about the removal of old entries was not made by this installation"
        return _End(position, seal), [BrokenSeal(entry.position, entry.position, message)]


@dataclass(frozen=True, slots=True)
class _End:
    """The last position of a seal, and its value."""

    position: int
    seal: bytes


def _end_at(connection: Connection, position: int) -> _End:
    stored = audit.seals_after(connection, position - 1, limit=1)
    if not stored or stored[0].last_position != position:
        raise InvalidInputError(
            "after must be 0, or `last_position` of an earlier check.", field="after"
        )
    return _End(position, stored[0].seal)


_WINDOW_SECONDS = 60.0
_MOST_WINDOWS = 10_000
_MOST_WAITING = 1_000
_FLUSH_SECONDS = 10.0
_CLOSE_SECONDS = 5.0
ANONYMOUS = "anonymous"
_Key = tuple[str, ...]


@dataclass(slots=True)
class _Window:
    """Accesses of one kind within a minute, of which `repeats` are not written yet."""

    until: float
    write: Callable[[int], None]
    repeats: int = 0


class AccessRecords:
    """Writes audit entries about access. Safe to share between threads.

    Refusals are written by a thread of its own, so that requests without a key don't delay others.
    """

    def __init__(self, database: Database) -> None:
        """Write to `database`; the thread starts with the first entry."""
        self._database = database
        self._lock = threading.Lock()
        self._windows: dict[_Key, _Window] = {}
        self._first: queue.Queue[_Window | None] = queue.Queue(_MOST_WAITING)
        self._thread: threading.Thread | None = None

    def refused(
        self,
        actor: Actor | None,
        *,
        code: str,
        method: str,
        operation: str,
        request_id: str | None,
        address: str,
    ) -> None:
        """Record that a request was refused with the problem `code`; never waits.

        `operation` is the operation's id in the OpenAPI description. Without an actor the entry
        names only the client's network: its IPv4 address, or the first half of an IPv6 address.
        """
        network = network_of(address)
        details = {"code": code, "method": method, "address": network}

        by = actor or Program(ANONYMOUS, request_id)
        write = self._writer(by, "request.refuse", operation, details, resource_type="operation")
        window = self._open((by.name, network, code, operation), write)
        if window is not None:
            try:
                self._first.put_nowait(window)
            except queue.Full:
                self._count(window)

    def admin_read(
        self, actor: Actor, resource_type: str, resource_id: UUID | None, operation: str
    ) -> None:
        """Record that an administrator reads about another user, before it is shown.

        `resource_id` is None for lists, which are about all users. Raises DatabaseUnavailableError:
        what can't be recorded is not shown.
        """
        key = (actor.name, operation, str(resource_id))
        if self._repeats(key):
            return
        with self._database.autocommit() as connection:
            # no workspace's admins see what is read about users, whichever the request names
            reader = accounts.user(connection, actor.user_id)
            owner = None
            if resource_id is not None:
                owner = owners.owner_of(connection, resource_type, resource_id)
                others = owner not in {None, actor.user_id}
            else:
                others = owners.has_others(connection, actor.user_id)
        if not others:
            return
        details = {"operation": operation, **({"owner_id": str(owner)} if owner else {})}

        action = f"{resource_type}.{'list' if resource_id is None else 'read'}"
        write = self._writer(
            actor,
            action,
            "*" if resource_id is None else resource_id,
            details,
            workspace_id=None if reader is None else reader.workspace_id,
        )
        window = self._open(key, write)
        if window is not None:
            try:
                window.write(0)
            except UnavailableError:
                self._count(window)
                raise

    def _writer(
        self,
        by: Actor | Program,
        action: str,
        resource_id: UUID | str,
        details: dict[str, str],
        *,
        resource_type: str | None = None,
        workspace_id: UUID | None = None,
    ) -> Callable[[int], None]:
        """Return a function that writes an entry with its number of repeats."""

        def write(repeats: int) -> None:
            counted = {**details, "repeats": repeats} if repeats else details
            with self._database.autocommit() as connection:
                audit.record(
                    connection,
                    by,
                    action,
                    [resource_id],
                    details=counted,
                    resource_type=resource_type,
                    workspace_id=workspace_id,
                )

        return write

    def flush(self, *, everything: bool = False) -> None:
        """Write the repeats of past minutes, or of all; stops if the database is unavailable."""
        now = time.monotonic()
        with self._lock:
            over = [key for key, each in self._windows.items() if everything or each.until <= now]
        for key in over:
            with self._lock:
                window = self._windows.pop(key, None)
            if window is None or not window.repeats:
                continue
            try:
                window.write(window.repeats)
            except UnavailableError as error:
                logger.warning("audit.access_not_recorded_yet", error=error.message)
                with self._lock:
                    self._windows.setdefault(key, window)
                return

    def close(self) -> None:
        """Write what is not written yet, within some seconds."""
        with self._lock:
            thread, self._thread = self._thread, None
        if thread is not None:
            self._first.put(None)
            thread.join(_CLOSE_SECONDS)

    def _repeats(self, key: _Key) -> bool:
        """Count a repeat; False if no window is open for `key`."""
        with self._lock:
            window = self._windows.get(key)
            if window is None or window.until <= time.monotonic():
                return False
            window.repeats += 1
            return True

    def _open(self, key: _Key, write: Callable[[int], None]) -> _Window | None:
        """Return a new window, whose first access must be written; None for a repeat."""
        with self._lock:
            earlier = self._windows.get(key)
            if earlier is not None and earlier.until > time.monotonic():
                earlier.repeats += 1
                return None
            full = earlier is None and len(self._windows) >= _MOST_WINDOWS
            if full:
                oldest = next(iter(self._windows))
                logger.warning(
                    "audit.accesses_forgotten", repeats=self._windows.pop(oldest).repeats
                )
            window = _Window(time.monotonic() + _WINDOW_SECONDS, write)
            if earlier is not None:
                window.repeats = earlier.repeats
            self._windows[key] = window
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="access-records", daemon=True
                )
                self._thread.start()
        return window

    def _count(self, window: _Window) -> None:
        """Count an access that could not be written as a repeat."""
        with self._lock:
            window.repeats += 1

    def _run(self) -> None:
        flushed = time.monotonic()
        while True:
            with suppress(queue.Empty):
                window = self._first.get(timeout=_FLUSH_SECONDS)
                if window is None:
                    break
                self._write_first(window)
            if time.monotonic() - flushed >= _FLUSH_SECONDS:
                self._log_errors(self.flush)
                flushed = time.monotonic()
        self._log_errors(lambda: self.flush(everything=True))

    def _write_first(self, window: _Window) -> None:
        try:
            window.write(0)
        except UnavailableError as error:
            self._count(window)
            logger.warning("audit.refusal_not_recorded_yet", error=error.message)
        except Exception:
            logger.exception("audit.refusal_not_recorded")

    def _log_errors(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception:
            logger.exception("audit.access_not_recorded")
