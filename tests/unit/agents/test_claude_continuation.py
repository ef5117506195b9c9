"""Where an attempt takes a conversation up."""

from dataclasses import replace
from uuid import uuid4

import pytest

from celeriac.agents.claude.conversation import GO_ON, ResumePoint, continuation_of, state_of
from celeriac.domain.errors import SessionUnavailableError
from celeriac.domain.executions.options import RunOptions
from celeriac.domain.sessions import Session
from celeriac.services.ports import Job
from tests.support.claude_jobs import claude_job, stored_session

pytestmark = pytest.mark.requirement("A12")

JOB = claude_job("Do it.")


def begun(job: Job, session: Session) -> tuple[str | None, str | None, bool]:
    start = continuation_of(replace(job, session=session))
    return start.resume, start.prompt, start.forks


def own(following: ResumePoint, calls: dict[str, str] | None = None) -> Session:
    """The session of the job's own earlier attempt."""
    return stored_session(JOB.execution_id, "abc", state_of(JOB, following, calls or {}))


def test_without_a_session_it_begins_with_the_prompt() -> None:
    start = continuation_of(JOB)
    assert (start.resume, start.prompt, start.forks) == (None, "Do it.", False)


def test_a_parked_one_goes_on_where_it_was() -> None:
    assert begun(JOB, own(ResumePoint.GO_ON)) == ("abc", GO_ON, False)
    open_call = continuation_of(
        replace(JOB, session=own(ResumePoint.OPEN_CALL, {"toolu_1": "Bash"}))
    )
    assert (open_call.resume, open_call.prompt) == ("abc", None)
    assert open_call.calls == {"toolu_1": "Bash"}


def test_a_failed_one_begins_anew() -> None:
    assert begun(JOB, own(ResumePoint.BEGIN)) == (None, "Do it.", False)
    assert begun(JOB, stored_session(JOB.execution_id, None, None)) == (None, "Do it.", False)


def test_an_earlier_execution_s_session_gets_the_prompt() -> None:
    earlier = stored_session(uuid4(), "abc", {"execution_id": str(uuid4()), "next": "go_on"})
    assert begun(JOB, earlier) == ("abc", "Do it.", False)
    fork = replace(JOB, options=RunOptions(fork_session=True))
    assert begun(fork, earlier) == ("abc", "Do it.", True)


def test_a_parked_one_in_an_earlier_execution_s_session_goes_on_there() -> None:
    session = stored_session(uuid4(), "abc", state_of(JOB, ResumePoint.GO_ON, {}))
    assert begun(JOB, session) == ("abc", GO_ON, False)


def test_sessions_that_can_t_be_gone_on_with_are_told() -> None:
    with pytest.raises(SessionUnavailableError, match="llm"):
        begun(JOB, replace(own(ResumePoint.GO_ON), runner="llm"))
    with pytest.raises(SessionUnavailableError, match="no conversation"):
        begun(JOB, stored_session(uuid4(), None, None))
