"""docs/logs.md names every event and file that the code knows, and no event that it doesn't."""

import re
from pathlib import Path

import pytest

from celeriac.logs import CORRELATION_IDS, LINES_LOST, CeleryEvent, Service, Step
from celeriac.logs.reading import SERVICE_FILES
from celeriac.logs.writer import error_file, execution_file

PAGE = (Path(__file__).parents[3] / "docs" / "logs.md").read_text()


@pytest.mark.parametrize("event", [*Step, *CeleryEvent, LINES_LOST])
def test_every_event_is_described(event: str) -> None:
    assert f"`{event}`" in PAGE


def test_every_event_described_exists() -> None:
    prefixes = "approval|execution|session|agent|message|tool|report|celery|logs"
    described = set(re.findall(rf"`((?:{prefixes})\.[a-z_]+)`", PAGE))
    assert described - {"celeriac.logs"} == {*Step, *CeleryEvent, LINES_LOST}


@pytest.mark.parametrize("name", [*CORRELATION_IDS, *Service, *SERVICE_FILES])
def test_every_key_service_and_file_is_described(name: str) -> None:
    assert f"`{name}`" in PAGE


def test_the_files_have_the_names_that_are_promised() -> None:
    home = Path("/logs")
    assert execution_file(home, "{execution_id}").name in PAGE
    assert str(error_file(home, "{date}").relative_to(home)) in PAGE
