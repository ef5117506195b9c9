"""Keys of limits of tasks: what they may name, and what has no value."""

from typing import Any

import pytest

from celeriac.domain.errors import InputInvalidError, InvalidInputError
from celeriac.domain.executions.model import (
    SubmitRequest,
)
from celeriac.domain.tasks import TaskSpec
from celeriac.domain.workspace_limits import LimitSpec
from tests.support.catalog import make_task
from tests.support.core import Core
from tests.support.task_limits import (
    one_per_key,
)
from tests.support.workspace_limits import admin_of, limits_of

pytestmark = pytest.mark.requirement("F13")


@pytest.mark.parametrize(
    ("field", "keyed"),
    [
        ("spec.concurrency.1.key", {"concurrency": [{"key": "'a'", "max": 1}, {"max": 1}]}),
        ("spec.rates.0.key", {"rates": [{"max": 1, "seconds": 1}]}),
        ("spec.debounce.key", {"debounce": {"seconds": 1}}),
    ],
)
def test_a_key_of_a_variable_that_the_schema_forbids_is_refused(
    core: Core, field: str, keyed: dict[str, Any]
) -> None:
    def spec(key: str, **schema: object) -> TaskSpec:
        given: dict[str, Any] = {
            kind: [{"key": key, **each} for each in values]
            if isinstance(values, list)
            else {"key": key, **values}
            for kind, values in keyed.items()
        }
        properties = {"customer": {"type": "object", "properties": {"id": {}}}}
        return TaskSpec(variables_schema={"properties": properties, **schema}, **given)

    closed = {"additionalProperties": False}
    with pytest.raises(InvalidInputError, match="did you mean customer") as refused:
        make_task(core.database, core.actor, spec=spec("variables.custmer.id", **closed))
    assert refused.value.field == field
    # what may have further fields is not known
    for accepted in (
        spec("variables.custmer"),
        spec("variables.customer.name", **closed),
        spec("has(labels.custmer) ? labels.custmer : variables.customer.id", **closed),
    ):
        make_task(core.database, core.actor, spec=accepted)


@pytest.mark.parametrize("rate", [{}, {"seconds": 60.0}])
def test_a_limit_of_a_task_names_a_variable_that_it_may_have(
    core: Core, rate: dict[str, Any]
) -> None:
    schema = {"properties": {"customer": {}}, "additionalProperties": False}
    task = make_task(core.database, core.actor, spec=TaskSpec(variables_schema=schema))
    create, boss = limits_of(core).create, admin_of(core)
    of_region = LimitSpec(key="variables.region", max=1, **rate)
    with pytest.raises(InvalidInputError, match="variables_schema has no region") as refused:
        create(boss, "few", of_region, task_id=task)
    assert refused.value.field == "key"
    assert core.count("limits") == 0
    create(boss, "few", LimitSpec(key="variables.customer", max=1, **rate), task_id=task)
    create(boss, "of all", of_region)


@pytest.mark.failure("Q11")
def test_a_key_that_cannot_be_computed_is_refused_before_anything_is_stored(core: Core) -> None:
    core = one_per_key(core)
    with pytest.raises(InputInvalidError) as refused:
        core.submit(core.actor, SubmitRequest(task_id=core.task))
    assert refused.value.details["field"] == "concurrency.0.key"
    assert core.count("executions") == 0
