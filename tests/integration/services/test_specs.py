"""Versions of agents and tasks with the same contents share one stored specification."""

from collections.abc import Sequence
from functools import partial
from uuid import UUID

import pytest
from sqlalchemy import text

from celeriac.db.catalog import store_specs
from celeriac.domain.agents import AgentSpec, PythonAgent
from celeriac.domain.tasks import TaskSpec
from celeriac.services.catalog.specs import SpecCache
from celeriac.services.catalog.tasks import Tasks
from tests.support.catalog import make_actor, make_task
from tests.support.core import Core
from tests.support.together import together


def spec(name: str) -> TaskSpec:
    return TaskSpec(prompt=f"the prompt of {name}")


def stored(core: Core, name: str) -> int:
    """Return how many stored specifications have this prompt."""
    query = text("SELECT count(*) FROM specs WHERE body ->> 'prompt' = :prompt")
    with core.database.autocommit() as connection:
        return int(connection.execute(query, {"prompt": spec(name).prompt}).scalar_one())


def versions(core: Core, task: UUID) -> list[bytes]:
    query = text("SELECT spec_hash FROM task_versions WHERE task_id = :id ORDER BY version")
    with core.database.autocommit() as connection:
        return list(connection.execute(query, {"id": task}).scalars())


def test_tasks_of_different_users_with_the_same_contents_share_them(core: Core) -> None:
    ada, bob = make_actor(core.database), make_actor(core.database)
    first, second = (make_task(core.database, actor, spec=spec("shared")) for actor in (ada, bob))
    assert versions(core, first) == versions(core, second)
    assert stored(core, "shared") == 1
    Tasks(core.database).change(ada, str(first), spec=spec("changed"))
    specs = SpecCache(core.database)
    assert specs.current(first, workspace=ada.workspace_id).task == spec("changed")
    assert specs.current(second, workspace=bob.workspace_id).task == spec("shared")


def test_a_version_that_returns_to_earlier_contents_refers_to_them(core: Core) -> None:
    actor = make_actor(core.database)
    task = make_task(core.database, actor, spec=spec("back"))
    tasks = Tasks(core.database)
    tasks.change(actor, str(task), spec=spec("forth"))
    assert tasks.change(actor, str(task), spec=spec("back")).version == 3
    first, second, third = versions(core, task)
    assert first == third != second
    assert (stored(core, "back"), stored(core, "forth")) == (1, 1)


@pytest.mark.parametrize("count", [2, 6])
def test_the_same_contents_in_any_order_at_once_are_stored_once(core: Core, count: int) -> None:
    wanted: list[AgentSpec | TaskSpec] = [spec(f"{count} {number}") for number in range(20)]
    wanted += [PythonAgent(function=f"module:f{count}_{number}") for number in range(20)]

    def store(order: Sequence[AgentSpec | TaskSpec]) -> None:
        for _ in range(3):
            with core.database.transaction() as connection:
                store_specs(connection, order)

    orders = [wanted, wanted[::-1]] * (count // 2)
    together([partial(store, order) for order in orders])
    assert [stored(core, f"{count} {number}") for number in range(20)] == [1] * 20


def ordered(*names: str) -> TaskSpec:
    properties = {name: {"type": "string"} for name in names}
    return TaskSpec(
        prompt="the prompt of ordered",
        output_schema={"type": "object", "properties": properties},
    )


def names_of(task: TaskSpec) -> list[str]:
    assert task.output_schema is not None
    return [*task.output_schema["properties"]]


def test_the_properties_of_a_schema_keep_their_order(core: Core) -> None:
    """Models write a result in it: an answer after its reason is another one than before it."""
    actor = make_actor(core.database)
    task = make_task(core.database, actor, spec=ordered("reasoning", "fit", "b", "a"))
    specs = SpecCache(core.database)
    assert names_of(specs.current(task, workspace=actor.workspace_id).task) == [
        "reasoning",
        "fit",
        "b",
        "a",
    ]


def test_another_order_of_properties_is_another_version(core: Core) -> None:
    actor = make_actor(core.database)
    task = make_task(core.database, actor, spec=ordered("reason", "fit"))
    tasks = Tasks(core.database)
    same = tasks.change(actor, str(task), spec=ordered("reason", "fit"))
    changed = tasks.change(actor, str(task), spec=ordered("fit", "reason"))
    assert (same.version, changed.version) == (1, 2)
    assert names_of(changed.spec) == ["fit", "reason"]
