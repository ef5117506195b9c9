"""Alert rules and dashboard ask for what the collector tells, and the rules do what they say."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from celeriac.api.metrics.requests import RequestTimes
from celeriac.api.metrics.route import render
from celeriac.db.schema.rollups import COUNTS
from celeriac.domain.metrics import (
    BudgetFigures,
    DatabaseFigures,
    DiskFigures,
    Figures,
    KeeperFigures,
    ModelDurations,
    QueueDurations,
    QueueFigures,
    RedisFigures,
    TaskFigures,
)
from celeriac.domain.operations import WorkerRow
from celeriac.domain.plain_tasks import EndCounts
from celeriac.domain.rollups import Histogram
from celeriac.kit.ids import uuid7

ROOT = Path(__file__).parents[3]
RULES = ROOT / "deploy/prometheus/alerts.yml"
DASHBOARD = ROOT / "deploy/grafana/celeriac.json"
NOW = datetime.now(UTC)

WORKER = WorkerRow(
    id=uuid7(), hostname="celery@a", pid=1, pool="threads", slots=4, running=3, cpu_percent=50,
    memory_bytes=10**8, version="1", queues=("q",), started_at=NOW, seen_at=NOW,
)  # fmt: skip
FIGURES = Figures(
    database=DatabaseFigures(
        tasks=[
            TaskFigures(
                workspace="w", task="t", queue="q", counts=dict.fromkeys(COUNTS, 1), cost=0.5
            )
        ],
        queues=[
            QueueFigures(
                queue="q", due=1, sent=1, running=1, silent=1, oldest_age_seconds=3.0, paused=False
            )
        ],
        durations=[
            QueueDurations(
                queue="q", wait=Histogram({3: 1}), wait_seconds=1.0, run=Histogram({9: 1}),
                run_seconds=1.0,
            )
        ],
        held={("waiting", "approval"): 1},
        plain_tasks={"shop.tasks.mail": EndCounts(1, 1, 1)},
        models=[ModelDurations(provider="p", model="m", calls=Histogram({9: 1}), seconds=1.0)],
        failure_groups={"new": 1},
        workers=[WORKER],
        slots={"q": 4},
        submitted=1,
        approvals=1,
        approval_age_seconds=1.0,
        schedule_late_seconds=1.0,
        unfolded_seconds=1.0,
        keeper=KeeperFigures(last_round=1.0, failures={"retention": 0}),
        budgets=[
            BudgetFigures(workspace="w", scope="task", subject="t", period="day", share=0.5)
        ],
    ),
    redis=RedisFigures(memory_bytes=1, memory_limit_bytes=2, connections=1, seconds=0.001),
    disks=[DiskFigures(directory="home", size_bytes=2, free_bytes=1)],
)  # fmt: skip

Known = dict[str, set[str]]


@pytest.fixture(scope="module")
def known() -> Known:
    """The labels of each series that the API tells, by its name."""
    times = RequestTimes()
    times.observe({"method": "GET", "path": "/"}, 200, 0.1)
    found: Known = {}
    for family in text_string_to_metric_families(render(FIGURES, times).decode()):
        for each in family.samples:
            found.setdefault(each.name, set()).update(each.labels)
    return found


def expressions() -> Iterator[tuple[str, str]]:
    for rule in rules():
        yield rule["alert"], rule["expr"]
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        for target in panel["targets"]:
            yield panel["title"], target["expr"]


def rules() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load(RULES.read_text())["groups"]
    return list(group["rules"])


def misfits(expression: str, known: Known) -> list[str]:
    """Return the names and labels of an expression that nothing has."""
    names = set(re.findall(r"\bceleriac_\w+", expression))
    found = [f"no metric {name}" for name in sorted(names - set(known))]
    labels = {label for name in names for label in known.get(name, ())} | {"instance"}
    wanted = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)\s*\"", expression))
    for listed in re.findall(r"\bby \(([^)]*)\)", expression):
        wanted.update(each.strip() for each in listed.split(","))
    return found + [f"no label {label}" for label in sorted(wanted - labels)]


@pytest.mark.requirement("F20")
@pytest.mark.parametrize(("title", "expression"), list(expressions()))
def test_an_expression_asks_for_what_there_is(title: str, expression: str, known: Known) -> None:
    assert "celeriac_" in expression, title
    assert misfits(expression, known) == []


def test_what_there_is_not_is_found(known: Known) -> None:
    assert misfits("sum by (host) (celeriac_worker_up)", known) == ["no label host"]
    assert misfits('celeriac_no_such{queue="q"}', known) == [
        "no metric celeriac_no_such", "no label queue",
    ]  # fmt: skip


def test_every_metric_is_in_the_documentation(known: Known) -> None:
    page = (ROOT / "docs/metrics.md").read_text()
    bases = {re.sub(r"_(bucket|count|sum|created)$", "", name) for name in known}
    assert {name for name in bases if f"`{name}" not in page} == set()
    documented = set(re.findall(r"`(celeriac_\w+)[`{]", page))
    assert documented - bases == set(), "in the documentation alone"


def test_every_alert_has_a_section_of_the_runbook() -> None:
    page = (ROOT / "docs/runbook.md").read_text()
    headings = [
        each.lower().replace(" ", "-") for each in re.findall(r"^## (.+)$", page, re.MULTILINE)
    ]
    assert headings == sorted(headings)
    for rule in rules():
        link = rule["annotations"]["runbook_url"]
        assert rule["annotations"]["summary"]
        assert link.removeprefix("docs/runbook.md#") in headings, rule["alert"]


@pytest.mark.requirement("D7")
@pytest.mark.parametrize("arguments", [("check", "alerts.yml"), ("test", "alerts_test.yml")])
def test_promtool_accepts_the_rules_and_their_tests(arguments: tuple[str, str]) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian: prometheus)")
    verb, name = arguments
    done = subprocess.run(
        [promtool, verb, "rules", name],
        cwd=RULES.parent, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_a_test_of_its_firing() -> None:
    tests = yaml.safe_load((RULES.parent / "alerts_test.yml").read_text())["tests"]
    fired = {
        each["alertname"]
        for test in tests
        for each in test["alert_rule_test"]
        if each.get("exp_alerts")
    }
    assert fired == {rule["alert"] for rule in rules()}


def test_every_metric_is_shown_or_used_by_an_alert(known: Known) -> None:
    used = " ".join(expression for _, expression in expressions())
    bases = {re.sub(r"_(bucket|count|sum|created)$", "", name) for name in known}
    assert {name for name in bases if name not in used} == set()
