"""Answers to approvals, from users and over signed links."""

import hashlib
import hmac
import secrets
import struct
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as NotBase64Error
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from uuid import UUID

import structlog

from celeriac.db import approvals, audit, workspaces
from celeriac.db.audit import Program
from celeriac.db.engine import Connection, Database
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
from celeriac.domain.paging import Page
from celeriac.kit.json_types import JsonObject, JsonValue, loads, storable, storable_text
from celeriac.logs import Step
from celeriac.services.catalog.schemas import faults
from celeriac.services.ports import LiveEvents
from celeriac.services.reading import present, read_page

_PURPOSE = b"celeriac/approval-link/3"
_CONTENT = struct.Struct(">16s16sQI8s")
"""The ids of the question and of the user for whom it was made, the second since 1970 at which it
expires, how often the question's links had been revoked by then, and random bytes."""
_MAC_BYTES = 32


@dataclass(frozen=True, slots=True)
class Link:
    """What a token says."""

    approval_id: UUID
    user_id: UUID
    """Who made it, or in a notification who started the execution: it works while they are an
    enabled member of the workspace who may answer."""
    links_revoked: int
    """How often the question's links had been revoked when it was made."""


class ApprovalLinks:
    """Makes and reads the tokens of links.

    A token names its question and a user, and is signed (HMAC-SHA256) with a key derived from the
    installation's secret. It is not stored. It works once because a question is answered once.
    """

    def __init__(self, secret_key: str, now: Callable[[], float] = time.time) -> None:
        """Sign with a key derived from `secret_key`; `now` returns the seconds since 1970."""
        self._now = now
        self._key = hmac.new(secret_key.encode(), _PURPOSE, hashlib.sha256).digest()

    def token(self, link: Link, expires_at: datetime) -> str:
        """Return a token that works until `expires_at`, and as long as its user may answer.

        The next revocation of the question's links makes it void.
        """
        content = _CONTENT.pack(
            link.approval_id.bytes,
            link.user_id.bytes,
            max(int(expires_at.timestamp()), 0),
            link.links_revoked,
            secrets.token_bytes(8),
        )
        return _text(content + self._mac(content))

    def read(self, token: str) -> Link:
        """Return the content of a token. Raises LinkInvalidError, which names no reason."""
        try:
            raw = urlsafe_b64decode(token.encode() + b"=" * (-len(token) % 4))
        except (NotBase64Error, ValueError):
            raw = b""
        if _text(raw) != token:  # decoding ignores some bits of the last character
            raise _invalid()
        content, mac = raw[: _CONTENT.size], raw[_CONTENT.size :]
        signed = len(raw) == _CONTENT.size + _MAC_BYTES
        if not (signed and hmac.compare_digest(mac, self._mac(content))):
            raise _invalid()
        approval_id, user_id, until, revoked, _ = _CONTENT.unpack(content)
        if self._now() >= until:
            raise _invalid()
        return Link(UUID(bytes=approval_id), UUID(bytes=user_id), revoked)

    def _mac(self, content: bytes) -> bytes:
        return hmac.new(self._key, content, hashlib.sha256).digest()


def _text(raw: bytes) -> str:
    return urlsafe_b64encode(raw).rstrip(b"=").decode()


def _invalid() -> LinkInvalidError:
    return LinkInvalidError(
        "This link is not valid, or it has expired. Ask the person who sent it for another one."
    )


logger = structlog.get_logger(__name__)

BY_LINK = "approval link"
"""The name of the answerer if a signed link was used."""


