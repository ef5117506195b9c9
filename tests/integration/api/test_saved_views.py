"""Saved views over HTTP, with the client and the command line."""

import json
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import text

from celeriac.cli.main import main
from celeriac.client import Client, ClientError
from celeriac.domain.executions.model import Completed, Failed, Failure
from celeriac.domain.saved_views import BUILT_IN, MOST_VIEWS
from celeriac.wiring.core import CoreServices
from tests.support.api import AGENT, EXECUTE, TASK, Asker, assert_problem, sign_in
from tests.support.working import claim, finish

pytestmark = pytest.mark.requirement("F19")

VIEWS = "/api/v1/views"
EXECUTIONS = "/api/v1/task-executions"
FAILED = {"status": ["failed"], "task": "summarise"}
SYSTEM = [each.name for each in BUILT_IN]


@pytest.fixture
def team(admin: Asker, person: Callable[..., Asker]) -> dict[str, Asker]:
    """Members of one workspace, with an agent and a task."""
    assert admin.post("/api/v1/workspaces", json={"name": "team"}).status_code == 201
    members = {}
    for name in ("eve", "bob"):
        made = person(name)
        body = {"user": name, "role": "operator"}
        assert admin.post("/api/v1/workspaces/team/members", json=body).status_code == 201
        members[name] = Asker(made.client, made.token, workspace="team")
    assert members["eve"].post("/api/v1/agents", json=AGENT).status_code == 201
    assert members["eve"].post("/api/v1/tasks", json=TASK).status_code == 201
    return members | {"admin": admin}


def save(asker: Asker, name: str, selects: Any = None, **others: Any) -> dict[str, Any]:
    made = asker.post(VIEWS, json={"name": name, "filter": selects or FAILED, **others})
    assert made.status_code == 201, made.text
    view: dict[str, Any] = made.json()
    return view


def names(asker: Asker, **query: Any) -> list[str]:
    return [each["name"] for each in asker.get(VIEWS, params=query).json()["items"]]


def test_views_are_private_or_shared(team: dict[str, Asker]) -> None:
    eve, bob = team["eve"], team["bob"]
    private = save(eve, "bad")
    assert (private["filter"], private["shared"], private["problem"]) == (FAILED, False, None)
    assert private["created_by"] == "eve"
    shared = save(bob, "bad", {"flag": "no_op"}, shared=True)
    place = private["_links"]["self"]
    assert names(eve) == ["bad", "bad", *SYSTEM]
    assert names(bob) == ["bad", *SYSTEM]
    for response in (
        bob.get(place),
        bob.patch(place, json={"shared": True}),
        bob.delete(place),
        bob.get(EXECUTIONS, params={"view": private["id"]}),
    ):
        assert_problem(response, 404, "not_found")
    assert eve.get(f"{VIEWS}/bad").json() == private, "one's own comes first"
    assert bob.get(f"{VIEWS}/bad").json() == shared

    # names are unique among those of one user, and among the shared ones
    for asker, body in (
        (eve, {"name": "bad", "filter": FAILED}),
        (eve, {"name": "bad", "filter": FAILED, "shared": True}),
        (eve, {"name": SYSTEM[0], "filter": FAILED}),
    ):
        assert_problem(asker.post(VIEWS, json=body), 409, "name_taken")
    assert_problem(eve.patch(place, json={"shared": True}), 409, "name_taken")
    refused = assert_problem(
        eve.patch(shared["_links"]["self"], json={"shared": False}), 403, "forbidden"
    )
    assert "Only bob" in refused["detail"]

    changed = eve.patch(place, json={"name": "worse", "shared": True, "filter": {"task": "x"}})
    assert (changed.json()["name"], changed.json()["filter"]) == ("worse", {"task": "x"})
    assert bob.get(place).json()["name"] == "worse"
    assert bob.patch(place, json={"filter": FAILED}).json()["filter"] == FAILED
    assert bob.delete(place).status_code == 204
    assert_problem(eve.get(place), 404, "not_found")
    entries = team["admin"].get("/api/v1/audit-logs?limit=100").json()["items"]
    actions = [each["action"] for each in entries if each["action"].startswith("view.")]
    assert actions == ["view.delete", "view.change", "view.change", "view.create", "view.create"]


def test_private_views_end_with_the_membership_and_all_with_the_workspace(
    team: dict[str, Asker], container: CoreServices
) -> None:
    eve, admin = team["eve"], team["admin"]
    save(eve, "mine")
    save(eve, "ours", shared=True)
    save(team["bob"], "his")

    def left() -> list[str]:
        with container.database.autocommit() as connection:
            return list(connection.execute(text("SELECT name FROM views ORDER BY name")).scalars())

    user = next(
        each["id"]
        for each in admin.get("/api/v1/workspaces/team/members").json()["items"]
        if each["name"] == "eve"
    )
    assert admin.delete(f"/api/v1/workspaces/team/members/{user}").status_code == 204
    assert left() == ["his", "ours"]
    assert admin.delete("/api/v1/workspaces/team").status_code == 204
    assert left() == []


