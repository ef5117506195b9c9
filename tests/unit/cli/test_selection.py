"""Options that say which executions are meant."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
import typer

from celeriac.cli.core.output import ExitCode
from celeriac.cli.executions.selection import LiveSelection, parse_moment
from celeriac.cli.main import main
from celeriac.client import ClientError
from celeriac.client.executions import ExecutionFilter, Executions, OnPage, filter_fields
from celeriac.domain.executions.states import Status, WaitingFor
from celeriac.wire import BulkResult


@pytest.mark.parametrize(
    ("text", "ago"),
    [
        ("90s", timedelta(seconds=90)),
        ("30m", timedelta(minutes=30)),
        ("2h", timedelta(hours=2)),
        ("7d", timedelta(days=7)),
        (" 2 h ", timedelta(hours=2)),
    ],
)
def test_a_time_may_be_so_long_ago(text: str, ago: timedelta) -> None:
    before = datetime.now(UTC)
    found = parse_moment(text)
    assert before - ago <= found <= datetime.now(UTC) - ago


@pytest.mark.parametrize(
    ("text", "local"),
    [
        ("2026-11-22", datetime(2026, 11, 22)),  # noqa: DTZ001 - local time is what is tested
        ("2026-11-22T09:30", datetime(2026, 11, 22, 9, 30)),  # noqa: DTZ001
        ("2026-11-22 09:30:01", datetime(2026, 11, 22, 9, 30, 1)),  # noqa: DTZ001
    ],
)
def test_a_day_or_a_time_is_local_time(text: str, local: datetime) -> None:
    assert parse_moment(text) == local.astimezone()


def test_a_time_may_have_its_zone() -> None:
    assert parse_moment("2026-11-22T09:30:00+02:00") == datetime(2026, 11, 22, 7, 30, tzinfo=UTC)


@pytest.mark.parametrize("text", ["", "2", "2w", "yesterday", "-2h", "1999999d", "2026-13-01"])
def test_what_is_no_time_says_what_is(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="2h or 7d"):
        parse_moment(text)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["cancel"], "No executions are selected"),
        (["retry", "--yes"], "No executions are selected"),
        (["cancel", "last", "--status", "pending"], "An id can't be combined"),
        (["retry", "last", "--dry-run"], "An id can't be combined"),
        (["retry", "--status", "failed", "--wait"], "--wait follows one execution"),
        (["cancel", "--since", "2w"], "'--since'"),
        (["list", "--until", "tomorrow"], "'--until'"),
        (["list", "--follow", "--view", "failed-last-day"], "--follow takes no --view"),
    ],
)
def test_wrong_options_are_said_before_a_server_is_asked(
    arguments: list[str],
    words: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CELERIAC_API_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("CELERIAC_API_KEY", "none")
    monkeypatch.setattr("celeriac.cli.core.ids.IdOf.resolve", lambda _, __, text: text)
    assert main(["executions", *arguments]) == ExitCode.USAGE
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("command", ["cancel", "retry"])
def test_what_was_changed_is_printed_although_a_later_request_fails(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CELERIAC_API_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("CELERIAC_API_KEY", "none")
    page = BulkResult(
        dry_run=False,
        affected=1,
        execution_ids=[UUID(int=7)],
        skipped=[],
        remaining=1,
        next_cursor="more",
        batch_id=None,
        links={},
    )

    def change(*_: object, dry_run: bool = False, on_page: OnPage = None, **__: object) -> object:
        if dry_run:
            return page
        assert on_page is not None
        on_page(page)
        raise ClientError("The connection was cut.", code="unreachable")

    monkeypatch.setattr(Executions, f"{command}_many", change)
    assert main(["executions", command, "--task", "score", "--yes"]) != 0
    printed = capsys.readouterr()
    assert printed.out.split() == [str(UUID(int=7))]
    assert "The connection was cut." in printed.err


def test_what_is_selected_is_what_is_sent() -> None:
    batch, at = UUID(int=7), datetime(2026, 11, 22, tzinfo=UTC)
    wanted = LiveSelection(
        status=[Status.FAILED],
        waiting_for=WaitingFor.APPROVAL,
        task="score",
        agent="scorer",
        batch=batch,
        error="agent_failed",
        since=at,
    ).for_client()
    assert filter_fields(wanted) == {
        "status": ["failed"],
        "waiting_for": "approval",
        "task": "score",
        "agent": "scorer",
        "batch_id": str(batch),
        "error_code": "agent_failed",
        "created_after": "2026-11-22T00:00:00+00:00",
    }
    given: ExecutionFilter = {"ids": [batch], "status": "failed", "task": None}
    assert filter_fields(given) == {"id": [str(batch)], "status": ["failed"]}
