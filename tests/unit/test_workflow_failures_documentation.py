"""Each row of docs/workflow-failures.md has tests that name it, where the page says they are."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/workflow-failures.md").read_text()
ROW = re.compile(r"^\| (W\d+) \|.*\| ([^|]+) \|$", re.MULTILINE)
MARKED = re.compile(r'mark\.failure\("(W\d+)"\)')


def test_every_row_has_a_test_where_the_page_says() -> None:
    rows = dict(ROW.findall(PAGE))
    assert list(rows) == [f"W{number}" for number in range(1, 26)]
    for row, places in rows.items():
        files = re.findall(r"`([\w/]+\.py)`", places)
        assert files, row
        for file in files[:1]:
            assert row in MARKED.findall((ROOT / "tests" / file).read_text()), f"{row}: {file}"


def test_every_marked_test_is_on_the_page() -> None:
    rows = dict(ROW.findall(PAGE))
    for file in (ROOT / "tests").rglob("test_*.py"):
        if file != Path(__file__):
            for row in MARKED.findall(file.read_text()):
                assert str(file.relative_to(ROOT / "tests")) in rows[row], f"{row}: {file}"