def test_a_view_selects_for_lists_searches_exports_and_changes(
    ada: Asker, container: CoreServices
) -> None:
    ids = [
        ada.post(EXECUTE, json={"variables": {"text": "a"}, "labels": {"no": no}}).json()[
            "execution_id"
        ]
        for no in "123"
    ]
    for each in ids[:2]:
        finish(container, claim(container, each), Failed(Failure("agent_failed", "No.")))
    finish(container, claim(container, ids[2]), Completed({"summary": "a"}))
    save(ada, "bad", FAILED | {"created_within": 3_600})

    def listed(place: str = "", **query: Any) -> list[str]:
        found = ada.get(EXECUTIONS + place, params=query)
        assert found.status_code == 200, found.text
        return [each["id"] for each in found.json()["items"]]

    assert listed(view="bad") == [ids[1], ids[0]]
    assert listed(view="failed-last-day") == [ids[1], ids[0]]
    assert listed(view="bad", label="no:1") == [ids[0]]
    assert listed(view="waiting-for-approval") == []
    assert listed("/search", view="bad", text="a") == [ids[1], ids[0]]
    exported = ada.get(f"{EXECUTIONS}/export", params={"view": "bad", "format": "ndjson"}).text
    assert [json.loads(each)["id"] for each in exported.splitlines()] == [ids[1], ids[0]]
    refused = ada.get(EXECUTIONS, params={"view": "bad", "status": "completed"})
    assert assert_problem(refused, 422, "invalid_input")["field"] == "status"
    assert_problem(ada.get(EXECUTIONS, params={"view": "none"}), 404, "not_found")

    job = ada.post("/api/v1/bulk-jobs", json={"action": "retry", "filter": {"view": "bad"}}).json()
    assert job["total"] == 2
    assert job["filter"].keys() == {"status", "task", "created_after"}, "what the view was"
    retried = ada.post(
        f"{EXECUTIONS}/bulk/retry", json={"view": "bad", "label": ["no:2"], "limit": 9}
    ).json()
    assert retried["affected"] == 1


def test_wrong_views_are_refused(ada: Asker, container: CoreServices) -> None:
    for field, selects in (
        ("filter.colour", {"colour": "red"}),
        ("filter.status.0", {"status": ["dreaming"]}),
        ("filter.view", {"view": "other"}),
        ("filter.label.0", {"label": ["acme"]}),
        ("filter.created_within", {"created_within": 0}),
        ("filter", {}),
    ):
        refused = ada.post(VIEWS, json={"name": "v", "filter": selects})
        assert assert_problem(refused, 422, "invalid_input")["field"] == field
    for system in (SYSTEM[0], str(BUILT_IN[0].id)):
        assert ada.get(f"{VIEWS}/{system}").json()["built_in"]
        assert_problem(ada.patch(f"{VIEWS}/{system}", json={"name": "x"}), 409, "conflict")
        assert_problem(ada.delete(f"{VIEWS}/{system}"), 409, "conflict")

    # as if another release had stored it
    place = save(ada, "later")["_links"]["self"]
    with container.database.transaction() as connection:
        connection.execute(text("""UPDATE views SET filter = '{"colour": "red"}'"""))
    assert "colour" in ada.get(place).json()["problem"]
    for response in (
        ada.get(EXECUTIONS, params={"view": "later"}),
        ada.post(f"{EXECUTIONS}/bulk/cancel", json={"view": "later", "limit": 1}),
        ada.post("/api/v1/bulk-jobs", json={"action": "delete", "filter": {"view": "later"}}),
    ):
        assert "colour" in assert_problem(response, 422, "invalid_input")["detail"]
    assert ada.patch(place, json={"filter": FAILED}).json()["problem"] is None

    with container.database.transaction() as connection:
        connection.execute(
            text(
                "INSERT INTO views (id, workspace_id, owner_id, shared, name, created_by, filter)"
                " SELECT gen_random_uuid(), workspace_id, owner_id, false, 'v' || n, 'ada', filter"
                " FROM views, generate_series(2, :most) n"
            ),
            {"most": MOST_VIEWS},
        )
    full = ada.post(VIEWS, json={"name": "more", "filter": FAILED})
    assert "100 private views" in assert_problem(full, 409, "conflict")["detail"]
    save(ada, "more", shared=True)
    pages, query = [], {"limit": 50}
    while True:
        page = ada.get(VIEWS, params=query).json()
        pages += [each["id"] for each in page["items"]]
        if page["next_cursor"] is None:
            break
        query["cursor"] = page["next_cursor"]
    assert len(pages) == len(set(pages)) == MOST_VIEWS + 1 + len(SYSTEM)


def test_the_client_and_the_command_line(
    client: Client, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sign_in(client, monkeypatch)
    ids = client.executions.execute_batch("summarise", [{"text": "a"}] * 2).execution_ids
    client.executions.label(ids[0], {"no": "1"})

    made = client.views.create("due", status="queued", created_within=60)
    assert made.filter == {"status": ["queued"], "created_within": 60}
    assert [each.id for each in client.executions.list(view="due")] == list(reversed(ids))
    assert client.views.change("due", shared=True).filter == made.filter
    assert client.bulk_jobs.preview("cancel", view="due", label=["no:1"]).total == 1

    capsys.readouterr()
    save_it = ("views", "create", "one", "--status", "queued", "--label", "no=1", "--within", "2h")
    assert main(save_it) == 0
    assert client.views.get("one").filter == {
        "status": ["queued"], "label": ["no:1"], "created_within": 7_200,
    }  # fmt: skip
    assert main(("executions", "list", "--view", "one")) == 0
    shown = capsys.readouterr().out
    assert str(ids[0])[-6:] in shown
    assert str(ids[1])[-6:] not in shown
    assert main(("executions", "list", "--view", "one", "--status", "failed")) == 2
    assert "leave out status or the view" in capsys.readouterr().err
    assert main(("views", "change", "one", "--name", "first", "--task", "summarise")) == 0
    assert main(("views", "list")) == 0
    assert "task=summarise" in capsys.readouterr().out
    assert main(("views", "show", "did-nothing")) == 0
    assert "all, built in" in capsys.readouterr().out
    assert main(("views", "delete", "first")) == 0
    with pytest.raises(ClientError, match="first"):
        client.views.get("first")
    assert main(("executions", "cancel", "--view", str(uuid4()), "--yes")) == 3
