"""What `celeriac sitrep` and `celeriac stats` show and accept."""

from datetime import UTC, datetime
from typing import Any

import pytest
import typer

from celeriac import wire
from celeriac.cli.main import main
from celeriac.cli.sitrep import lines_of
from celeriac.cli.statistics import parse_window
from celeriac.domain.sitrep import Level, SitrepScope

AT = datetime(2026, 11, 22, tzinfo=UTC)
FIGURES = (
    "total_tasks", "active_tasks", "completed_tasks", "failed_tasks", "pending_tasks",
    "success_rate",
)  # fmt: skip
SECTIONS = (
    "totals", "window", "plain_tasks", "waiting", "recent_tasks", "workers", "queues",
    "periodic_tasks", "attention", "broker", "plain_waiting",
)  # fmt: skip


def section(data: Any = None) -> dict[str, Any]:
    return {"ok": True, "as_of": AT, "age_seconds": 0.1, "data": data, "error": None}


def report(**sections: Any) -> wire.Sitrep:
    return wire.Sitrep.model_validate(
        {
            "level": Level.WELL, "headline": "All is well.", "scope": SitrepScope.WORKSPACE,
            "as_of": AT, "problems": [], "capped": False, **dict.fromkeys(FIGURES),
            **{name: section(sections.get(name)) for name in SECTIONS},
        }
    )  # fmt: skip


def test_an_error_of_several_lines_is_one_line_of_the_report() -> None:
    task = {
        "task_id": "a", "type": "execution", "name": "Import", "status": "failed",
        "description": "", "started_at": None, "completed_at": None, "duration_seconds": None,
        "error_message": "refused\nWELL: All is well.\u2028CRITICAL: no",
    }  # fmt: skip
    lines = list(lines_of(report(recent_tasks={"items": [task], "next_cursor": None})))
    assert lines[-1] == "  recent   Import · failed: refused WELL: All is well. CRITICAL: no"


def test_plain_tasks_that_wait_are_told_with_their_queues() -> None:
    ends = {"completed": 0, "failed": 0, "cancelled": 0}
    waiting = {
        "count": 2, "capped": True, "tasks": [{"queue": "mail", "name": "shop.mail", "count": 2}],
    }  # fmt: skip
    plain = {"totals": ends, "window": ends, "running": 0}
    lines = list(lines_of(report(plain_tasks=plain, plain_waiting=waiting)))
    assert lines[-2:] == [
        "of these, plain Celery tasks: 0 active, 2+ pending, 0 completed, 0 failed",
        "  waiting  shop.mail in mail: 2",
    ]


def test_one_worker_and_one_slot_are_no_plural() -> None:
    queue = {
        "queue": "mail", "depth": 0, "capped": False, "oldest_seconds": None, "workers": 1,
        "slots": 1, "paused": False, "paused_reason": None,
    }  # fmt: skip
    lines = list(lines_of(report(queues=[queue])))
    assert lines[-1] == "  queue    mail: 0 waiting, 1 slot of 1 worker"


@pytest.mark.parametrize("given", ["59s", "0m", "93d", "999999d"])
def test_a_window_that_the_api_refuses_is_refused_under_the_options_name(given: str) -> None:
    with pytest.raises(typer.BadParameter, match="is not between 60s and 92d"):
        parse_window(given)
    assert (parse_window("60s"), parse_window("92d")) == (60, 92 * 86_400)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["sitrep", "--every", "0"], 3),
        (["sitrep", "--no-such"], 3),
        (["stats", "--no-such"], 2),
    ],
)
def test_who_asks_for_the_report_wrongly_is_not_told_that_all_is_critical(
    arguments: list[str], code: int
) -> None:
    assert main(arguments) == code
