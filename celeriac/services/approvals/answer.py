"""Answers to approvals, from users and over signed links."""

import hashlib
import hmac
import secrets
import struct
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as NotBase64Error
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from uuid import UUID

import structlog
from sqlalchemy import Connection

from celeriac.db import accounts, approvals, audit
from celeriac.db import approvals as answers
from celeriac.db.engine import Database
from celeriac.db.executions import lifecycle
from celeriac.domain.accounts import Actor, Role
from celeriac.domain.approvals import Answer, Approval, ApprovalFilter, ApprovalStatus, check_answer
from celeriac.domain.errors import (
    ApprovalClosedError,
    DatabaseUnavailableError,
    ForbiddenError,
    LinkInvalidError,
    NotFoundError,
)
from celeriac.domain.paging import Page, read_cursor
from celeriac.kit.json_types import loads, storable, storable_text
from celeriac.logs import Step
from celeriac.services.catalog.schemas import faults
from celeriac.services.executions.dispatch import Dispatch
from celeriac.services.ports import LiveEvents

_PURPOSE = b"celeriac/approval-link/2"
_CONTENT = struct.Struct(">16sQI8s")
"""The question's id, the seconds since 1970 at which it expires, how often the links of the
question had been revoked before, and random bytes."""
_MAC_BYTES = 32


@dataclass(frozen=True, slots=True)
class Link:
    """What a valid token says: its question, and how often links had been revoked before it."""

    approval_id: UUID
    links_revoked: int


class ApprovalLinks:
    """Makes and reads the tokens of links.

    A token names its question and is signed (HMAC-SHA256) with a key of its own, derived from the
    installation's secret. Nothing of it is stored: that it works once is the question's doing,
    which is answered once.
    """

    def __init__(self, secret_key: str, now: Callable[[], float] = time.time) -> None:
        """Sign with a key that is derived from `secret_key`; `now` is the clock of questions.

        It returns the seconds since 1970.
        """
        self._now = now
        self._key = hmac.new(secret_key.encode(), _PURPOSE, hashlib.sha256).digest()

    def token(self, approval_id: UUID, expires_at: datetime, *, links_revoked: int = 0) -> str:
        """Return a token for a question that works until then.

        `links_revoked` is the question's count of revocations: the next one makes the token void.
        """
        until = max(int(expires_at.timestamp()), 0)
        content = _CONTENT.pack(approval_id.bytes, until, links_revoked, secrets.token_bytes(8))
        return _text(content + self._mac(content))

    def read(self, token: str) -> Link:
        """Return what a token says. Raises LinkInvalidError, which does not name the reason."""
        try:
            raw = urlsafe_b64decode(token.encode() + b"=" * (-len(token) % 4))
        except (NotBase64Error, ValueError):
            raw = b""
        if _text(raw) != token:  # the last character may have bits that decoding ignores
            raise _invalid()
        content, mac = raw[: _CONTENT.size], raw[_CONTENT.size :]
        signed = len(raw) == _CONTENT.size + _MAC_BYTES
        if not (signed and hmac.compare_digest(mac, self._mac(content))):
            raise _invalid()
        approval_id, until, revoked, _ = _CONTENT.unpack(content)
        if self._now() >= until:
            raise _invalid()
        return Link(UUID(bytes=approval_id), revoked)

    def _mac(self, content: bytes) -> bytes:
        return hmac.new(self._key, content, hashlib.sha256).digest()


def _text(raw: bytes) -> str:
    return urlsafe_b64encode(raw).rstrip(b"=").decode()


def _invalid() -> LinkInvalidError:
    return LinkInvalidError(
        "This link is not valid, or its time is over. Ask whoever sent it for another one."
    )


logger = structlog.get_logger(__name__)

_KIND = "approvals"
BY_LINK = "approval link"
"""Who answered where a signed link did it."""


