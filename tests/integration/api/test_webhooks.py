"""Webhooks over HTTP, with the client and the command line."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from celeriac.cli.main import main
from celeriac.client import Client, ClientError
from celeriac.domain.accounts import Role
from celeriac.domain.webhooks import WebhookEvent
from celeriac.wiring.core import CoreServices
from celeriac.wiring.keeper import build_sender
from tests.support.api import EXECUTE, Asker, assert_problem, sign_in
from tests.support.webhooks import Receiver, receiving

pytestmark = pytest.mark.requirement("F18")

WEBHOOKS = "/api/v1/webhooks"
SECRET = "/api/v1/webhook-callback-secret"
DELIVERIES = "/api/v1/webhook-deliveries"
SOMEWHERE = {"url": "https://hooks.example/a", "events": ["execution.completed"]}


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


@pytest.fixture
def boss(person: Callable[..., Asker]) -> Asker:
    """An admin of their own workspace."""
    return person("boss", Role.ADMIN)


def _problem_of(response: Any) -> tuple[int, str, str | None]:
    body = response.json()
    return response.status_code, body["code"], body.get("field")


def test_a_webhook_is_made_changed_and_deleted(boss: Asker) -> None:
    made = boss.post(WEBHOOKS, json=SOMEWHERE | {"description": "leads"})
    assert made.status_code == 201, made.text
    secret = made.json()["secret"]
    assert secret.startswith("whsec_")
    path = f"{WEBHOOKS}/{made.json()['id']}"
    found = boss.get(path).json()
    assert "secret" not in found
    assert (found["active"], found["description"], found["paused_reason"]) == (
        True, "leads", None
    )  # fmt: skip
    assert [each["id"] for each in boss.get(WEBHOOKS).json()["items"]] == [found["id"]]
    assert boss.patch(path, json={"events": ["budget.spent"]}).json()["events"] == ["budget.spent"]
    assert_problem(boss.patch(path, json={"active": False}), 422, "invalid_input")
    for _ in range(2):
        paused = boss.post(f"{path}/pause").json()
        assert (paused["active"], paused["paused_reason"]) == (False, "requested")
    assert_problem(boss.post(f"{path}/test"), 409, "conflict")
    resumed = boss.post(f"{path}/resume").json()
    assert (resumed["active"], resumed["paused_reason"]) == (True, None)
    rotated = boss.post(f"{path}/rotate", json={"overlap_hours": 1}).json()
    assert rotated["secret"].startswith("whsec_")
    assert rotated["secret"] != secret
    assert boss.post(f"{path}/rotate", json={"overlap_hours": 169}).status_code == 422
    assert boss.delete(path).status_code == 204
    assert_problem(boss.get(path), 404, "not_found")
    trail = boss.get("/api/v1/audit-logs?resource_type=webhook").text
    for verb in ("create", "change", "pause", "resume", "rotate", "delete"):
        assert f"webhook.{verb}" in trail
    assert secret not in trail
    assert rotated["secret"] not in trail
    assert "hooks.example" not in trail, "a URL may hold secrets"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"url": "http://hooks.example/"}, "url"),
        ({"url": "https://127.0.0.1/"}, "url"),
        ({"url": "https://169.254.169.254/latest"}, "url"),
        ({"url": "https://user:password@hooks.example/"}, "url"),
        ({"url": "https://hooks.example/" + "x" * 2_000}, "url"),
        ({"events": []}, "events"),
        ({"events": ["execution.begun"]}, "events.0"),
        ({"events": ["budget.spent"] * 100}, "events"),
        ({"description": "x" * 2_001}, "description"),
    ],
)
def test_bad_input_is_refused_before_anything_is_stored(
    boss: Asker, change: dict[str, Any], field: str
) -> None:
    response = boss.post(WEBHOOKS, json=SOMEWHERE | change)
    assert _problem_of(response) == (422, "invalid_input", field), response.text
    assert boss.get(WEBHOOKS).json()["items"] == []


def test_there_is_a_limit(boss: Asker) -> None:
    for _ in range(50):
        assert boss.post(WEBHOOKS, json=SOMEWHERE).status_code == 201
    assert_problem(boss.post(WEBHOOKS, json=SOMEWHERE), 409, "conflict")


def test_a_callback_url_is_checked_before_anything_is_stored(ada: Asker) -> None:
    for url in ("https://127.0.0.1/", "http://hooks.example/", "no url"):
        body = {"variables": {"text": "a"}, "callback_url": url}
        assert _problem_of(ada.post(EXECUTE, json=body)) == (422, "invalid_input", "callback_url")
        batch = {"items": [{"text": "a"}], "callback_url": url}
        response = ada.post(f"{EXECUTE}-batch", json=batch)
        assert _problem_of(response) == (422, "invalid_input", "callback_url")
    assert ada.get("/api/v1/task-executions").json()["items"] == []
    body = {"variables": {"text": "a"}, "callback_url": "https://hooks.example/"}
    assert ada.post(EXECUTE, json=body).status_code == 202
    assert ada.get(SECRET).json()["secret"].startswith("whsec_")


def test_another_workspace_learns_nothing(boss: Asker, person: Callable[..., Asker]) -> None:
    webhook = boss.post(WEBHOOKS, json=SOMEWHERE).json()["id"]
    delivery = boss.post(f"{WEBHOOKS}/{webhook}/test").json()["id"]
    other = person("other", Role.ADMIN)
    for path in (f"{WEBHOOKS}/{webhook}", f"{DELIVERIES}/{delivery}"):
        assert_problem(other.get(path), 404, "not_found")
    assert_problem(other.post(f"{DELIVERIES}/{delivery}/redeliver"), 404, "not_found")
    assert_problem(other.post(f"{WEBHOOKS}/{webhook}/test"), 404, "not_found")
    assert other.get(f"{DELIVERIES}?webhook_id={webhook}").json()["items"] == []
    secrets = {
        each.get("/api/v1/webhook-callback-secret").json()["secret"] for each in (boss, other)
    }
    assert len(secrets) == 2


def test_deliveries_are_listed_by_webhook_execution_and_status(boss: Asker) -> None:
    one, two = (boss.post(WEBHOOKS, json=SOMEWHERE).json()["id"] for _ in range(2))
    tests = [boss.post(f"{WEBHOOKS}/{each}/test").json()["id"] for each in (one, two, one)]
    boss.post(f"{WEBHOOKS}/{two}/pause")

    def ids(query: str) -> list[str]:
        return [each["id"] for each in boss.get(f"{DELIVERIES}?{query}").json()["items"]]

    assert ids("") == tests[::-1]
    assert ids(f"webhook_id={one}") == [tests[2], tests[0]]
    assert ids("status=failed") == ids(f"webhook_id={two}&status=failed") == [tests[1]]
    assert ids("status=delivered") == ids(f"execution_id={uuid4()}") == []
    page = boss.get(f"{DELIVERIES}?limit=2").json()
    rest = boss.get(f"{DELIVERIES}?limit=2&cursor={page['next_cursor']}").json()
    assert [each["id"] for each in page["items"] + rest["items"]] == tests[::-1]
    assert_problem(boss.post(f"{WEBHOOKS}/{two}/test"), 409, "conflict")
    assert_problem(boss.post(f"{DELIVERIES}/{tests[1]}/redeliver"), 409, "conflict")
    boss.delete(f"{WEBHOOKS}/{two}")
    assert_problem(boss.post(f"{DELIVERIES}/{tests[1]}/redeliver"), 409, "conflict")


def test_the_client_and_the_command_line_see_what_was_sent(
    container: CoreServices,
    client: Client,
    receiver: Receiver,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sign_in(client, monkeypatch)

    def run(*arguments: str) -> str:
        assert main(arguments) == 0, capsys.readouterr().err
        return capsys.readouterr().out  # the server logs before it

    made = client.webhooks.create("https://hooks.example/a", ["execution.completed"])
    with container.database.transaction() as connection:
        connection.exec_driver_sql(f"UPDATE webhook_endpoints SET url = '{receiver.url}/ok'")
    guarded = container.settings.outbound.model_copy(update={"allow_hosts": ("127.0.0.1",)})
    settings = container.settings.model_copy(update={"outbound": guarded})
    sender = build_sender(replace(container, settings=settings))
    assert sender is not None

    tested = client.webhooks.test(made.id)
    assert sender.send_due() == 1
    receiver.got[0].verify(made.secret)
    found = client.deliveries.get(tested.id)
    assert (found.status, found.attempts, found.status_code) == ("delivered", 1, 204)
    assert found.body == receiver.got[0].body.decode()
    assert "pending" in run("deliveries", "redeliver", "last")
    assert sender.send_due() == 1
    assert receiver.ids() == [str(tested.id)] * 2
    assert receiver.got[0].body == receiver.got[1].body

    assert str(made.id) in run("webhooks", "list", "--json")
    assert "active" in run("webhooks", "show", "last")
    assert "budget.spent" in run("webhooks", "change", str(made.id), "-e", "budget.spent")
    assert "paused (requested)" in run("webhooks", "pause", "last")
    assert "active" in run("webhooks", "resume", "last")
    assert str(tested.id) in run("deliveries", "list", "--json", "--status", "delivered")
    assert "webhook.test" in run("deliveries", "show", "last")
    assert run("webhooks", "callback-secret").split()[-1] == client.webhooks.callback_secret()
    new = run("webhooks", "create", "https://hooks.example/b", "-e", "execution.failed").split()[-1]
    assert new.startswith("whsec_")
    assert run("webhooks", "test", "last").split()[-1] == str(next(client.deliveries.list()).id)
    assert client.webhooks.rotate(made.id, overlap_hours=2).secret != made.secret
    assert run("webhooks", "rotate", "last", "--overlap-hours", "0").split()[-1] != new
    run("webhooks", "delete", str(made.id))
    with pytest.raises(ClientError, match="webhook"):
        client.webhooks.get(made.id)
    sender.stop()
    sender._post.close()  # type: ignore[attr-defined]


def test_the_events_of_the_page_are_all_there_are() -> None:
    page = (Path(__file__).parents[3] / "docs" / "webhooks.md").read_text(encoding="utf-8")
    table = page.partition("| event | when |")[2].partition("The body")[0]
    for event in WebhookEvent:
        assert f"`{event.value}`" in table
