"""Tapes: cassettes as workers read and write them."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TypeVar
from uuid import UUID

import structlog

from celeriac.db import cassettes
from celeriac.db.cassettes import Contents
from celeriac.db.engine import Database
from celeriac.domain.cassette import Cassette, Header, Interaction, parse
from celeriac.domain.errors import CassetteUnavailableError, LeaseLostError
from celeriac.domain.execution import Lease
from celeriac.services.cassettes import packed, unpacked
from celeriac.services.patience import patiently_in
from celeriac.services.ports import Job

logger = structlog.get_logger(__name__)

T = TypeVar("T")

_PATIENCE_SECONDS = 60.0


class Tapes:
    """The cassettes of running attempts; every writing is fenced by the attempt's lease.

    All of them wait up to a minute for the database. Raise DatabaseUnavailableError after that.
    """

    def __init__(self, database: Database) -> None:
        """Work on `database`."""
        self._database = database

    async def load(self, cassette_id: UUID) -> Cassette:
        """Return the cassette to play. Raises CassetteUnavailableError where it is gone."""
        found = await self._patiently(lambda: self._read(cassette_id))
        if found is None:
            raise CassetteUnavailableError(
                f"The cassette {cassette_id} was deleted; give another one, or record it anew.",
                cassette_id=str(cassette_id),
            )
        return found

    async def add(
        self, lease: Lease, job: Job, interactions: Sequence[Interaction], *, complete: bool
    ) -> bool:
        """Add what an attempt has recorded to its execution's cassette; see `RunContext.record`."""

        def extend() -> tuple[Contents, bool]:
            earlier = self._read(lease.execution_id) or Cassette(_header(job))
            cassette = earlier.extended(interactions, complete=complete)
            return packed(cassette), cassette.header.complete

        content, complete = await self._patiently(extend)

        def record() -> bool:  # the whole of it: a try whose answer got lost adds nothing twice
            with self._database.statement() as connection:
                return cassettes.record(connection, lease, job.task_name, content)

        if not await self._patiently(record):
            raise LeaseLostError("This worker no longer owns the attempt.")
        logger.info("cassette.recorded", interactions=len(interactions), complete=complete)
        return complete

    async def _patiently(self, work: Callable[[], T]) -> T:
        return await patiently_in(self._database.threads, work, seconds=_PATIENCE_SECONDS)

    def _read(self, cassette_id: UUID) -> Cassette | None:
        with self._database.statement() as connection:
            content = cassettes.content(connection, cassette_id)
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