class Approvals:
    """Questions to people, and their answers. Safe to share between threads."""

    def __init__(self, database: Database, live: LiveEvents, dispatch: Dispatch) -> None:
        """Work on `database`, tell `live`, send on what goes on through `dispatch`."""
        self._database = database
        self._live = live
        self._dispatch = dispatch

    def get(self, actor: Actor, approval_id: UUID) -> Approval:
        """Return a question. Raises NotFoundError."""
        with self._database.statement() as connection:
            return _get(connection, approval_id, actor.scope)

    def find(
        self, actor: Actor, wanted: ApprovalFilter, *, cursor: str | None = None, limit: int = 50
    ) -> Page[Approval]:
        """Return a page of the questions that the actor may see. Raises CursorInvalidError."""
        before = read_cursor(_KIND, cursor)
        if actor.scope is not None:
            wanted = replace(wanted, owner_id=actor.scope)
        with self._database.statement() as connection:
            found = approvals.find(connection, wanted, before=before, limit=limit + 1)
        return Page.cut(
            found.items, limit=limit, kind=_KIND, key=lambda each: each.id, more=found.more
        )

    def get_for_link(self, actor: Actor, approval_id: UUID) -> Approval:
        """Return an open question that a signed link may be made for, and record that one is.

        Raises NotFoundError, ForbiddenError for those who may not answer it themselves and for
        questions that no link answers, and ApprovalClosedError.
        """
        actor.require(Role.OPERATOR)
        with self._database.transaction() as connection:
            found = _get(connection, approval_id, actor.scope)
            _check_rank(found, None)
            if found.status is not ApprovalStatus.OPEN or found.expired:
                raise ApprovalClosedError(_why_closed(found), status=found.status.value)
            audit.record(connection, actor, "approval.link", "approval", [approval_id])
        return found

    def revoke_links(self, actor: Actor, approval_id: UUID) -> None:
        """Make all links to a question void. Raises ForbiddenError, NotFoundError."""
        actor.require(Role.OPERATOR)
        with self._database.transaction() as connection:
            _get(connection, approval_id, actor.scope)
            answers.revoke_links(connection, approval_id)
            audit.record(connection, actor, "approval.revoke_links", "approval", [approval_id])

    def get_by_link(self, link: Link) -> Approval:
        """Return the question that a signed link leads to.

        Raises NotFoundError, also where its links were revoked or its owner is disabled.
        """
        with self._database.statement() as connection:
            return _linked(connection, link)

    def answer(self, actor: Actor, approval_id: UUID, given: Answer) -> Approval:
        """Answer an open question; its execution goes on where it waits for nothing else.

        The same answer again changes nothing. Raises ForbiddenError, NotFoundError,
        AnswerInvalidError, TooLargeError, and ApprovalClosedError where it was answered otherwise,
        has expired or is withdrawn.
        """
        actor.require(Role.OPERATOR)
        given = replace(given, by=actor.name)
        with self._database.transaction() as connection:
            _check_rank(_get(connection, approval_id, actor.scope), actor)
            found, resumed = _answer(connection, approval_id, given)
            if resumed is not None:
                details = {"execution_id": str(found.execution_id), "approved": given.approved}
                audit.record(
                    connection, actor, "approval.answer", "approval", [approval_id], details=details
                )
        return self._after_answer(found, resumed)

    def answer_by_link(self, link: Link, given: Answer, *, request_id: str | None) -> Approval:
        """Answer for whoever holds a signed link to the question; see `answer`."""
        given = replace(given, by=BY_LINK)
        with self._database.transaction() as connection:
            _check_rank(_linked(connection, link), None)
            approval_id = link.approval_id
            found, resumed = _answer(connection, approval_id, given)
            if resumed is not None:
                audit.by_program(
                    connection,
                    BY_LINK,
                    "approval.answer",
                    "approval",
                    approval_id,
                    request_id=request_id,
                    details={
                        "execution_id": str(found.execution_id),
                        "approved": given.approved,
                    },
                )
        return self._after_answer(found, resumed)

    def _after_answer(self, found: Approval, resumed: list[UUID] | None) -> Approval:
        """Tell of an answer that was written now, and send what goes on by it."""
        if resumed is None:
            return found
        execution_id = found.execution_id
        logger.info(
            Step.APPROVAL_ANSWERED,
            execution_id=execution_id,
            approval_id=found.id,
            approved=found.approved,
            by=found.answered_by,
        )
        self._live.changed([execution_id])
        if resumed:
            logger.info(Step.EXECUTION_RESUMED, execution_id=execution_id)
            try:
                self._dispatch.send_due()
            except DatabaseUnavailableError as error:
                # the answer is committed: the keeper sends it
                logger.warning("approval.not_sent_yet", error=error.message)
        return found


def _check_rank(asked: Approval, actor: Actor | None) -> None:
    """Raise ForbiddenError where a user would raise the limits that admins set them."""
    if asked.needs_admin and not (actor and actor.sees_all):
        raise ForbiddenError("Only an admin answers questions about a user's budget.")


def _answer(
    connection: Connection, approval_id: UUID, given: Answer
) -> tuple[Approval, list[UUID] | None]:
    """Return the question as it is now, and what goes on; None where nothing was written."""
    given = replace(given, note=storable_text(given.note), value=_stored(given.value))
    asked = _get(connection, approval_id, None)
    check_answer(asked.kind, asked.schema, given, faults)
    if answers.answer(connection, approval_id, given):
        resumed = lifecycle.resume_answered(connection, [asked.execution_id])
        return _get(connection, approval_id, None), resumed
    found = _get(connection, approval_id, None)
    same = (found.approved, found.value, found.note) == (given.approved, given.value, given.note)
    if found.status is ApprovalStatus.ANSWERED and same:
        return found, None
    raise ApprovalClosedError(_why_closed(found), status=found.status.value)


def _stored(value: object) -> object:
    """Return a value as the database gives it back."""
    return None if value is None else loads(storable(value))


def _why_closed(found: Approval) -> str:
    match found.status:
        case ApprovalStatus.ANSWERED:
            said = "approved" if found.approved else "refused"
            return f"The question was answered already: {said} by {found.answered_by}."
        case ApprovalStatus.OPEN | ApprovalStatus.EXPIRED if found.expired:
            return "The question has expired; nobody answered it in time."
    return "The question is not needed any more: its execution has ended."


def _linked(connection: Connection, link: Link) -> Approval:
    found = _get(connection, link.approval_id, None)
    owner = accounts.user(connection, found.owner_id)
    if found.links_revoked != link.links_revoked or owner is None or owner.disabled_at is not None:
        raise NotFoundError("approval", link.approval_id)
    return found


def _get(connection: Connection, approval_id: UUID, owner: UUID | None) -> Approval:
    found = approvals.get(connection, approval_id, owner=owner)
    if found is None:
        raise NotFoundError("approval", approval_id)
    return found
