"""Cassettes: keeping, listing and handing out recorded model traffic."""

import hashlib
import zlib
from uuid import UUID

import structlog
from sqlalchemy import Connection

from celeriac.db import audit, cassettes
from celeriac.db.cassettes import Contents
from celeriac.db.engine import Database
from celeriac.domain.accounts import Actor, Role
from celeriac.domain.agent import RunnerName
from celeriac.domain.cassette import MAX_BYTES, Cassette, CassetteSummary, dump, parse
from celeriac.domain.errors import (
    CassetteInvalidError,
    InvalidInputError,
    NotFoundError,
    TooLargeError,
)
from celeriac.domain.options import RunOptions
from celeriac.domain.paging import Page, read_cursor

logger = structlog.get_logger(__name__)

_KIND = "cassettes"
_MAX_VALUES = 200_000
"""Of one line of an uploaded cassette: reading so many takes about 60 ms in one step."""

TAPED = frozenset({RunnerName.LLM, RunnerName.CLAUDE, RunnerName.CREWAI})
"""The kinds of agents whose model calls go through Celeriac."""


class Cassettes:
    """The cassettes that an actor may see: one's own, or for an admin everybody's."""

    def __init__(self, database: Database) -> None:
        """Work on `database`."""
        self._database = database

    def upload(self, actor: Actor, name: str, content: bytes, *, compressed: bool) -> UUID:
        """Store the text of a cassette; return its id.

        `compressed` says that it is packed with gzip. The same text, uploaded again, is found
        again. Raises ForbiddenError, CassetteInvalidError or TooLargeError.
        """
        actor.require(Role.OPERATOR)
        text = _inflated(content) if compressed else content
        contents = packed(parse(text, max_values=_MAX_VALUES))
        with self._database.transaction() as connection:
            cassette_id = cassettes.upload(connection, actor.user_id, name, contents)
            details = {"name": name, "size": contents.size, "sha256": contents.digest.hex()}
            audit.record(
                connection, actor, "cassette.upload", "cassette", [cassette_id], details=details
            )
        logger.info("cassette.uploaded", cassette_id=cassette_id, size=contents.size)
        return cassette_id

    def page(
        self, actor: Actor, *, cursor: str | None = None, limit: int = 50
    ) -> Page[CassetteSummary]:
        """Return a page of cassettes, the newest first. Raises CursorInvalidError."""
        before = read_cursor(_KIND, cursor)
        with self._database.statement() as connection:
            found = cassettes.find(connection, owner=actor.scope, before=before, limit=limit + 1)
        return Page.cut(found, limit=limit, kind=_KIND, key=lambda each: each.id)

    def get(self, actor: Actor, cassette_id: UUID) -> CassetteSummary:
        """Return what is known of a cassette. Raises NotFoundError."""
        with self._database.statement() as connection:
            return visible(connection, actor, cassette_id)

    def content(self, actor: Actor, cassette_id: UUID) -> bytes:
        """Return the text of a cassette. Raises NotFoundError."""
        with self._database.statement() as connection:
            visible(connection, actor, cassette_id)
            content = cassettes.content(connection, cassette_id)
        if content is None:
            raise NotFoundError("cassette", cassette_id)
        return unpacked(content)

    def delete(self, actor: Actor, cassette_id: UUID) -> None:
        """Delete a cassette. Raises ForbiddenError or NotFoundError."""
        actor.require(Role.OPERATOR)
        with self._database.transaction() as connection:
            found = visible(connection, actor, cassette_id)
            cassettes.remove(connection, cassette_id)
            details = {"name": found.name, "size": found.size}
            audit.record(
                connection, actor, "cassette.delete", "cassette", [cassette_id], details=details
            )
        logger.info("cassette.deleted", cassette_id=cassette_id)


def visible(connection: Connection, actor: Actor, cassette_id: UUID) -> CassetteSummary:
    """Return a cassette that the actor may see. Raises NotFoundError."""
    found = cassettes.get(connection, cassette_id, owner=actor.scope)
    if found is None:
        raise NotFoundError("cassette", cassette_id)
    return found


def check_traffic(
    connection: Connection, actor: Actor, options: RunOptions, runner: RunnerName
) -> None:
    """Accept what `options` wish for the model traffic of a run, or raise.

    Raises NotFoundError for a cassette that the actor can't see, and InvalidInputError where there
    is nothing to record.
    """
    wished = "cassette_id" if options.cassette_id is not None else "record"
    if runner not in TAPED:
        raise InvalidInputError(
            f"An agent of the kind {runner} makes no model calls that Celeriac sees; leave "
            f"{wished} out.",
            field=wished,
        )
    if options.cassette_id is None:
        return
    if options.record:
        raise InvalidInputError(
            "What a cassette answers can't be recorded again; leave record or cassette_id out.",
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
    """Unpack what was sent, but no more of it than a cassette may have."""
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
