"""The system's own periodic work over HTTP, with the client and the command line."""

import json
import re

import pytest

from celeriac.cli.main import main
from celeriac.client import Client
from celeriac.services.operations.keeper import MaintenanceRunner
from celeriac.services.operations.maintenance import JobRecord
from celeriac.wiring.core import CoreServices
from celeriac.wiring.keeper import build_maintenance
from tests.support.api import sign_in
from tests.support.waiting import wait_until

pytestmark = pytest.mark.requirement("A19", "D9")


def test_an_administrator_sees_each_job_of_beat(
    container: CoreServices,
    client: Client,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert client.maintenance_jobs() == [], "no beat has run"
    jobs = build_maintenance(container)
    names = [each.name for each in jobs]
    runner = MaintenanceRunner(jobs, JobRecord(container.database, names))
    runner.ensure_running()
    try:
        wait_until(lambda: len(client.maintenance_jobs()) == len(jobs), "each has run")
    finally:
        runner.close()
    found = client.maintenance_jobs()
    assert [each.name for each in found] == sorted(names)
    assert not [each for each in found if each.late or each.failures]

    sign_in(client, monkeypatch)
    assert main(["maintenance", "--json"]) == 0
    out = capsys.readouterr().out  # the server of this process writes its log to the same place
    begin = re.search(r"^\[$", out, re.MULTILINE)
    assert begin is not None, out
    listed = json.JSONDecoder().raw_decode(out, begin.start())[0]
    assert [each["name"] for each in listed] == sorted(names)
    assert main(["maintenance"]) == 0
    assert "dispatch_due" in capsys.readouterr().out
