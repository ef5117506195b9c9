"""Programs as agents, on a real worker: one that answers, and one that must be stopped."""

import httpx
import pytest

from celeriac.client import Client
from celeriac.domain.executions.states import Status
from celeriac.kit.processes import identify, still_running
from tests.e2e.celery.conftest import Person
from tests.support.fleet import Fleet
from tests.support.programs import Program
from tests.support.waiting import wait_until


def test_a_program_does_a_task(http: httpx.Client, ada: Person, worker: Program) -> None:
    with Client(str(http.base_url), ada.key) as client:
        done = client.executions.run("word-count", {"text": 'One, "two",\nthree.'}, timeout=60)
        events = list(client.executions.events(done.id))

    assert (done.status, done.result) == (Status.COMPLETED, {"words": 3})
    assert "counted 3 words" in [each.data.get("message") for each in events]


@pytest.mark.requirement("C5")
def test_a_program_is_cancelled_with_all_that_it_started(
    http: httpx.Client, ada: Person, worker: Program, fleet: Fleet
) -> None:
    note = fleet.notes / "pids-of-a-program"
    with Client(str(http.base_url), ada.key) as client:
        client.agents.change("family", spec={"runner": "command", "command": "family",
                                             "arguments": [str(note)]})  # fmt: skip
        accepted = client.executions.execute("family", {"text": ""})
        wait_until(lambda: note.exists() and note.read_text().endswith("\n"), "the program runs")
        family = [identify(int(pid)) for pid in note.read_text().split()]
        assert all(family)

        client.executions.cancel(accepted.execution_id)
        done = client.executions.wait(accepted.execution_id, timeout=60)

    assert (done.status, done.cancel_requested_by) == (Status.CANCELLED, ada.name)
    assert not [each for each in family if each and still_running(each)], "nothing is left"