class Approvals:
    """Questions to people, and their answers. Safe to share between threads."""

    def __init__(
        self,
        database: Database,
        live: LiveEvents,
        send_eligible: Callable[[], object],
        advance: Callable[[Sequence[UUID]], None] = lambda _: None,
    ) -> None:
        """Work on `database`, publish to `live`.

        `send_eligible` sends what an answer resumes. `advance` advances runs of workflows and
        raises nothing; without it the keeper does.
        """
        self._database = database
        self._live = live
        self._send_eligible = send_eligible
        self._advance = advance

    def get(self, actor: Actor, approval_id: UUID) -> Approval:
        """Return a question. Raises NotFoundError."""
        with self._database.autocommit() as connection:
            return _get(connection, approval_id, actor.workspace_id)

    def find(
        self, actor: Actor, wanted: ApprovalFilter, *, cursor: str | None = None, limit: int = 50
    ) -> Page[Approval]:
        """Return a page of the questions that the actor may see. Raises CursorInvalidError."""
        wanted = replace(wanted, workspace_id=actor.workspace_id)
        find = partial(approvals.find, wanted=wanted)
        return read_page(self._database, "approvals", cursor, limit, find)

    def get_for_link(self, actor: Actor, approval_id: UUID) -> Approval:
        """Return an open question to make a signed link for, and record that in the audit trail.

        Raises NotFoundError, ForbiddenError for actors who may not answer it and for questions that
        no link can answer, and ApprovalClosedError.
        """
        actor.require(Role.OPERATOR)
        with self._database.transaction() as connection:
            found = _get(connection, approval_id, actor.workspace_id)
            _check_rank(found, None)
            if found.status is not ApprovalStatus.OPEN or found.expired:
                raise ApprovalClosedError(_why_closed(found), status=found.status.value)
            audit.record(connection, actor, "approval.link", [approval_id])
        return found

    def revoke_links(self, actor: Actor, approval_id: UUID) -> None:
        """Make all links to a question void. Raises ForbiddenError, NotFoundError."""
        actor.require(Role.OPERATOR)
        with self._database.transaction() as connection:
            _get(connection, approval_id, actor.workspace_id)
            approvals.revoke_links(connection, approval_id)
            audit.record(connection, actor, "approval.revoke_links", [approval_id])

    def get_by_link(self, link: Link) -> Approval:
        """Return the question of a signed link.

        Raises NotFoundError, also if its links were revoked, or if the user for whom it was made is
        disabled or is no member any more who may answer.
        """
        with self._database.autocommit() as connection:
            found = _get(connection, link.approval_id, None)
            _check_link(connection, found, link)
        return found

    def answer(self, actor: Actor, approval_id: UUID, given: Answer) -> Approval:
        """Answer an open question.

        Its execution resumes if no other question is open; the run of its step is advanced.

        The same answer again changes nothing. Raises ForbiddenError, NotFoundError,
        AnswerInvalidError, TooLargeError, and ApprovalClosedError if it has another answer, has
        expired or was withdrawn.
        """
        actor.require(Role.OPERATOR)
        with self._database.transaction() as connection:
            asked = _lock(connection, approval_id, actor.workspace_id)
            _check_rank(asked, actor)
            found, resumed = _answer(connection, asked, given, by=actor)
        return self._after_answer(found, resumed)

    def answer_by_link(self, link: Link, given: Answer, *, request_id: str | None) -> Approval:
        """Answer with a signed link; see `answer`."""
        with self._database.transaction() as connection:
            asked = _lock(connection, link.approval_id, None)
            _check_link(connection, asked, link)
            _check_rank(asked, None)
            by = Program(BY_LINK, request_id, asked.workspace_id)
            found, resumed = _answer(connection, asked, given, by=by)
        return self._after_answer(found, resumed)

    def _after_answer(self, found: Approval, resumed: list[UUID] | None) -> Approval:
        """Publish an answer that was stored now, and send the execution if it resumed."""
        if resumed is None:
            return found
        logger.info(
            Step.APPROVAL_ANSWERED,
            **asker_of(found),
            approval_id=found.id,
            approved=found.approved,
            by=found.answered_by,
        )
        self._live.changed([found.asker])
        if found.run_id is not None:
            self._advance([found.run_id])
        if resumed:
            logger.info(Step.EXECUTION_RESUMED, execution_id=found.execution_id)
            try:
                self._send_eligible()
            except DatabaseUnavailableError as error:
                # the answer is committed: the keeper sends the execution
                logger.warning("approval.not_sent_yet", error=error.message)
        return found


def _check_rank(asked: Approval, actor: Actor | None) -> None:
    """Raise ForbiddenError if somebody would raise a limit that administrators set."""
    if asked.needs_admin and not (actor and actor.administrator):
        raise ForbiddenError(
            "Only an administrator answers questions about the budget of a user or a workspace."
        )


def _check_link(connection: Connection, found: Approval, link: Link) -> None:
    role = workspaces.active_role(connection, found.workspace_id, link.user_id)
    if found.links_revoked != link.links_revoked or not (role and role.includes(Role.OPERATOR)):
        raise NotFoundError("approval", link.approval_id)


def _answer(
    connection: Connection, asked: Approval, given: Answer, *, by: Actor | Program
) -> tuple[Approval, list[UUID] | None]:
    """Return the question as it is now, and what resumed; None if nothing was written."""
    value = None if given.value is None else loads(storable(given.value))  # as it is stored
    given = replace(given, note=storable_text(given.note), value=value, by=by.name)
    check_answer(asked.kind, asked.schema, given, faults)
    answered = approvals.answer(connection, asked, given)
    if answered is not None:
        resumed = (
            []
            if asked.execution_id is None
            else lifecycle.resume_answered(connection, [asked.execution_id])
        )
        details: JsonObject = {**asker_of(asked), "approved": given.approved}
        audit.record(connection, by, "approval.answer", [asked.id], details=details)
        return answered, resumed
    found = _get(connection, asked.id, None)  # it was closed while this waited for the lock
    same = (found.approved, found.value, found.note) == (given.approved, given.value, given.note)
    if found.status is ApprovalStatus.ANSWERED and same:
        return found, None
    raise ApprovalClosedError(_why_closed(found), status=found.status.value)


def asker_of(asked: Approval) -> dict[str, JsonValue]:
    """Return what a question belongs to, for logs and the audit trail."""
    if asked.run_id is None:
        return {"execution_id": str(asked.execution_id)}
    return {"run_id": str(asked.run_id), "step": asked.step}


def _why_closed(found: Approval) -> str:
    match found.status:
        case ApprovalStatus.ANSWERED:
            said = "approved" if found.approved else "denied"
            return f"The question was answered already: {said} by {found.answered_by}."
        case ApprovalStatus.OPEN | ApprovalStatus.EXPIRED if found.expired:
            return "The question has expired; nobody answered it in time."
    what = "its execution has ended" if found.run_id is None else "its workflow run has stopped"
    return f"The question is not needed any more: {what}."


def _get(connection: Connection, approval_id: UUID, workspace: UUID | None) -> Approval:
    return present(
        approvals.get(connection, approval_id, workspace=workspace), "approval", approval_id
    )


def _lock(connection: Connection, approval_id: UUID, workspace: UUID | None) -> Approval:
    return present(
        approvals.lock(connection, approval_id, workspace=workspace), "approval", approval_id
    )
