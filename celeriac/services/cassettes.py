"""Cassettes: management, recording and replay."""

import hashlib
import zlib
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from uuid import UUID

import structlog

from celeriac.db import audit, cassettes
from celeriac.db.cassettes import Contents
from celeriac.db.engine import Connection, Database
from celeriac.domain.accounts import Actor, Role
from celeriac.domain.agents import RunnerName
from celeriac.domain.cassettes import (
    MAX_BYTES,
    Cassette,
    CassetteSummary,
    Header,
    Interaction,
    dump,
    parse,
)
from celeriac.domain.errors import (
    CassetteInvalidError,
    CassetteUnavailableError,
    InvalidInputError,
    LeaseLostError,
    TooLargeError,
)
from celeriac.domain.executions.model import Lease
from celeriac.domain.executions.options import RunOptions
from celeriac.domain.paging import Page
from celeriac.services.ports import Job
from celeriac.services.reading import present, read_page
from celeriac.services.retrying import retry_statement

logger = structlog.get_logger(__name__)

_MAX_VALUES = 200_000
"""The limit of values in a line of an uploaded cassette: parsing them takes about 60 ms."""

TAPED = frozenset({RunnerName.LLM, RunnerName.CLAUDE, RunnerName.CREWAI})
"""The runners whose model calls go through Celeriac."""


class Cassettes:
    """The cassettes of all workspaces. Safe to share between threads."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def upload(self, actor: Actor, name: str, content: bytes, *, compressed: bool) -> UUID:
        """Store the text of a cassette; return its id.

        `compressed` if it is packed with gzip. Uploading the same text again returns the same id.
        Raises ForbiddenError, CassetteInvalidError or TooLargeError.
        """
        actor.require(Role.OPERATOR)
        text = _inflated(content) if compressed else content
        contents = packed(parse(text, max_values=_MAX_VALUES))
        with self._database.transaction() as connection:
            cassette_id = cassettes.upload(connection, actor, name, contents)
            details = {"name": name, "size": contents.size, "sha256": contents.digest.hex()}
            audit.record(connection, actor, "cassette.upload", [cassette_id], details=details)
        logger.info("cassette.uploaded", cassette_id=cassette_id, size=contents.size)
        return cassette_id

    def page(
        self, actor: Actor, *, cursor: str | None = None, limit: int = 50
    ) -> Page[CassetteSummary]:
        """Return a page of cassettes, the newest first. Raises CursorInvalidError."""
        find = partial(cassettes.find, workspace=actor.workspace_id)
        return read_page(self._database, "cassettes", cursor, limit, find)

    def get(self, actor: Actor, cassette_id: UUID) -> CassetteSummary:
        """Return a cassette without its content. Raises NotFoundError."""
        with self._database.autocommit() as connection:
            return visible(connection, actor, cassette_id)

    def content(self, actor: Actor, cassette_id: UUID) -> bytes:
        """Return the text of a cassette. Raises NotFoundError."""
        with self._database.autocommit() as connection:
            visible(connection, actor, cassette_id)
            content = cassettes.content(connection, cassette_id)
        return unpacked(present(content, "cassette", cassette_id))

    def delete(self, actor: Actor, cassette_id: UUID) -> None:
        """Delete a cassette. Raises ForbiddenError or NotFoundError."""
        actor.require(Role.OPERATOR)
        with self._database.transaction() as connection:
            found = visible(connection, actor, cassette_id)
            cassettes.remove(connection, cassette_id)
            details = {"name": found.name, "size": found.size}
            audit.record(connection, actor, "cassette.delete", [cassette_id], details=details)
        logger.info("cassette.deleted", cassette_id=cassette_id)


def visible(connection: Connection, actor: Actor, cassette_id: UUID) -> CassetteSummary:
    """Return a cassette that the actor may see. Raises NotFoundError."""
    found = cassettes.get(connection, cassette_id, workspace=actor.workspace_id)
    return present(found, "cassette", cassette_id)


def check_traffic(
    connection: Connection, actor: Actor, options: RunOptions, runner: RunnerName
) -> None:
    """Check the options that record or replay the model traffic of a run.

    Raises NotFoundError for a cassette that the actor can't see, and InvalidInputError if there is
    nothing to record.
    """
    option = "cassette_id" if options.cassette_id is not None else "record"
    if runner not in TAPED:
        raise InvalidInputError(
            f"An agent of the kind {runner} makes no model calls through Celeriac; leave {option} "
            "out.",
            field=option,
        )
    if options.cassette_id is None:
        return
    if options.record:
        raise InvalidInputError(
            "A replay can't be recorded again; leave record or cassette_id out.",
            field="record",
        )
    visible(connection, actor, options.cassette_id)


def packed(cassette: Cassette) -> Contents:
    """Return a cassette as it is stored."""
    text = dump(cassette).encode()
    return Contents(
        interactions=len(cassette.interactions),
        size=len(text),
        complete=cassette.header.complete,
        digest=hashlib.sha256(text).digest(),
        content=zlib.compress(text),
    )


def unpacked(content: bytes) -> bytes:
    """Return the text of a cassette that `packed` made."""
    return zlib.decompress(content)


def _inflated(content: bytes) -> bytes:
    """Unpack a body, up to the size limit of a cassette."""
    unpacking = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    try:
        text = unpacking.decompress(content, MAX_BYTES + 1)
    except zlib.error as error:
        raise CassetteInvalidError(
            f"The body can't be unpacked with gzip: {error}.", field="Content-Encoding"
        ) from error
    if not unpacking.eof and len(text) <= MAX_BYTES:
        raise CassetteInvalidError("The body, packed with gzip, is cut off.", field="body")
    if len(text) > MAX_BYTES:
        raise TooLargeError(
            f"The cassette has more than {MAX_BYTES} bytes. Record a shorter run.",
            field="body",
            limit=MAX_BYTES,
        )
    return text


class CassetteStore:
    """The cassettes of running attempts; every write names the attempt's lease.

    Methods wait up to a minute for the database and raise DatabaseUnavailableError after that.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def load(self, cassette_id: UUID) -> Cassette:
        """Return the cassette to replay. Raises CassetteUnavailableError if it was deleted."""
        found = await retry_statement(self._database, partial(_read, cassette_id=cassette_id))
        if found is None:
            raise CassetteUnavailableError(
                f"The cassette {cassette_id} was deleted; give another one, or record it again.",
                cassette_id=str(cassette_id),
            )
        return found

    async def add(
        self, lease: Lease, job: Job, interactions: Sequence[Interaction], *, complete: bool
    ) -> bool:
        """Add to the cassette of the attempt's execution; see `RunContext.record`."""

        def extend(connection: Connection) -> tuple[Contents, bool]:
            earlier = _read(connection, lease.execution_id) or Cassette(_header(job))
            cassette = earlier.extended(interactions, complete=complete)
            return packed(cassette), cassette.header.complete

        content, complete = await retry_statement(self._database, extend)
        # repeatable: the whole cassette is written each time
        recorded = await retry_statement(
            self._database,
            lambda connection: cassettes.record(connection, lease, job.task_name, content),
        )
        if not recorded:
            raise LeaseLostError("This worker no longer owns the attempt.")
        logger.info("cassette.recorded", interactions=len(interactions), complete=complete)
        return complete


def _read(connection: Connection, cassette_id: UUID) -> Cassette | None:
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
