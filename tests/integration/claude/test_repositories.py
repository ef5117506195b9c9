"""Claude Code in the checkout of a repository: it is sent back, and its sessions continue there."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from celeriac.agents.child.confinement import Confinement
from celeriac.agents.claude.runner import ClaudeRunner
from celeriac.domain.errors import SessionUnavailableError
from celeriac.domain.executions.events import EventType
from celeriac.domain.executions.model import Completed
from celeriac.domain.executions.options import RunOptions
from tests.support.anthropic_server import AnthropicServer
from tests.support.claude_jobs import claude_job, session_of
from tests.support.repositories import Desk, Origin
from tests.support.run_context import events_of

pytestmark = [pytest.mark.anyio, pytest.mark.requirement("F26")]


async def test_a_failing_check_is_the_next_message_and_sessions_keep_their_checkout(
    runner: ClaudeRunner, bounds: Confinement, tmp_path: Path, anthropic: AnthropicServer
) -> None:
    origin = Origin(tmp_path / "origin")
    desk = Desk(tmp_path, origin, bounds)
    check = "cat value; grep -qx two value || { echo expected two; exit 1; }"
    repository = desk.repository(path="lib", verify=[check])
    agent: dict[str, Any] = {"tools": ("Read", "Write"), "allowed_tools": ("Read", "Write")}
    job = replace(claude_job("[mend] Correct the value.", **agent), repository=repository)
    origin.commit({"lib/.gitkeep": "", "lib/value": "zero\n"})
    (origin.path / "lib/value").unlink()  # Claude Code writes only over what it has read
    moved = origin.commit({})

    done, context = await desk.run(runner, job)
    assert done == Completed("Done.")
    said = [each for each in events_of(context, EventType.MESSAGE) if each["role"] == "user"]
    assert len(said) == 2
    assert "expected two" in str(said[1]["content"])
    (change,) = events_of(context, EventType.CHANGE)
    assert (change["base"], change["files"]) == (moved, 1)
    patch = (desk.base(job) / "changes.patch").read_text()
    assert "+++ b/lib/value" in patch
    assert "+two" in patch

    # what comes after it in a copy of the session works in a copy of the checkout
    session = session_of(context, job.execution_id)
    (tmp_path / "sessions" / str(session.id) / "work" / "left").write_text("by a person\n")
    options = RunOptions(fork_session=True)
    forked = replace(
        claude_job("[remember] Who am I?", session=session, options=options, **agent),
        repository=repository,
    )
    _, fork = await desk.run(runner, forked)
    (begun,) = events_of(fork, EventType.CHECKOUT)
    assert (begun["sha"], begun["new"]) == (moved, False)
    (change,) = events_of(fork, EventType.CHANGE)
    assert (change["branch"], change["files"]) == (f"celeriac/{forked.execution_id}", 2)
    other = Origin(tmp_path / "other")
    wrong = replace(forked, repository=repository.model_copy(update={"git": other.url}))
    rule = replace(desk.shared.rule, allow=("file://",))
    with pytest.raises(SessionUnavailableError, match="not of"):
        await desk.runner(runner, rule=rule).run(wrong, desk.context(wrong))
