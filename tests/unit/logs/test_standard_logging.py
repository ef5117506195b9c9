"""Lines of processes that are not ours, such as a user's tests."""

import logging
from collections.abc import Iterator

import pytest
import structlog

from celeriac.logs import LogOptions, Service, configure, get_logger, shutdown, use_standard_logging

log = get_logger("celeriac.example")


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    before = structlog.get_config()
    yield
    structlog.configure(**before)


def _fail() -> None:
    password = "wrong-" * 3
    raise ValueError(f"the password has {len(password)} letters")


def test_a_line_is_a_record_whose_traceback_has_no_local_variables(
    caplog: pytest.LogCaptureFixture,
) -> None:
    structlog.reset_defaults()
    use_standard_logging()
    try:
        _fail()
    except ValueError:
        log.exception("example.failed", count=3, api_key="abcdef0123456789")

    [record] = caplog.records
    assert (record.name, record.levelno) == ("celeriac.example", logging.ERROR)
    assert record.getMessage().startswith("example.failed count=3 api_key=")
    assert "ValueError: the password has 18 letters" in caplog.text
    assert "wrong-wrong" not in caplog.text
    assert "abcdef" not in caplog.text


def test_a_configuration_of_the_process_is_kept(caplog: pytest.LogCaptureFixture) -> None:
    mine = structlog.testing.LogCapture()
    structlog.configure(processors=[mine])
    use_standard_logging()
    log.info("example.seen")

    assert [entry["event"] for entry in mine.entries] == ["example.seen"]
    assert caplog.records == []


def test_the_end_of_our_own_logs_gives_back_what_was_before() -> None:
    mine = structlog.testing.LogCapture()
    structlog.configure(processors=[mine])
    configure(LogOptions(service=Service.CLI, console="off"))
    get_logger("celeriac.example").info("example.ours")
    shutdown()
    get_logger("celeriac.example").info("example.seen")

    assert [entry["event"] for entry in mine.entries] == ["example.seen"]
