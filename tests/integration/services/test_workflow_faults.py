"""Random workflows under faults: every run ends, by the rules, and no step completes twice."""

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from celeriac.db.engine import Database
from tests.support.forgetful import ForgetfulDatabase
from tests.support.workflow_faults import FaultyRun, Scenario, scenarios

pytestmark = pytest.mark.requirement("E3")


@pytest.fixture
def forgetful(database: Database) -> Iterator[ForgetfulDatabase]:
    """A database that loses answers."""
    forgetful = ForgetfulDatabase(database)
    yield forgetful
    forgetful.close()


@pytest.mark.failure("W12")
@pytest.mark.parametrize("faults", [False, True])
@settings(
    max_examples=10,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # a smaller example takes minutes to find
)
@given(scenario=scenarios())
def test_a_run_ends_by_the_rules(
    forgetful: ForgetfulDatabase, faults: bool, scenario: Scenario
) -> None:
    run = FaultyRun(forgetful, scenario, faults=faults)
    run.drive()
    run.assert_right()
