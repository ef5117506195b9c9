"""Submitting: checked first, stored once."""

from uuid import uuid4

import pytest
from sqlalchemy import text

from celeriac.domain.accounts import Role
from celeriac.domain.agents import PythonAgent
from celeriac.domain.errors import (
    IdempotencyMismatchError,
    InvalidInputError,
    NotFoundError,
    TaskInactiveError,
    TemplateRenderError,
    VariablesInvalidError,
)
from celeriac.domain.executions.model import Idempotency, SubmitRequest
from celeriac.domain.executions.states import Status
from celeriac.domain.tasks import TaskSpec
from celeriac.services.catalog.agents import Agents
from celeriac.services.catalog.tasks import Tasks
from tests.support.catalog import make_actor, make_colleague, make_task
from tests.support.core import Core
from tests.support.together import together

SPEC = TaskSpec(
    prompt="Write to {{ name }}.",
    variables_schema={
        "type": "object",
        "properties": {"name": {"type": "string"}},
        "required": ["name"],
        "additionalProperties": False,
    },
)


def stored(core: Core) -> int:
    with core.database.autocommit() as connection:
        query = text("SELECT (SELECT count(*) FROM executions) + (SELECT count(*) FROM events)")
        return int(connection.execute(query).scalar_one())


@pytest.mark.requirement("A6")
@pytest.mark.parametrize(
    "variables", [{}, {"name": 1}, {"name": "Ada", "more": 1}, {"name": None}, {"nam": "Ada"}]
)
def test_variables_that_don_t_fit_store_nothing(core: Core, variables: dict[str, object]) -> None:
    task = make_task(core.database, core.actor, spec=SPEC)
    with pytest.raises(VariablesInvalidError, match=r"name|more|nam"):
        core.submit(core.actor, SubmitRequest(task_id=task, variables=variables))
    with pytest.raises(VariablesInvalidError, match=r"^Item 1: "):
        core.submit.batch(core.actor, SubmitRequest(task_id=task), [{"name": "Ada"}, variables])
    assert stored(core) == 0


@pytest.mark.requirement("A6")
def test_a_template_that_fails_stores_nothing(core: Core) -> None:
    task = make_task(core.database, core.actor, spec=TaskSpec(prompt="{{ missing }}"))
    with pytest.raises(TemplateRenderError):
        core.submit(core.actor, SubmitRequest(task_id=task))
    assert stored(core) == 0


@pytest.mark.requirement("A6", "A20")
def test_unknown_inactive_and_other_workspaces_tasks_are_refused(core: Core) -> None:
    with pytest.raises(NotFoundError):
        core.submit(core.actor, SubmitRequest(task_id=uuid4()))
    strangers = make_actor(core.database), make_actor(core.database, Role.ADMIN)
    for stranger in strangers:
        with pytest.raises(NotFoundError):
            core.submit(stranger, SubmitRequest(task_id=core.task))
    core.submit(core.actor, SubmitRequest(task_id=core.task))  # now the task is in the cache
    Tasks(core.database).change(core.actor, str(core.task), active=False)
    before = stored(core)
    with pytest.raises(TaskInactiveError):
        core.submit(core.actor, SubmitRequest(task_id=core.task))
    for stranger in strangers:
        with pytest.raises(NotFoundError):  # not that there is an inactive one, with its name
            core.submit(stranger, SubmitRequest(task_id=core.task))
    assert stored(core) == before


def test_a_member_runs_the_tasks_of_others_in_the_workspace(core: Core) -> None:
    colleague = make_colleague(core.database, core.actor)
    submitted = core.submit(colleague, SubmitRequest(task_id=core.task))
    execution = core.get(submitted.execution_id)
    assert execution.owner_id == colleague.user_id
    assert execution.workspace_id == core.actor.workspace_id


def test_an_empty_batch_is_refused(core: Core) -> None:
    with pytest.raises(InvalidInputError, match="items"):
        core.submit.batch(core.actor, SubmitRequest(task_id=core.task), [])


@pytest.mark.parametrize("many", [False, True])
def test_one_key_makes_one_resource_however_often_it_comes(core: Core, many: bool) -> None:
    request = SubmitRequest(task_id=core.task, idempotency=Idempotency("key", "fingerprint"))

    def send() -> tuple[object, bool]:
        if many:
            batch = core.submit.batch(core.actor, request, [{}, {}])
            return batch.batch_id, batch.created
        one = core.submit(core.actor, request)
        return one.execution_id, one.created

    answers = [*together([send] * 8), send()]
    assert len({resource for resource, _ in answers}) == 1
    assert sum(created for _, created in answers) == 1
    with core.database.autocommit() as connection:
        count = connection.execute(text("SELECT count(*) FROM executions")).scalar_one()
    assert count == (2 if many else 1)


def test_a_key_with_another_request_is_refused(core: Core) -> None:
    first = SubmitRequest(task_id=core.task, idempotency=Idempotency("key", "one"))
    core.submit(core.actor, first)
    with pytest.raises(IdempotencyMismatchError):
        core.submit(
            core.actor, SubmitRequest(task_id=core.task, idempotency=Idempotency("key", "two"))
        )


def test_keys_of_different_people_are_different(core: Core) -> None:
    colleague = make_colleague(core.database, core.actor)
    request = SubmitRequest(task_id=core.task, idempotency=Idempotency("key", "fingerprint"))
    mine = core.submit(core.actor, request)
    assert core.submit(colleague, request).execution_id != mine.execution_id


@pytest.mark.parametrize("idempotency", [None, Idempotency("key", "fingerprint")])
def test_a_task_that_changed_meanwhile_is_read_again(
    core: Core, idempotency: Idempotency | None
) -> None:
    core.submit(core.actor, SubmitRequest(task_id=core.task))
    changed = Tasks(core.database).change(
        core.actor, str(core.task), spec=TaskSpec(prompt="Another", max_crashes=7)
    )
    submitted = core.submit(core.actor, SubmitRequest(task_id=core.task, idempotency=idempotency))
    execution = core.get(submitted.execution_id)
    assert execution.status is Status.QUEUED
    spec = PythonAgent(function="tests.support.fleet_agents:note")
    Agents(core.database).change(core.actor, str(changed.agent_id), spec=spec)
    after = core.submit(core.actor, SubmitRequest(task_id=core.task))
    assert core.get(after.execution_id).agent_version_id != execution.agent_version_id


@pytest.mark.parametrize("text_", ["nul \x00", "emoji 🌱", "\\u0000"])
def test_any_text_can_be_a_variable(core: Core, text_: str) -> None:
    submitted = core.submit(core.actor, SubmitRequest(task_id=core.task, variables={"t": text_}))
    assert core.get(submitted.execution_id).variables == {"t": text_.replace("\x00", "�")}
