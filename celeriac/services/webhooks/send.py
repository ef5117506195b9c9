"""The sender of deliveries to webhooks. Any number of processes may run one."""

import queue
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from uuid import UUID

import structlog

from celeriac import traces
from celeriac.db import audit
from celeriac.db.audit import Program
from celeriac.db.engine import Connection, Database
from celeriac.db.webhooks import deliveries, endpoints
from celeriac.domain.webhooks import (
    DeliveryStatus,
    Due,
    PausedReason,
    Reception,
    SigningKeys,
    next_pause,
    signed_headers,
)
from celeriac.kit.backoff import jittered
from celeriac.services.webhooks.messages import Messages

logger = structlog.get_logger(__name__)

SLOTS = 64
"""How many deliveries one sender sends at once."""

_FAILING_SLOTS = SLOTS // 2
"""How many of them may be to lanes whose last attempt failed."""

_MOST_KNOWN = 10_000
_LOOK_SECONDS = 0.25
_BY = Program("webhooks")

PAUSED = "The webhook is paused or was deleted."


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One request to send."""

    url: str
    body: bytes
    headers: Mapping[str, str]


Post = Callable[[Outgoing, Callable[[Reception], None]], None]
"""Starts to send a request and returns at once. Calls back, from any thread, within a bounded time
that is shorter than a claim lasts."""


class Sender:
    """Sends what is due: claims it, signs it, and stores what became of it.

    A delivery whose sender ends in between is sent again after a minute, with the same id.
    """

    def __init__(
        self, database: Database, keys: SigningKeys, messages: Messages, post: Post
    ) -> None:
        self._database = database
        self._keys = keys
        self._messages = messages
        self._post = post
        self._under_way: dict[UUID, UUID] = {}
        """The lanes of what is being sent, by the tokens of the claims."""
        self._results: queue.SimpleQueue[tuple[Due, Reception]] = queue.SimpleQueue()
        self._unstored: tuple[Due, Reception] | None = None
        self._failing: set[UUID] = set()
        """Lanes whose last attempt failed."""
        self._stopping = threading.Event()

    def stop(self) -> None:
        """Send no more; `send_due` returns when what is under way has ended."""
        self._stopping.set()

    def send_due(self) -> int:
        """Send until nothing is due or under way; return how many attempts were made.

        Raises DatabaseUnavailableError; what was sent then is stored by the next call.
        """
        made = 0
        while True:
            if not self._stopping.is_set():
                made += self._begin()
            if not self._under_way:
                return made
            self._store_results()

    def _begin(self) -> int:
        """Claim what is due and start to send it; return how much that is."""
        free = SLOTS - len(self._under_way)
        if free <= 0:
            return 0
        failing = sum(lane in self._failing for lane in self._under_way.values())
        with self._database.transaction() as connection:
            if not deliveries.claiming_alone(connection):
                return 0
            claimed = deliveries.claim(
                connection,
                limit=free,
                failing=list(self._failing),
                most_failing=max(0, _FAILING_SLOTS - failing),
            )
        if not claimed:
            return 0
        with self._database.autocommit() as connection:
            bodies = self._messages.of(connection, claimed)
            deliveries.keep_bodies(connection, bodies)
        for due in claimed:
            self._send(due, due.body if due.body is not None else bodies[due.id])
        return len(claimed)

    def _send(self, due: Due, text: str) -> None:
        self._under_way[due.token] = due.lane
        if due.url is None:
            self._results.put((due, Reception(None, PAUSED, refused=True)))
            return
        body = text.encode()
        owner = due.endpoint_id or due.workspace_id
        secrets = [self._keys.secret(owner, number) for number in due.secret_numbers]
        headers = signed_headers(secrets, str(due.id), int(time.time()), body)
        span = traces.begin(
            "send webhook",
            "client",
            delivery_id=due.id,
            endpoint_id=due.endpoint_id,
            tries=due.tries,
        )

        def received(reception: Reception) -> None:
            span.note(**{"http.response.status_code": reception.status_code})
            if reception.error is not None:
                span.fails(str(reception.status_code or "not_delivered"))
            span.end()
            self._results.put((due, reception))

        try:
            self._post(Outgoing(due.url, body, headers), received)
        except BaseException:  # no thread can be started, say: it is sent after its claim
            del self._under_way[due.token]
            raise

    def _store_results(self) -> None:
        """Wait a moment for results, and store all there are."""
        try:
            due, reception = self._unstored or self._results.get(timeout=_LOOK_SECONDS)
            while True:
                # kept if the database fails
                self._unstored = due, reception
                self._store(due, reception)
                self._unstored = None
                del self._under_way[due.token]
                due, reception = self._results.get_nowait()
        except queue.Empty:
            return

    def _store(self, due: Due, reception: Reception) -> None:
        pause = None if reception.error is None else next_pause(due.tries, reception)
        with self._database.transaction() as connection:
            status = deliveries.record(
                connection, due, reception, pause=None if pause is None else jittered(pause)
            )
            if status is None:
                logger.warning("webhook.claim_lost", delivery_id=due.id)
                return
            paused = self._note(connection, due, reception)
        if reception.error is None:
            self._failing.discard(due.lane)
            logger.debug("webhook.delivered", delivery_id=due.id)
            return
        if due.url is not None:
            if len(self._failing) >= _MOST_KNOWN:
                self._failing.clear()
            self._failing.add(due.lane)
        # without the URL, which may hold secrets
        logger.warning(
            "webhook.failed" if status is DeliveryStatus.FAILED else "webhook.not_delivered",
            delivery_id=due.id,
            endpoint_id=due.endpoint_id,
            status_code=reception.status_code,
            error=reception.error,
            tries=due.tries,
        )
        if paused is not None:
            logger.error("webhook.paused", endpoint_id=due.endpoint_id, reason=paused.value)

    def _note(self, connection: Connection, due: Due, reception: Reception) -> PausedReason | None:
        """Note on the endpoint what became of an attempt; return why that pauses it."""
        endpoint_id = due.endpoint_id
        if endpoint_id is None or due.url is None:
            return None
        if reception.error is None:
            endpoints.works(connection, endpoint_id)
            return None
        found = endpoints.fails(connection, endpoint_id, gone=reception.gone)
        if found is None:
            return None
        reason, workspace_id = found
        deliveries.give_up(connection, endpoint_id, PAUSED)
        details = {"reason": reason.value, "error": reception.error}
        audit.record(
            connection,
            _BY,
            "webhook.pause",
            [endpoint_id],
            details=details,
            workspace_id=workspace_id,
        )
        return reason
