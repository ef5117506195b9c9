"""Errors over HTTP: their codes and statuses, as docs/api.md lists them."""

import re
from collections.abc import Iterator
from pathlib import Path

from celeriac.api.core.problems import INTERNAL_ERROR, METHOD_NOT_ALLOWED, status_of
from celeriac.domain import errors
from celeriac.domain.errors import CeleriacError
from celeriac.domain.executions.states import SIMPLE, Status, celery_state

_PAGE = (Path(__file__).parents[3] / "docs" / "api.md").read_text()


def _errors(base: type[CeleriacError]) -> Iterator[type[CeleriacError]]:
    """Yield the errors that may reach the API; those of commands have codes of their own.

    Other tests make subclasses too.
    """
    if base.__module__.startswith("celeriac.cli") or not base.__module__.startswith("celeriac."):
        return
    yield base
    for error in base.__subclasses__():
        yield from _errors(error)


def test_the_page_lists_every_code_with_its_status() -> None:
    listed = {
        code: int(status)
        for code, status in re.findall(r"^\| `(\w+)` \| (\d{3}) \|", _PAGE, re.MULTILINE)
    }
    answered = {error.code: status_of(error) for error in _errors(CeleriacError)}
    expected = {code: status for code, status in answered.items() if status != 500}
    assert listed == expected | {METHOD_NOT_ALLOWED: 405, INTERNAL_ERROR: 500}


def test_what_only_a_worker_raises_is_no_answer() -> None:
    for error in (errors.ExecutionError, errors.LeaseLostError, errors.ConfigurationError):
        assert status_of(error) == 500, error


def test_codes_are_unique() -> None:
    shared = {errors.RetryableError, errors.ExecutionError}
    defined = [error for error in _errors(CeleriacError) if "code" in vars(error)]
    codes = [error.code for error in defined if error not in shared]
    assert len(codes) == len(set(codes))


def test_the_page_tells_celery_s_states() -> None:
    rows = re.findall(r"^\| ([a-z, ]+) \| ([A-Z]+) \| (\w+) \|$", _PAGE, re.MULTILINE)
    told = {
        (status, attempt): (celery, simple)
        for statuses, celery, simple in rows
        for status, attempt in _meant(statuses)
    }
    states = {
        (status, attempt): celery_state(Status(status), attempt=attempt) for status, attempt in told
    }
    assert told == {key: (state.value, SIMPLE[state].value) for key, state in states.items()}
    assert {status for status, _ in told} == set(Status), "every status is told"


def _meant(statuses: str) -> list[tuple[str, int]]:
    if "again" in statuses:
        return [("pending", 1), ("queued", 1)]
    return [(status, 0) for status in statuses.split(", ")]
