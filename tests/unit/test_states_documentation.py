"""docs/states.md draws the table of transitions, and nothing else."""

import re
from pathlib import Path

from celeriac.domain.executions.states import TERMINAL, TRANSITIONS, Status

PAGE = (Path(__file__).parents[2] / "docs" / "states.md").read_text()
DRAWN = re.findall(r"^    (\w+|\[\*\]) --> (\w+|\[\*\])(?:: (.+))?$", PAGE, re.MULTILINE)


def test_every_transition_is_drawn_and_no_other() -> None:
    drawn = {line for line in DRAWN if "[*]" not in line[:2]}
    assert drawn == {
        (source.value, target.value, name.value)
        for name, (sources, target) in TRANSITIONS.items()
        for source in sources
    }


def test_ends_are_drawn_as_ends() -> None:
    assert {source for source, target, _ in DRAWN if target == "[*]"} == set(TERMINAL)


def test_an_execution_begins_pending_or_queued() -> None:
    assert {target for source, target, _ in DRAWN if source == "[*]"} == {
        Status.PENDING,
        Status.QUEUED,
    }


def test_every_state_and_transition_is_explained() -> None:
    explained = set(re.findall(r"`(\w+)`", PAGE))
    assert {*Status, *TRANSITIONS} <= explained
