"""Tapes: cassettes as workers read and write them."""

from collections.abc import Sequence
from datetime import UTC, datetime
from uuid import UUID

import structlog

from celeriac.db import cassettes
from celeriac.db.engine import Database
from celeriac.domain.cassette import Cassette, Header, Interaction, parse
from celeriac.domain.errors import CassetteUnavailableError, LeaseLostError
from celeriac.domain.execution import Lease
from celeriac.services.cassettes import packed, unpacked
from celeriac.services.patience import patiently
from celeriac.services.ports import Job

logger = structlog.get_logger(__name__)

_PATIENCE_SECONDS = 60.0


class Tapes:
    """The cassettes of running attempts; every writing is fenced by the attempt's lease.

    All of them wait up to a minute for the database. Raise DatabaseUnavailableError after that.
    """

    def __init__(self, database: Database) -> None:
        """Work on `database`."""
        self._database = database

    def load(self, cassette_id: UUID) -> Cassette:
        """Return the cassette to play. Raises CassetteUnavailableError where it is gone."""
        found = self._read(cassette_id)
        if found is None:
            raise CassetteUnavailableError(
                f"The cassette {cassette_id} was deleted; give another one, or record it anew.",
                cassette_id=str(cassette_id),
            )
        return found

    def add(
        self, lease: Lease, job: Job, interactions: Sequence[Interaction], *, complete: bool
    ) -> bool:
        """Add what an attempt has recorded to its execution's cassette; see `RunContext.record`."""
        earlier = self._read(lease.execution_id) or Cassette(_header(job))
        cassette = earlier.extended(interactions, complete=complete)
        content = packed(cassette)

        def record() -> bool:  # the whole of it: a try whose answer got lost adds nothing twice
            with self._database.statement() as connection:
                return cassettes.record(connection, lease, job.task_name, content)

        if not patiently(record, seconds=_PATIENCE_SECONDS):
            raise LeaseLostError("This worker no longer owns the attempt.")
        complete = cassette.header.complete
        logger.info("cassette.recorded", interactions=len(interactions), complete=complete)
        return complete

    def _read(self, cassette_id: UUID) -> Cassette | None:
        def read() -> bytes | None:
            with self._database.statement() as connection:
                return cassettes.content(connection, cassette_id)

        content = patiently(read, seconds=_PATIENCE_SECONDS)
        return None if content is None else parse(unpacked(content))


def _header(job: Job) -> Header:
    return Header(
        celeriac_cassette=1,
        task=job.task_name,
        agent=job.agent_name,
        runner=job.agent.runner,
        execution_id=job.execution_id,
        recorded_at=datetime.now(UTC),
    )
