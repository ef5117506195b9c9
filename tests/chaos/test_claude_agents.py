"""Claude Code and workers that die: nothing of it lives on, and a question outlasts everything."""

from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest

from celeriac.domain.agents import ClaudeAgent
from celeriac.domain.approvals import Answer, ApprovalFilter
from celeriac.domain.executions.states import Status
from celeriac.domain.tasks import TaskSpec
from celeriac.services.approvals.answer import Approvals
from celeriac.services.catalog.agents import Agents
from celeriac.services.catalog.tasks import Tasks
from tests.support import anthropic_scenes
from tests.support.anthropic_server import AnthropicServer
from tests.support.claude_processes import processes_of
from tests.support.fleet import Fleet
from tests.support.programs import Program
from tests.support.waiting import wait_until

pytestmark = pytest.mark.requirement("A12")


@pytest.fixture
def anthropic() -> Iterator[AnthropicServer]:
    with AnthropicServer(anthropic_scenes.SCENES).running() as server:
        yield server


def make(fleet: Fleet, name: str, **agent: Any) -> UUID:
    """Make a task whose prompt is its variable `prompt`, for an agent of its own."""
    database = fleet.container.database
    spec = ClaudeAgent(model="claude-test", **agent)
    Agents(database).create(fleet.actor, name=name, spec=spec)
    task = TaskSpec(prompt="{{ prompt }}")
    return Tasks(database).create(fleet.actor, name=name, agent=name, spec=task).id


def test_a_killed_worker_leaves_no_process_and_a_question_outlasts_it(
    fleet: Fleet, anthropic: AnthropicServer
) -> None:
    """One execution is in a command when its worker is killed; another waits for a person."""
    container, actor = fleet.container, fleet.actor
    sessions = fleet.home / "celeriac" / "sessions"

    def start_worker(name: str) -> Program:
        return fleet.worker(
            name,
            ANTHROPIC_BASE_URL=anthropic.base_url,
            ANTHROPIC_API_KEY=anthropic_scenes.KEY,
        )

    beat, worker = fleet.beat(), start_worker("w1")
    asking = make(fleet, "asking", permission="ask")
    asked = fleet.submit(asking, prompt="[shell] |echo once >> runs; cat runs|")
    fleet.wait_status(asked, Status.WAITING)
    command = "(setsid nohup sleep 657 &); sleep 658"
    running = fleet.submit(
        make(fleet, "running", allowed_tools=("Bash",)), prompt=f"[shell] |{command}|"
    )
    wait_until(lambda: {"sleep 657", "sleep 658"} <= set(processes_of(sessions)), "it runs")

    worker.kill()
    wait_until(lambda: not processes_of(sessions), "nothing of Claude Code is left")
    beat.kill()
    container.cancel(actor, [running])
    beat.restart()
    start_worker("w2")
    approvals = Approvals(container.database, container.live, container.dispatch.send_due)
    (question,) = approvals.find(actor, ApprovalFilter(execution_id=asked)).items
    approvals.answer(actor, question.id, Answer(approved=True))

    done, cancelled = fleet.wait_terminal([asked, running])
    assert (done.status, str(done.result).strip()) == (Status.COMPLETED, "once")
    assert cancelled.status is Status.CANCELLED
