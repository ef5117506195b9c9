"""Schedules over HTTP, with the client and the command line."""

import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text

from celeriac.cli.main import main
from celeriac.client import Client, ClientError
from celeriac.wiring.core import CoreServices
from celeriac.wiring.keeper import build_maintenance
from tests.support.api import Asker, assert_problem, sign_in

pytestmark = [pytest.mark.requirement("A19"), pytest.mark.requirement("F17")]

SCHEDULES = "/api/v1/schedules"
NIGHTLY: dict[str, Any] = {
    "name": "nightly",
    "task": "summarise",
    "input": {"text": "a"},
    "cron": "30 2 * * *",
    "zone": "Europe/Berlin",
}


def _make_due(container: CoreServices) -> None:
    """Let the time pass until the next fire, as schedules of intervals see it."""
    with container.database.autocommit() as connection:
        connection.execute(
            text(
                "UPDATE schedules SET anchor_at = anchor_at - (next_fire_at - now()),"
                " next_fire_at = now(), due_at = now()"
            )
        )


def _keep(container: CoreServices) -> int:
    by_name = {each.name: each for each in build_maintenance(container)}
    return by_name["fire_schedules"].work()


def test_a_schedule_is_made_fired_changed_and_deleted(ada: Asker, container: CoreServices) -> None:
    made = ada.post(SCHEDULES, json=NIGHTLY)
    assert made.status_code == 201, made.text
    found = made.json()
    path = f"{SCHEDULES}/{found['id']}"
    assert (found["active"], found["overlap"], found["misfire"]) == (True, "skip", "latest")
    preview = ada.get(f"{path}/preview?count=3").json()
    assert preview["zone"] == "Europe/Berlin"
    assert [each["local"][11:16] for each in preview["fires"]] == ["02:30"] * 3
    assert preview["fires"][0]["at"] == found["next_fire_at"]

    hourly = ada.patch(path, json={"every_seconds": 3_600}).json()
    assert (hourly["cron"], hourly["every_seconds"]) == (None, 3_600)
    _make_due(container)
    assert _keep(container) == 1
    (fire,) = ada.get(f"{path}/fires").json()["items"]
    assert (fire["status"], fire["kind"], fire["count"]) == ("started", "scheduled", 1)
    execution = ada.get(fire["_links"]["execution"]).json()
    assert (execution["trigger_type"], execution["variables"]) == ("scheduled", {"text": "a"})
    by_hand = ada.post(f"{path}/run").json()
    assert (by_hand["status"], by_hand["reason"]) == ("skipped", "overlap")
    assert ada.post(f"{path}/run", json={"force": True}).json()["status"] == "started"
    skipped = ada.get(f"{path}/fires?status=skipped").json()["items"]
    assert [each["id"] for each in skipped] == [by_hand["id"]]

    named = f"{SCHEDULES}/nightly"
    assert ada.get(named).json()["id"] == found["id"]
    assert ada.patch(named, json={"overlap": "allow"}).json()["overlap"] == "allow"
    assert ada.post(f"{named}/pause").json()["active"] is False
    _make_due(container)
    assert _keep(container) == 0
    assert ada.post(f"{path}/resume", json={"catch_up": True}).json()["active"] is True
    assert _keep(container) == 1
    assert [each["id"] for each in ada.get(SCHEDULES).json()["items"]] == [found["id"]]
    assert ada.delete(named).status_code == 204
    for gone in (path, f"{path}/fires", f"{SCHEDULES}/nightly", f"{SCHEDULES}/nightly/fires"):
        assert_problem(ada.get(gone), 404, "not_found")


@pytest.mark.failure("S9")
@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"cron": "0 0 30 2 *"}, "cron"),
        ({"cron": "* * * * * *"}, "cron"),
        ({"cron": None}, "cron"),
        ({"every_seconds": 60}, "cron"),
        ({"cron": None, "every_seconds": 9}, "every_seconds"),
        ({"cron": None, "at": "2027-01-31T12:00:00"}, "at"),
        ({"cron": None, "at": "2020-01-31T12:00:00Z"}, "at"),
        ({"zone": "Mars/Olympus"}, "zone"),
        ({"input": {}}, None),
        ({"input": {"text": "${{ fire.day }}"}}, "input.text"),
        ({"overlap": "wait"}, "overlap"),
        ({"late_seconds": 5}, "late_seconds"),
        ({"jitter_seconds": 3_601}, "jitter_seconds"),
        ({"workflow": "w"}, None),
        ({"name": "with blanks"}, "name"),
    ],
)
def test_s9_bad_input_names_its_field_and_is_not_stored(
    ada: Asker, change: dict[str, Any], field: str | None
) -> None:
    body = {name: value for name, value in (NIGHTLY | change).items() if value is not None}
    response = ada.post(SCHEDULES, json=body)
    assert response.status_code == 422, response.text
    if field is not None:
        assert response.json()["field"] == field
    assert ada.get(SCHEDULES).json()["items"] == []


