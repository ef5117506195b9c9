"""Each row of the pages of failures has tests that name it, where the page says they are."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

PAGES = pytest.mark.parametrize(
    ("page", "letter", "number"),
    [
        ("workflow-failures", "W", 25),
        ("schedule-failures", "S", 10),
        ("limit-failures", "Q", 13),
        ("webhook-failures", "H", 5),
    ],
)


def _rows(page: str, letter: str) -> dict[str, str]:
    text = (ROOT / f"docs/{page}.md").read_text()
    return dict(re.findall(rf"^\| ({letter}\d+) \|.*\| ([^|]+) \|$", text, re.MULTILINE))


def _marked(file: Path, letter: str) -> list[str]:
    marks = re.findall(r"mark\.failure\(([^)]*)\)", file.read_text())
    return re.findall(rf'"({letter}\d+)"', " ".join(marks))


@PAGES
def test_every_row_has_a_test_where_the_page_says(page: str, letter: str, number: int) -> None:
    rows = _rows(page, letter)
    assert list(rows) == [f"{letter}{each}" for each in range(1, number + 1)]
    for row, places in rows.items():
        files = re.findall(r"`([\w/]+\.py)`", places)
        assert files, row
        for file in files[:1]:
            assert row in _marked(ROOT / "tests" / file, letter), f"{row}: {file}"


@PAGES
def test_every_marked_test_is_on_the_page(page: str, letter: str, number: int) -> None:
    rows = _rows(page, letter)
    assert len(rows) == number
    for file in (ROOT / "tests").rglob("test_*.py"):
        if file != Path(__file__):
            for row in _marked(file, letter):
                assert str(file.relative_to(ROOT / "tests")) in rows[row], f"{row}: {file}"
