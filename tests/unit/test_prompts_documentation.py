"""The pages about prompts and schemas say what the code allows."""

import re
from pathlib import Path

from celeriac.domain.crews import MAX_CREW_TEMPLATES
from celeriac.domain.prompts import BATCH_WORK, MAX_LOOP_ROUNDS, MAX_RENDERED_CHARACTERS, MAX_WORK
from celeriac.domain.prompts.filters import FILTERS, MAX_PRECISION, MAX_TRIMMED, TESTS
from celeriac.domain.prompts.language import MAX_DEPTH, MAX_NODES, MAX_TOKENS, METHODS
from celeriac.domain.schemas import MAX_SCHEMA_BYTES
from celeriac.domain.schemas.cost import MAX_IN_PLACE, MAX_NESTING, MAX_PATTERNS, MAX_STEPS
from celeriac.domain.tasks import MAX_PROMPT_TEMPLATE

DOCS = Path(__file__).parents[2] / "docs"


def row(page: str, name: str) -> set[str]:
    """Return the words of a table's row."""
    (found,) = re.findall(rf"^\| {name} \| (.*) \|$", (DOCS / page).read_text(), re.MULTILINE)
    return set(re.findall(r"\w+", found))


def test_all_filters_and_tests_are_listed() -> None:
    assert row("prompts.md", "filters") == set(FILTERS)
    assert row("prompts.md", "tests") == set(TESTS)
    assert row("prompts.md", "calls") > METHODS


def test_all_limits_are_told() -> None:
    prompts, schemas = ((DOCS / page).read_text() for page in ("prompts.md", "schemas.md"))
    for limit in (
        MAX_PROMPT_TEMPLATE,
        MAX_TOKENS,
        MAX_NODES,
        MAX_DEPTH,
        MAX_CREW_TEMPLATES,
        MAX_LOOP_ROUNDS,
        MAX_RENDERED_CHARACTERS,
        MAX_WORK,
        BATCH_WORK,
        MAX_PRECISION,
        MAX_TRIMMED,
    ):
        assert f"{limit:,}" in prompts
    for limit in (MAX_SCHEMA_BYTES, MAX_NESTING, MAX_STEPS, MAX_IN_PLACE, MAX_PATTERNS):
        assert f"{limit:,}" in schemas
