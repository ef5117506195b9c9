"""Reading back what was logged."""

from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import orjson
import pytest

from celeriac import logs
from celeriac.logs.reading import LogLine, parse_line, read_execution_lines
from celeriac.logs.writer import execution_file


def raw(second: int, event: str, **fields: object) -> bytes:
    head = {
        "timestamp": f"2026-11-22T10:00:{second:02}.000000Z",
        "level": "info",
        "service": fields.pop("service", "worker"),
        "event": event,
    }
    return orjson.dumps(head | fields) + b"\n"


def read(directory: Path, execution_id: str) -> list[str]:
    return [line.event for line in read_execution_lines(directory, execution_id)]


def test_a_line_is_read_as_it_was_written() -> None:
    assert parse_line(raw(7, "tool.executed", ms=3, execution_id="e")) == LogLine(
        at=datetime(2026, 11, 22, 10, 0, 7, tzinfo=UTC),
        level="info",
        service="worker",
        event="tool.executed",
        fields={"ms": 3, "execution_id": "e"},
    )


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\n",
        b"Traceback (most recent call last):\n",
        b"[1, 2]\n",
        b'{"event": "no time"}\n',
        b'{"timestamp":"yesterday","level":"info","service":"api","event":"x"}\n',
        b'{"timestamp":5,"level":"info","service":"api","event":"x"}\n',
        raw(1, "torn")[:-10],
        b"\xff\xfe\n",
    ],
)
def test_what_is_no_line_is_none(text: bytes) -> None:
    assert parse_line(text) is None


def test_a_whole_line_after_a_torn_one_is_found() -> None:
    line = parse_line(raw(1, "torn")[:-10] + raw(2, "whole"))
    assert line is not None
    assert line.event == "whole"


def test_lines_of_all_services_come_by_time(tmp_path: Path) -> None:
    own = execution_file(tmp_path, "e")
    own.write_bytes(
        raw(3, "execution.picked_up", execution_id="e")
        + raw(1, "execution.requested", execution_id="e", service="api")
        + raw(4, "message.sent", execution_id="e", service="agent")
        + raw(5, "torn", execution_id="e")[:-5]
    )
    assert read(tmp_path, "e") == ["execution.requested", "execution.picked_up", "message.sent"]


def test_without_its_own_file_the_services_files_are_searched(tmp_path: Path) -> None:
    (tmp_path / "api.log").write_bytes(
        raw(2, "execution.created", execution_id="e") + raw(1, "other", execution_id="f")
    )
    (tmp_path / "celery-worker.log").write_bytes(
        raw(1, "mentions e", note="e") + raw(3, "execution.picked_up", execution_id="e")
    )
    assert read(tmp_path, "e") == ["execution.created", "execution.picked_up"]


def test_nothing_logged_reads_as_nothing(tmp_path: Path) -> None:
    assert read(tmp_path, "e") == []
    assert read(tmp_path / "missing", "e") == []


def test_what_the_pipeline_writes_can_be_read(tmp_path: Path) -> None:
    execution_id = str(uuid4())
    logs.configure(logs.LogOptions(service=logs.Service.API, directory=tmp_path, console="off"))
    try:
        with logs.bind(execution_id=execution_id):
            logs.get_logger("t").info(logs.Step.EXECUTION_REQUESTED, variables={"a": 1})
            logs.get_logger("t").info(logs.Step.EXECUTION_CREATED)
    finally:
        logs.shutdown()
    first, second = read_execution_lines(tmp_path, execution_id)
    assert (first.event, first.fields["variables"]) == ("execution.requested", {"a": 1})
    assert (second.event, second.service) == ("execution.created", "api")
