"""Pytest plugin: which rows of docs/requirements.md have a passing test.

Tests name rows with `@pytest.mark.requirement("A3", …)`. Every run keeps the outcomes of the tests
that it ran, with their time, in its pytest cache: `.pytest_cache`, or a directory in it
(`make test`). `pytest --requirements` (`make requirements`) collects the suite, runs nothing, and
prints each row without a passing test.
"""

import json
import re
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest

ROWS_FILE = Path(__file__).parents[2] / "docs" / "requirements.md"
CACHE_KEY = "celeriac/outcomes"
_ROW = re.compile(r"^\| (?P<row>[A-Z]\d+) \| (?P<text>.+) \|$", re.MULTILINE)


def read_rows(text: str) -> dict[str, str]:
    """Return the rows of the tables in `text`: number → requirement, in the order of the page."""
    return {match["row"]: match["text"] for match in _ROW.finditer(text)}


def open_rows(
    rows: Mapping[str, str], named: Mapping[str, Iterable[str]], passed: Mapping[str, bool]
) -> dict[str, str]:
    """Return the rows not proven and why: row → reason.

    `named` maps test ids to the rows they name, `passed` test ids to their last outcome. A row is
    proven when all tests that name it passed, and at least one does.
    """
    tests_of = defaultdict(list)
    for test, names in named.items():
        for row in names:
            tests_of[row].append(test)
    reasons = {}
    for row in rows:
        failed = [test for test in tests_of[row] if passed.get(test) is False]
        unknown = [test for test in tests_of[row] if test not in passed]
        if not tests_of[row]:
            reasons[row] = "no test names it"
        elif failed:
            reasons[row] = f"failed: {failed[0]}"
        elif unknown:
            reasons[row] = f"not run yet: {unknown[0]}"
    return reasons


def last_outcomes(caches: Path) -> dict[str, bool]:
    """Return what the caches at and below `caches` know: test id → whether it passed last."""
    known: dict[str, tuple[float, bool]] = {}
    for file in caches.glob(f"**/v/{CACHE_KEY}"):
        for test, (when, passed) in json.loads(file.read_text()).items():
            known[test] = max(known.get(test, (when, passed)), (when, passed))
    return {test: passed for test, (_, passed) in known.items()}


class _Recorder:
    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._rows = read_rows(ROWS_FILE.read_text())
        self._named: dict[str, tuple[str, ...]] = {}
        self._outcomes: dict[str, tuple[float, bool]] = {}

    def pytest_itemcollected(self, item: pytest.Item) -> None:
        names = tuple(row for mark in item.iter_markers("requirement") for row in mark.args)
        unknown = [row for row in names if row not in self._rows]
        if unknown:
            raise pytest.UsageError(f"{item.nodeid} names rows {unknown} not in {ROWS_FILE.name}")
        if names:
            self._named[item.nodeid] = names

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.nodeid in self._named and (report.when == "call" or not report.passed):
            _, before = self._outcomes.get(report.nodeid, (0, True))
            self._outcomes[report.nodeid] = (time.time(), before and report.passed)

    def pytest_sessionfinish(self) -> None:
        cache = self._config.cache
        if self._outcomes:
            cache.set(CACHE_KEY, {**cache.get(CACHE_KEY, {}), **self._outcomes})

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if not self._config.getoption("--requirements"):
            return
        passed = last_outcomes(self._config.rootpath / ".pytest_cache")
        reasons = open_rows(self._rows, self._named, passed)
        terminalreporter.section("requirements without a passing test")
        for row, reason in reasons.items():
            terminalreporter.write_line(f"{row:4} {self._rows[row]}")
            terminalreporter.write_line(f"     {reason}")
        proven = len(self._rows) - len(reasons)
        terminalreporter.write_line(f"{proven} of {len(self._rows)} rows proven")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --requirements."""
    parser.addoption(
        "--requirements",
        action="store_true",
        help="run nothing; print the rows of docs/requirements.md without a passing test",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Start recording; --requirements implies --collect-only."""
    if config.getoption("--requirements"):
        config.option.collectonly = True
        config.option.verbose = -2
    config.pluginmanager.register(_Recorder(config), "celeriac-requirements")
