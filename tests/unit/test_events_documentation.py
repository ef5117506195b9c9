"""docs/events.md describes every type of event, and no other."""

import re
from pathlib import Path

from celeriac.domain.executions.events import TERMINAL_EVENTS, EventType

PAGE = (Path(__file__).parents[2] / "docs" / "events.md").read_text()


def test_every_type_has_its_row_and_every_row_its_type() -> None:
    rows = re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)
    assert sorted(rows) == sorted(EventType)


def test_the_ends_are_named_as_ends() -> None:
    (last,) = re.findall(r"^(.+) are the last event of their log", PAGE, re.MULTILINE)
    assert set(re.findall(r"`(\w+)`", last)) == set(TERMINAL_EVENTS)
