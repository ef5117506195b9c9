"""The page of a run costs the same however wide its maps are."""

from typing import Any

import pytest

from celeriac.wiring.core import CoreServices
from tests.support.api import Asker
from tests.support.statements import sent

pytestmark = pytest.mark.requirement("E3")

STEPS: dict[str, Any] = {
    "each": {"task": "summarise", "map": "input.text.split(',')", "with": {"text": "${{ item }}"}},
    "all": {"task": "summarise", "with": {"text": "${{ string(size(steps.each.results)) }}"}},
}
WIDE = 10_000
MOST_BYTES = 100_000


@pytest.mark.failure("W25")
def test_the_page_of_a_run_with_ten_thousand_items(ada: Asker, container: CoreServices) -> None:
    spec = {"input": {"text": "string"}, "steps": STEPS}
    assert ada.post("/api/v1/workflows", json={"name": "w", "spec": spec}).status_code == 201
    sent_for, sizes = {}, {}
    for width in (10, WIDE):
        text = ",".join(str(number) for number in range(width))
        started = ada.post("/api/v1/workflows/w/run", json={"input": {"text": text}})
        assert started.status_code == 202, started.text
        page = f"/api/v1/workflow-runs/{started.json()['run_id']}"
        ada.get(page)
        with sent(container.database) as statements:
            response = ada.get(page)
        sent_for[width] = statements
        sizes[width] = len(response.content)
        step = response.json()["steps"][0]
        assert (step["status"], step["items"]) == ("running", width)

    assert sent_for[10] == sent_for[WIDE]
    assert sizes[WIDE] < MOST_BYTES