def test_a_range_of_time_is_made_up_for(ada: Asker, container: CoreServices) -> None:
    ada.post(SCHEDULES, json=NIGHTLY | {"overlap": "queue", "late_seconds": 60})
    path = f"{SCHEDULES}/nightly/backfill"
    week = {"from": "2026-03-27T00:00:00Z", "to": "2026-03-31T00:00:00+02:00"}
    shown = ada.post(path, json=week | {"dry_run": True}).json()
    # the clock goes forward on the 29th
    assert [each[8:16] for each in shown["fires"]] == [
        "27T01:30", "28T01:30", "29T01:00", "30T00:30"
    ]  # fmt: skip
    assert (shown["dry_run"], shown["count"], shown["already"]) == (True, 4, 0)
    assert ada.get(f"{SCHEDULES}/nightly/fires").json()["items"] == []
    made = ada.post(path, json=week)
    assert (made.status_code, made.json()["count"]) == (200, 4)
    assert ada.post(path, json=week).json()["already"] == 4
    assert _keep(container) == 1
    fires = ada.get(f"{SCHEDULES}/nightly/fires?status=waiting").json()["items"]
    assert [(each["kind"], each["overlap"]) for each in fires] == [("backfill", "queue_all")] * 3
    waits = ada.post(f"{SCHEDULES}/nightly/run").json()
    assert (waits["status"], waits["kind"], waits["reason"]) == ("waiting", "manual", None)
    ada.post(f"{SCHEDULES}/nightly/pause")
    assert ada.get(f"{SCHEDULES}/nightly/fires?status=waiting").json()["items"] == []


@pytest.mark.failure("S9")
@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"from": "2026-03-27T00:00:00"}, "from"),
        ({"to": "2026-03-30"}, "to"),
        ({"to": "2999-03-30T00:00:00Z"}, "to"),
        ({"to": "2026-03-20T00:00:00Z"}, "from"),
        ({"from": None}, "from"),
        ({"overlap": "skip"}, "overlap"),
        ({"start": "2026-03-20T00:00:00Z"}, "start"),
    ],
)
def test_s9_a_backfill_needs_times_with_a_zone(
    ada: Asker, body: dict[str, Any], field: str
) -> None:
    ada.post(SCHEDULES, json=NIGHTLY)
    week = {"from": "2026-03-27T00:00:00Z", "to": "2026-03-30T00:00:00Z"} | body
    response = ada.post(f"{SCHEDULES}/nightly/backfill", json=week)
    assert (response.status_code, response.json()["field"]) == (422, field), response.text


def test_unknown_targets_and_taken_names(ada: Asker) -> None:
    assert_problem(ada.post(SCHEDULES, json=NIGHTLY | {"task": "nope"}), 404, "not_found")
    assert ada.post(SCHEDULES, json=NIGHTLY).status_code == 201
    assert_problem(ada.post(SCHEDULES, json=NIGHTLY), 409, "name_taken")
    found = ada.get(SCHEDULES).json()["items"][0]["id"]
    faulty = ada.patch(f"{SCHEDULES}/{found}", json={"cron": "61 * * * *"})
    assert (faulty.status_code, faulty.json()["field"]) == (422, "cron")


def test_the_client_and_the_command_line_manage_schedules(
    client: Client,
    container: CoreServices,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sign_in(client, monkeypatch)

    def run(*arguments: str) -> Any:
        assert main(("schedules", *arguments, "--json")) == 0, capsys.readouterr().err
        # the server of this process writes its log to the same place
        out = capsys.readouterr().out
        begin = re.search(r"^[\[{]", out, re.MULTILINE)
        assert begin is not None, out
        return json.JSONDecoder().raw_decode(out, begin.start())[0]

    made = run(
        "create", "nightly", "--task", "summarise", "--var", "text=a", "--cron", "30 2 * * *",
        "--zone", "Europe/Berlin", "--misfire", "skip", "--jitter", "60",
    )  # fmt: skip
    assert made["jitter_seconds"] == 60
    assert run("show", "nightly")["id"] == run("show", made["id"])["id"] == made["id"]
    assert len(run("preview", "nightly", "-n", "3")) == 3
    assert run("run", "nightly")["status"] == "started"
    assert len(run("fires", "nightly", "--status", "started")) == 1
    assert run("pause", "nightly")["active"] is False
    assert run("resume", "nightly", "--catch-up")["active"] is True
    assert run("change", "nightly", "--every", "900")["every_seconds"] == 900
    assert [each["name"] for each in run("list")] == ["nightly"]
    week = ("--from", "2026-03-27T00:00:00Z", "--to", "2026-03-30T00:00:00Z")
    run("change", "nightly", "--cron", "@daily", "--overlap", "queue", "--late", "60")
    assert run("backfill", "nightly", *week, "--dry-run")["count"] == 3
    assert run("backfill", "nightly", *week, "--overlap", "allow")["count"] == 3
    assert len(run("fires", "nightly", "--status", "waiting")) == 3
    for shown in (("list",), ("show", "nightly"), ("preview", "nightly"), ("fires", "nightly")):
        assert main(("schedules", *shown)) == 0
        out = capsys.readouterr().out
        assert out
        assert ("task summarise" in out) is (shown[0] in {"list", "show"}), "it is named"
    assert main(("schedules", "create", "x", "--task", "summarise")) == 2
    assert main(("schedules", "create", "x", "--cron", "@daily")) == 2
    capsys.readouterr()
    run("delete", "nightly")


def test_the_client_manages_schedules(client: Client) -> None:
    at = datetime.now(UTC) + timedelta(days=1)
    once = client.schedules.create("once", task="summarise", input={"text": "b"}, at=at)
    assert [each.at for each in client.schedules.preview("once").fires] == [at]
    assert client.schedules.get(once.id).at == at
    assert client.schedules.change(once.id, input={"text": "c"}).input == {"text": "c"}
    assert client.schedules.pause(once.id).active is False
    assert client.schedules.resume(once.id).active is True
    fire = client.schedules.run("once", force=True)
    assert [each.id for each in client.schedules.fires("once")] == [fire.id]
    assert [each.id for each in client.schedules.list()] == [once.id]
    start, end = datetime(2026, 3, 27, tzinfo=UTC), datetime(2026, 3, 28, tzinfo=UTC)
    assert client.schedules.backfill("once", start, end, dry_run=True).count == 0
    client.schedules.delete("once")
    with pytest.raises(ClientError, match="no schedule"):
        client.schedules.get(once.id)
