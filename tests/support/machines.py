"""Runs state machines against a real database."""

from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis.errors import FlakyStrategyDefinition
from hypothesis.stateful import run_state_machine_as_test

_TRIES = 3


def run_machine(machine: Callable[[], Any], *, examples: int, steps: int) -> None:
    """Run the same examples each time, and shrink a failure.

    Which rules are enabled depends on the database's time, so a slow machine may enable other ones
    after the same steps. Hypothesis refuses that, and says nothing about the code. The examples
    are run again then; a failure of the code recurs.
    """
    for tried in range(1, _TRIES + 1):
        try:
            run_state_machine_as_test(
                machine,  # type: ignore[arg-type]
                settings=settings(
                    max_examples=examples,
                    stateful_step_count=steps,
                    deadline=None,
                    derandomize=True,
                    database=None,
                    phases=[Phase.generate, Phase.shrink],
                    suppress_health_check=list(HealthCheck),
                ),
            )
        except FlakyStrategyDefinition:
            if tried == _TRIES:
                raise
        else:
            return
