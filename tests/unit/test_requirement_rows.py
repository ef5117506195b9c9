"""The record of requirement rows says which are proven and why others are not."""

import json
from pathlib import Path

import pytest

from tests.support.requirements import (
    CACHE_KEY,
    ROWS_FILE,
    last_outcomes,
    open_rows,
    read_rows,
)

pytest_plugins = ["pytester"]

ROWS = {"A1": "first", "A2": "second"}


@pytest.fixture(autouse=True)
def no_other_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of pytest in a test load no plugins of this environment, which takes seconds."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")


def test_the_page_is_read_row_by_row() -> None:
    rows = read_rows(ROWS_FILE.read_text())
    assert len(rows) == 87
    assert rows["A11"] == "tasks `health_check` and `ping`"
    assert next(iter(rows)) == "A1"


def test_a_row_is_proven_when_all_tests_that_name_it_passed() -> None:
    named = {"t1": ["A1"], "t2": ["A1", "A2"]}
    assert open_rows(ROWS, named, {"t1": True, "t2": True}) == {}


@pytest.mark.parametrize(
    ("named", "passed", "reason"),
    [
        ({}, {}, "no test names it"),
        ({"t": ["A1"]}, {}, "not run yet: t"),
        ({"t": ["A1"]}, {"t": False}, "failed: t"),
        ({"t": ["A1"], "u": ["A1"]}, {"t": True, "u": False}, "failed: u"),
        ({}, {"deleted": True}, "no test names it"),
    ],
)
def test_an_open_row_has_its_reason(
    named: dict[str, list[str]], passed: dict[str, bool], reason: str
) -> None:
    assert open_rows({"A1": "first"}, named, passed) == {"A1": reason}


def test_a_run_is_recorded_and_the_report_reads_it(pytester: pytest.Pytester) -> None:
    pytester.makeini(f"[pytest]\npythonpath = {Path(__file__).parents[2]}\nmarkers = requirement")
    pytester.makeconftest("pytest_plugins = ['tests.support.requirements']")
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.requirement("A1", "A2")
        def test_good(): pass

        @pytest.mark.requirement("A2")
        def test_bad(): assert False

        @pytest.mark.requirement("A3")
        def test_skipped(): pytest.skip()
        """
    )
    pytester.runpytest_subprocess("-q")
    report = pytester.runpytest_subprocess("--requirements")
    report.stdout.fnmatch_lines(["A2 *", "*failed: *test_bad", "A3 *", "*failed: *test_skipped"])
    report.stdout.fnmatch_lines(["1 of 87 rows proven"])
    assert "A1 " not in report.stdout.str()


def test_runs_with_caches_of_their_own_are_read_together(pytester: pytest.Pytester) -> None:
    pytester.makeini(f"[pytest]\npythonpath = {Path(__file__).parents[2]}\nmarkers = requirement")
    pytester.makeconftest("pytest_plugins = ['tests.support.requirements']")
    for row in ("A1", "A2"):
        test = f"import pytest\n@pytest.mark.requirement('{row}')\ndef test_it(): pass"
        pytester.makepyfile(**{f"test_{row}": test})
        cache = f"cache_dir=.pytest_cache/part-{row}"
        pytester.runpytest_subprocess("-q", "-o", cache, f"test_{row}.py")
    report = pytester.runpytest_subprocess("--requirements")
    report.stdout.fnmatch_lines(["2 of 87 rows proven"])


def test_the_last_outcome_of_a_test_counts(tmp_path: Path) -> None:
    for name, outcomes in (("new", {"a": (2.0, True), "b": (1.0, True)}),
                           ("old", {"a": (1.0, False), "b": (3.0, False)})):  # fmt: skip
        file = tmp_path / name / "v" / CACHE_KEY
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps(outcomes))
    assert last_outcomes(tmp_path) == {"a": True, "b": False}


def test_a_row_that_does_not_exist_is_an_error(pytester: pytest.Pytester) -> None:
    pytester.makeini(f"[pytest]\npythonpath = {Path(__file__).parents[2]}\nmarkers = requirement")
    pytester.makeconftest("pytest_plugins = ['tests.support.requirements']")
    pytester.makepyfile("import pytest\n@pytest.mark.requirement('Z9')\ndef test_x(): pass")
    result = pytester.runpytest_subprocess()
    assert result.ret != 0
    assert "names rows ['Z9'] not in requirements.md" in result.stdout.str() + result.stderr.str()
