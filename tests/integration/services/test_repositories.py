"""Executions in checkouts from their submission to their files."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import text

from celeriac.agents.command.runner import CommandRunner
from celeriac.domain.agents import CommandAgent, RunnerName
from celeriac.domain.errors import InvalidInputError
from celeriac.domain.executions.model import SubmitRequest
from celeriac.domain.executions.options import RunOptions
from celeriac.domain.executions.states import Status
from celeriac.domain.repositories import RepositoryChoice
from celeriac.domain.tasks import RetryPolicy, TaskSpec
from celeriac.services.catalog.agents import Agents
from celeriac.services.catalog.specs import SpecCache
from celeriac.services.catalog.tasks import Tasks
from celeriac.services.executions.submit import Submit
from tests.support.confined import confined
from tests.support.durable_bench import Bench
from tests.support.memory import MemoryRunners
from tests.support.repositories import Desk, Origin, answer

pytestmark = pytest.mark.requirement("F26")

SCRIPT = f"""
read start
case "$start" in
    *"expected 2"*) echo 2 >value; {answer("mended")};;
    *) echo 3 >value; {answer("done")};;
esac
"""


def test_an_execution_in_a_checkout_is_sent_back_once_and_leaves_its_change(
    bench: Bench, tmp_path: Path
) -> None:
    bounds = confined({"PATH": os.environ["PATH"]})
    origin = Origin(tmp_path / "origin")
    origin.commit({"README": "later\n"})
    runner = CommandRunner(commands={"shell": ["sh", "-c"]}, confinement=bounds)
    worker, core = bench.worker, bench.core
    runs = worker.execute.runs
    desk = Desk(tmp_path / "home", origin, bounds)
    places = replace(desk.places, workdirs=runs.workdirs)
    desk.shared = replace(desk.shared, places=places)
    worker.execute = replace(
        worker.execute,
        runs=replace(
            runs,
            runners=MemoryRunners({RunnerName.COMMAND: runner}),
            in_checkout=desk.runner,
        ),
    )
    agent = CommandAgent(command="shell", arguments=(SCRIPT,))
    Agents(core.database).create(core.actor, name="mender", spec=agent)
    check = "grep -qx 2 value || { echo expected 2; exit 1; }"
    repository = desk.repository(path="lib", verify=[check])
    spec = TaskSpec(repository=repository, retry=RetryPolicy(max_retries=0))
    task = Tasks(core.database).create(core.actor, name="mend", agent="mender", spec=spec)

    def submit(**choice: str) -> SubmitRequest:
        options = RunOptions(repository=RepositoryChoice(**choice))
        return SubmitRequest(task_id=task.id, options=options)

    with pytest.raises(InvalidInputError, match="CELERIAC_REPOSITORIES_ALLOW allows https://"):
        core.submit(core.actor, submit(ref="v1"))
    send = Submit(
        core.database, SpecCache(core.database), core.dispatch, repositories=desk.shared.rule
    )
    for field, value in (("path", "other"), ("git", origin.url)):
        with pytest.raises(InvalidInputError, match="does not leave") as caught:
            send(core.actor, submit(**{field: value}))
        assert caught.value.field == f"repository.{field}"
    execution_id = send(core.actor, submit(ref="v1")).execution_id
    bench.work()

    done = core.get(execution_id)
    assert (done.status, done.result) == (Status.COMPLETED, "mended"), done.error_message
    kinds = [each for each in core.event_types(execution_id) if each in {"checkout", "change"}]
    assert kinds == ["checkout", "change"]
    with core.database.autocommit() as connection:
        found = connection.execute(text("SELECT path FROM artifacts ORDER BY path"))
        names = found.scalars().all()
    kept = ["changes.bundle", "changes.patch", "repository/README", "repository/lib/value"]
    assert [name for name in names if not name.startswith("checkout")] == kept
    core.assert_consistent()
    # a ref that does not exist fails once, and for good
    execution_id = send(core.actor, submit(ref="nowhere")).execution_id
    bench.work()
    failed = core.get(execution_id)
    assert (failed.status, failed.error_code) == (Status.FAILED, "repository_refused")
