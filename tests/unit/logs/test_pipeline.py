"""What a line looks like and where it goes."""

import io
import logging
import os
import warnings
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import pytest

from celeriac import logs
from celeriac.domain.errors import ConfigurationError
from tests.support.logfiles import json_lines

CapturedFd = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def restored_logging() -> Iterator[None]:
    yield
    logs.shutdown()


def configure(directory: Path | None = None, **options: object) -> None:
    options.setdefault("service", logs.Service.WORKER)
    options.setdefault("console", "off")
    logs.configure(logs.LogOptions(directory=directory, **options))  # type: ignore[arg-type]


def test_a_line_has_a_fixed_order_of_keys(capfd: CapturedFd) -> None:
    configure(console="json")
    with logs.bind(celery_task_id="c", execution_id="e", request_id="r"):
        logs.get_logger("celeriac.test").info(logs.Step.EXECUTION_CREATED, queue="q", attempt=1)
    logs.flush()
    (line,) = json_lines(capfd.readouterr().out)
    assert list(line) == [
        "timestamp",
        "level",
        "service",
        "event",
        "request_id",
        "execution_id",
        "celery_task_id",
        "queue",
        "attempt",
        "logger",
    ]
    assert line["event"] == "execution.created"
    assert line["service"] == "worker"
    assert line["logger"] == "celeriac.test"


def test_the_timestamp_is_rfc_3339_in_utc_with_microseconds(tmp_path: Path) -> None:
    configure(tmp_path)
    before = datetime.now(UTC)
    logs.get_logger("t").info("x")
    logs.flush()
    (line,) = json_lines(tmp_path / "celery-worker.log")
    assert len(line["timestamp"]) == len("2026-01-01T00:00:00.000000Z")
    assert before <= datetime.fromisoformat(line["timestamp"]) <= datetime.now(UTC)


@pytest.mark.parametrize(
    ("service", "name"),
    [
        (logs.Service.API, "api.log"),
        (logs.Service.WORKER, "celery-worker.log"),
        (logs.Service.BEAT, "celery-beat.log"),
    ],
)
def test_each_service_has_its_file(tmp_path: Path, service: logs.Service, name: str) -> None:
    configure(tmp_path, service=service)
    logs.get_logger("t").info("hello")
    logs.flush()
    assert [line["event"] for line in json_lines(tmp_path / name)] == ["hello"]


def test_lines_of_an_execution_also_go_to_its_own_file(tmp_path: Path) -> None:
    configure(tmp_path)
    log, execution_id = logs.get_logger("t"), uuid4()
    log.info("before")
    with logs.bind(execution_id=execution_id):
        log.info("inside")
    log.info("named", execution_id=execution_id)
    logs.flush()
    own = json_lines(tmp_path / f"task-execution-{execution_id}.log")
    assert [line["event"] for line in own] == ["inside", "named"]
    assert len(json_lines(tmp_path / "celery-worker.log")) == 3


def test_errors_of_executions_also_go_to_the_file_of_the_day(tmp_path: Path) -> None:
    configure(tmp_path)
    log = logs.get_logger("t")
    log.error("no execution")
    with logs.bind(execution_id=str(uuid4())):
        log.warning("not yet an error")
        log.error("failed")
    logs.flush()
    (line,) = json_lines(tmp_path / "celery-worker.log")[-1:]
    (file,) = (tmp_path / "errors").iterdir()
    assert file.name == f"task-errors-{line['timestamp'][:10]}.log"
    assert [entry["event"] for entry in json_lines(file)] == ["failed"]


def test_execution_files_can_be_switched_off(tmp_path: Path) -> None:
    configure(tmp_path, execution_files=False)
    with logs.bind(execution_id=str(uuid4())):
        logs.get_logger("t").error("failed")
    logs.flush()
    assert not list(tmp_path.glob("task-execution-*"))
    assert len(list((tmp_path / "errors").iterdir())) == 1, "errors are kept all the same"


def test_an_execution_id_can_not_lead_out_of_the_directory(tmp_path: Path) -> None:
    configure(tmp_path / "logs")
    with logs.bind(execution_id="/../../escaped"):
        logs.get_logger("t").info("x")
    logs.flush()
    assert [path.name for path in tmp_path.iterdir()] == ["logs"]


def test_lines_of_libraries_take_the_same_way(tmp_path: Path) -> None:
    configure(tmp_path)
    with logs.bind(request_id="r"):
        logging.getLogger("some.library").warning("broker at %s", "redis://:hunter2@host/1")
    logs.flush()
    (line,) = json_lines(tmp_path / "celery-worker.log")
    assert line["event"] == "broker at redis://***@host/1"
    assert (line["logger"], line["level"]) == ("some.library", "warning")
    assert line["request_id"] == "r"


