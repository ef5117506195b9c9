"""Claim: turn a message into an attempt that this worker owns, or drop it."""

from uuid import UUID, uuid4

from celeriac.db import transitions
from celeriac.db.engine import Database
from celeriac.domain.errors import DatabaseUnavailableError
from celeriac.domain.execution import Claim, Message
from celeriac.services.patience import patiently

_PATIENCE_SECONDS = 30.0
"""How long a message waits for the database; then it is dropped and the keeper sends another."""


class ClaimAttempt:
    """Claims attempts in the name of one worker."""

    def __init__(self, database: Database, *, worker: str, lease_seconds: float) -> None:
        """Claim for `worker`, with leases of `lease_seconds`."""
        self._database = database
        self._worker = worker
        self._lease_seconds = lease_seconds

    def __call__(self, message: Message) -> Claim | None:
        """Return the claim, or None where the message is a double or the execution was cancelled.

        Raises DatabaseUnavailableError after half a minute without the database. A claim whose
        answer got lost is found again.
        """
        token = uuid4()
        try:
            return self._once(message, token)
        except DatabaseUnavailableError:
            return patiently(lambda: self._again(message, token), seconds=_PATIENCE_SECONDS)

    def _once(self, message: Message, token: UUID) -> Claim | None:
        with self._database.statement() as connection:
            return transitions.claim(
                connection,
                message,
                token=token,
                worker=self._worker,
                lease_seconds=self._lease_seconds,
            )

    def _again(self, message: Message, token: UUID) -> Claim | None:
        claim = self._once(message, token)
        if claim is not None:
            return claim
        with self._database.statement() as connection:
            return transitions.claimed(connection, token)
