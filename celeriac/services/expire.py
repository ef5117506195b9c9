"""Expire: questions that nobody answered in time, and those that nobody needs to answer."""

import structlog
from sqlalchemy import Connection

from celeriac.db import answers, audit, transitions
from celeriac.db.answers import Expired
from celeriac.db.engine import Database
from celeriac.domain.agent.tools import OnExpiry
from celeriac.domain.errors import ApprovalExpiredError
from celeriac.logs import Step
from celeriac.services.ports import LiveEvents

logger = structlog.get_logger(__name__)


class Expire:
    """The keeper's part in approvals; any number of keepers may do it at once."""

    def __init__(self, database: Database, live: LiveEvents) -> None:
        """Work on `database`, tell `live`."""
        self._database = database
        self._live = live

    def overdue(self, limit: int) -> int:
        """Give overdue questions the answers that they name; return how many.

        Executions that wait for nothing else go on, or fail where the question says so. A running
        one learns of its answer by itself.
        """
        with self._database.transaction() as connection:
            expired = answers.expire_due(connection, limit=limit)
            failing = {each.execution_id: each for each in expired if each.on_expiry is _FAIL}
            failed = [each for each in failing.values() if _fail(connection, each)]
            others = {each.execution_id for each in expired} - failing.keys()
            resumed = transitions.resume_answered(connection, sorted(others)) if others else []
        for each in expired:
            logger.info(
                Step.APPROVAL_ANSWERED,
                execution_id=each.execution_id,
                approval_id=each.id,
                approved=each.on_expiry is OnExpiry.APPROVE,
                by="expiry",
            )
        for each in failed:
            logger.error(
                Step.EXECUTION_FAILED,
                execution_id=each.execution_id,
                error_code=ApprovalExpiredError.code,
                error=_message(each),
            )
        for execution_id in resumed:
            logger.info(Step.EXECUTION_RESUMED, execution_id=execution_id)
        self._live.changed(list(dict.fromkeys(each.execution_id for each in expired)))
        return len(expired)

    def unneeded(self, limit: int) -> int:
        """Withdraw what executions asked that have ended meanwhile; return how many."""
        with self._database.statement() as connection:
            return answers.withdraw_ended(connection, limit=limit)


_FAIL = OnExpiry.FAIL


def _fail(connection: Connection, expired: Expired) -> bool:
    code, message = ApprovalExpiredError.code, _message(expired)
    failed = transitions.expire(connection, expired.execution_id, code=code, message=message)
    if failed:
        audit.failed(
            connection,
            expired.execution_id,
            actor="keeper",
            request_id=None,
            details={"code": code, "message": message, "approval_id": str(expired.id)},
        )
    return failed


def _message(expired: Expired) -> str:
    return f"Nobody answered in time: {expired.title}"