def test_warnings_are_logged(tmp_path: Path) -> None:
    configure(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("old thing", DeprecationWarning, stacklevel=1)
    logs.flush()
    (line,) = json_lines(tmp_path / "celery-worker.log")
    assert "old thing" in line["event"]


def test_what_celery_and_http_clients_repeat_is_left_out(tmp_path: Path) -> None:
    configure(tmp_path, level="DEBUG")
    logging.getLogger("celery.worker.strategy").info("Task received")
    logging.getLogger("httpx").info("HTTP Request: POST")
    logging.getLogger("alembic.runtime.migration").info("Context impl PostgresqlImpl.")
    logging.getLogger("celery.app.trace").error("Task raised")
    logging.getLogger("celery.app.trace").critical("Task has an INTERNAL ERROR")
    logging.getLogger("celery.worker.strategy").error("Task is unknown")
    logs.flush()
    events = [line["event"] for line in json_lines(tmp_path / "celery-worker.log")]
    assert events == ["Task has an INTERNAL ERROR", "Task is unknown"]


def test_a_full_traceback_is_kept(tmp_path: Path) -> None:
    configure(tmp_path)
    try:
        raise ValueError("broken")
    except ValueError:
        logs.get_logger("t").exception("it failed")
    logs.get_logger("t").error("again", exc_info=KeyError("later"))
    logs.flush()
    first, second = json_lines(tmp_path / "celery-worker.log")
    assert first["exception"].startswith("Traceback (most recent call last):")
    assert first["exception"].endswith("ValueError: broken")
    assert second["exception"] == "KeyError: 'later'"


def test_a_line_of_any_size_stays_readable(tmp_path: Path) -> None:
    configure(tmp_path)
    logs.get_logger("t").info("big", text="x" * 1_000_000, attempt=3)
    logs.flush()
    (line,) = json_lines(tmp_path / "celery-worker.log")
    assert len(line["text"]) == 1000
    assert line["attempt"] == 3, "numbers stay numbers"


def test_values_without_a_json_form_are_described(tmp_path: Path) -> None:
    class Mute:
        def __repr__(self) -> str:
            raise RuntimeError

    configure(tmp_path)
    logs.get_logger("t").info("odd", a=object, b=Mute(), c=2**80, d="\ud800", e={1: {2}}, f=7)
    logs.flush()
    (line,) = json_lines(tmp_path / "celery-worker.log")
    assert line["a"] == "<class 'object'>"
    assert line["b"] == "<Mute: RuntimeError in repr>"
    assert line["c"] == str(2**80)
    assert line["d"] == "'\\ud800'"
    assert line["e"] == {"1": [2]}
    assert line["f"] == 7


def test_the_pretty_console_is_for_people(tmp_path: Path, capfd: CapturedFd) -> None:
    configure(tmp_path, console="pretty")
    logs.get_logger("t").info("hello", count=2)
    logs.flush()
    assert "hello" in (out := capfd.readouterr().out)
    assert not out.startswith("{")
    assert json_lines(tmp_path / "celery-worker.log")[0]["count"] == 2, "files are always JSON"


@pytest.mark.parametrize("service", [logs.Service.CLI, logs.Service.AGENT])
def test_programs_with_output_of_their_own_log_on_stderr(
    service: logs.Service, capfd: CapturedFd
) -> None:
    configure(service=service, console="json")
    logs.get_logger("t").warning("careful")
    logs.flush()
    captured = capfd.readouterr()
    assert captured.out == ""
    assert json_lines(captured.err)[0]["service"] == service


def test_levels_below_the_chosen_one_cost_nothing_and_write_nothing(tmp_path: Path) -> None:
    configure(tmp_path, level="warning")
    logs.get_logger("t").info("unheard")
    logging.getLogger("library").info("unheard")
    logs.get_logger("t").warning("heard")
    logs.flush()
    assert [line["event"] for line in json_lines(tmp_path / "celery-worker.log")] == ["heard"]


def test_an_unknown_level_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="'LOUD' is unknown; use one of DEBUG, INFO"):
        configure(level="LOUD")


def test_a_directory_that_can_not_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match="CELERIAC_LOG_DIR"):
        configure(tmp_path / "file" / "logs")


def test_shutdown_restores_standard_logging(tmp_path: Path) -> None:
    root = logging.getLogger()
    before = (root.handlers[:], root.level, logging.getLogger("httpx").level)
    configure(tmp_path)
    logs.shutdown()
    assert (root.handlers[:], root.level, logging.getLogger("httpx").level) == before


def test_configuring_again_replaces(tmp_path: Path) -> None:
    configure(tmp_path / "first")
    log = logs.get_logger("t")
    log.info("one")
    configure(tmp_path / "second")
    log.info("two")
    logs.flush()
    assert [
        [line["event"] for line in json_lines(tmp_path / name / "celery-worker.log")]
        for name in ("first", "second")
    ] == [["one"], ["two"]]


def test_a_console_that_has_gone_away_is_told_once_and_harms_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: CapturedFd
) -> None:
    reader, broken = os.pipe()
    os.close(reader)
    monkeypatch.setattr("celeriac.logs._STDOUT", broken)
    configure(tmp_path, console="json")
    log = logs.get_logger("t")
    for number in range(3):
        log.info("line", number=number)
        logs.flush()
    logs.shutdown()
    os.close(broken)
    complaints = capfd.readouterr().err.splitlines()
    assert complaints == [
        "celeriac logs: cannot write to the console: Broken pipe; lines are lost until it works",
        "celeriac logs: lost 3 lines for console",
    ]
    assert len(json_lines(tmp_path / "celery-worker.log")) == 3


def test_a_handler_error_never_reaches_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(tmp_path)
    monkeypatch.setattr("sys.stderr", io.StringIO())
    logging.getLogger("library").error("%d", "not a number")
    logs.get_logger("t").info("still here")
    logs.flush()
    assert [line["event"] for line in json_lines(tmp_path / "celery-worker.log")] == ["still here"]
