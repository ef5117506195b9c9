"""Bugs of other tools for Celery, each with the test that ours has it not.

`F` are issues of Flower, `E` of danihodovic/celery-exporter, `O` of OvalMoney/celery-exporter,
`C` of Celery, `K` of kanchi, `P` of Prometheus' Python client. What cannot apply says why.
"""

import ast
from functools import cache
from pathlib import Path

import pytest
from prometheus_client import values

from celeriac.api.metrics.requests import RequestTimes
from celeriac.api.metrics.route import render
from celeriac.domain.metrics import Figures

ROOT = Path(__file__).parents[1]
BUGS: dict[str, str] = {
    "1 F1305 F134 F770 F326: memory grows with the events of tasks": (
        "e2e/celery/test_settings.py::test_a_running_worker_has_the_settings_of_a8"
    ),
    "2 F1428 F869: tasks of dead workers stay received or started": (
        "chaos/test_worker_killed.py::test_killed_in_the_middle_of_its_work"
    ),
    "3 F314 F613: silent once max_tasks are reached": (
        "e2e/celery/test_pools.py::test_a_worker_stays_up_through_thousands_of_tasks"
    ),
    "4 F900 F1422: ghost and flapping workers": (
        "integration/services/test_worker_leases.py"
        "::test_a_late_beat_of_a_lost_worker_is_refused_even_if_not_all_is_rescued_yet"
    ),
    "5 F806 F243 F760: live workers shown offline": (
        "chaos/test_stalls.py::test_a_bomb_holds_up_nobody"
    ),
    "6 F603 F578: dead workers shown online": (
        "integration/api/test_metrics.py::test_metrics_say_what_ended_what_waits_and_who_works"
    ),
    "7 F1128: dead workers stay in metrics": (
        "integration/api/test_metrics.py::test_metrics_say_what_ended_what_waits_and_who_works"
    ),
    "8 F1027 F1466 F775 F788: inspect fails": (
        "unit/test_bugs_of_others.py::test_nobody_but_people_asks_workers_by_broadcast"
    ),
    "9 F1390: a page hangs while inspect waits": (
        "e2e/test_situation.py::test_a_server_that_is_away_is_named_in_time"
    ),
    "10 F203 F224 F476: history is lost at a restart": "chaos/test_valkey.py::test_emptied",
    "11 F1127: waiting tasks are invisible": (
        "integration/api/test_sitrep.py::test_what_waits_for_a_worker_that_nobody_starts"
    ),
    "12 F530 F1130 F487: wrong states": (
        "e2e/celery/test_task_status.py::test_every_state_of_a_plain_task_is_told"
    ),
    "13 F553 F1184: the list of tasks is slow": (
        "integration/services/test_filters.py::test_a_filter_reads_a_bounded_part"
    ),
    "14 F1443: arguments are cut": (
        "integration/api/test_lists.py::test_what_is_large_is_included_when_asked_for_in_bounded_pages"
    ),
    "15 F1217, CVE-2022-30034: a way around the login": (
        "unit/api/test_description.py::test_all_but_health_links_invitations_and_hooks_need_a_key"
    ),
    "16 F1240: no API behind a login": (
        "integration/api/test_auth.py::test_each_role_may_do_its_part"
    ),
    "17 F706 C6089 C958 C436: events nobody asked for fill Redis": (
        "e2e/celery/test_settings.py::test_a_running_worker_has_the_settings_of_a8"
    ),
    "18 E272: lists of priorities are not counted": (
        "integration/adapters/test_ports.py::test_the_more_urgent_goes_first_then_the_older"
    ),
    "19 E190 E218 E143 E382: counts stop or drift": (
        "integration/services/test_rollups.py::test_folds_at_once_lose_and_double_nothing"
    ),
    "20 E228 E137: worker_up stays 1 after SIGKILL": (
        "integration/api/test_metrics.py::test_metrics_say_what_ended_what_waits_and_who_works"
    ),
    "21 E267 E388: a million series by host name": (
        "integration/api/test_metrics.py::test_many_tasks_have_a_bounded_number_of_series"
    ),
    "22 E260: no series of a queue without workers": (
        "integration/api/test_metrics.py::test_metrics_say_what_ended_what_waits_and_who_works"
    ),
    "23 O29 O63: the thread that counts dies silently": (
        "integration/api/test_metrics.py::test_metrics_say_when_the_keeper_worked_last"
    ),
    "24 K86: a broker that was away is never asked again": (
        "integration/api/test_metrics.py"
        "::test_what_a_source_does_not_say_is_left_out_within_a_bound"
    ),
    "25 P275 P568: files of the multiprocess mode leak": (
        "unit/test_bugs_of_others.py::test_metrics_leave_no_files"
    ),
}


@cache
def _tests(page: str) -> frozenset[str]:
    tree = ast.parse((ROOT / page).read_text(encoding="utf-8"))
    return frozenset(each.name for each in ast.walk(tree) if isinstance(each, ast.FunctionDef))


@pytest.mark.requirement("B12")
def test_each_bug_has_a_test_that_is_there() -> None:
    assert [int(bug.split(" ")[0]) for bug in BUGS] == list(range(1, 26))
    for bug, where in BUGS.items():
        page, _, name = where.partition("::")
        assert name in _tests(page), bug


def test_nobody_but_people_asks_workers_by_broadcast() -> None:
    """Flower asks its pages' data by `inspect`; ours is in rows."""
    package = ROOT.parent / "celeriac"
    asking = {
        str(path.relative_to(package)): name
        for path in package.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute)
        and (name := node.attr) in {"inspect", "broadcast"}
        and isinstance(node.value, ast.Attribute)
        and node.value.attr == "control"
    }
    assert asking == {}


def test_metrics_leave_no_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What is counted in a process is in its memory; all else is in rows."""
    monkeypatch.chdir(tmp_path)
    times = RequestTimes()
    times.observe({"method": "GET", "path": "/"}, 200, 0.1)
    assert b"celeriac_http_request_seconds_count" in render(
        Figures(database=None, redis=None, disks=None), times
    )
    assert list(tmp_path.iterdir()) == []
    assert values.ValueClass is values.MutexValue
    for place in ("celeriac", "deploy"):
        for path in (ROOT.parent / place).rglob("*"):
            if path.is_file() and path.suffix in {".py", ".yml", ".yaml", ".service", ".env"}:
                text = path.read_text(encoding="utf-8")
                assert "PROMETHEUS_MULTIPROC_DIR" not in text, path
