"""What the pages and the code point to is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    page.relative_to(ROOT)
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *ROOT.glob("examples/**/*.md")]
)
LINK = re.compile(r"\]\((?!https?:|mailto:|#)([^)#\s]+)[^)]*\)")
OURS = re.compile(r"\]\(https://github\.com/celeriac/celeriac/(?:blob|tree)/main/([^)#\s]+)")
DECISION = re.compile(r"docs/adr/(\d{4})")


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_links_lead_somewhere(page: Path) -> None:
    text = (ROOT / page).read_text()
    broken = [link for link in LINK.findall(text) if not (ROOT / page.parent / link).exists()]
    broken += [link for link in OURS.findall(text) if not (ROOT / link).exists()]
    assert not broken


def test_the_readme_has_no_relative_links() -> None:
    """It is the package's page too, where those lead nowhere."""
    text = (ROOT / "README.md").read_text()
    assert not LINK.findall(text)
    assert len(OURS.findall(text)) > 20


def test_places_of_the_glossary_exist() -> None:
    rows = [line for line in (ROOT / "docs/glossary.md").read_text().splitlines() if " | `" in line]
    places = [place for row in rows for place in re.findall("`([^`]+)`", row.split(" | ")[2])]
    known = [ROOT, ROOT / "celeriac"]
    missing = [
        place
        for place in places
        if place != "tool.importlinter" and not any((root / place).exists() for root in known)
    ]
    assert len(places) > 50
    assert not missing


def test_decisions_named_in_the_code_exist() -> None:
    known = {path.name[:4] for path in (ROOT / "docs" / "adr").glob("*.md")}
    for source in (ROOT / "celeriac").rglob("*.py"):
        unknown = set(DECISION.findall(source.read_text())) - known
        assert not unknown, f"{source.relative_to(ROOT)} names decisions that aren't there"


def test_decisions_are_numbered_without_gaps() -> None:
    pages = sorted((ROOT / "docs" / "adr").glob("*.md"))
    assert [int(page.name[:4]) for page in pages] == list(range(1, len(pages) + 1))
    for number, page in enumerate(pages, 1):
        assert page.read_text().startswith(f"# {number}. "), f"{page.name} has another number"
