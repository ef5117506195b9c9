"""Who may ask, and for what."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import text

from celeriac.domain.accounts import Role
from celeriac.wiring.core import CoreServices
from tests.support.api import AGENT, EXECUTE, Asker, assert_problem

ME = "/api/v1/me"
KEYS = "/api/v1/api-keys"


def test_without_a_good_key_there_is_nothing(app_client: TestClient, ada: Asker) -> None:
    good = ada.token
    headers: tuple[dict[str, str | bytes], ...] = (
        {},
        {"Authorization": good},
        {"Authorization": "Basic YTpi"},
        {"Authorization": "Bearer "},
        {"Authorization": "Bearer x"},
        {"Authorization": f"Bearer {good[:-1]}"},
        {"Authorization": f"Bearer {good}0"},
        {"Authorization": f"Bearer {good.upper()}"},
        {"Authorization": "Bearer cel_000000000000_" + "0" * 48},
        {"Authorization": b"Bearer cel_\xc3\xa4_x"},
    )
    for sent in headers:
        response = app_client.get(ME, headers=sent)  # type: ignore[arg-type]
        assert_problem(response, 401, "unauthenticated")
        assert response.headers["www-authenticate"] == "Bearer", sent


def test_the_key_itself_is_stored_nowhere(ada: Asker, container: CoreServices) -> None:
    secret = ada.token.split("_")[2]
    with container.database.autocommit() as connection:
        stored = connection.execute(text("SELECT row_to_json(k)::text FROM api_keys k")).scalars()
        audited = connection.execute(text("SELECT row_to_json(a)::text FROM audit_logs a"))
        assert all(secret not in row for row in [*stored, *audited.scalars()])
    assert secret not in ada.get(KEYS).text


def test_a_revoked_key_is_refused(ada: Asker) -> None:
    made = ada.post(KEYS, json={"name": "second"}).json()
    second = Asker(ada.client, made["token"])
    assert second.get(ME).status_code == 200
    assert ada.delete(f"{KEYS}/{made['id']}").status_code == 204
    assert ada.delete(f"{KEYS}/{made['id']}").status_code == 204, "again changes nothing"
    problem = assert_problem(second.get(ME), 401, "unauthenticated")
    assert "revoked" in problem["detail"]


def test_an_expired_key_is_refused(ada: Asker, container: CoreServices) -> None:
    past = (datetime.now(UTC) - timedelta(seconds=1)).isoformat()
    made = ada.post(KEYS, json={"name": "old", "expires_at": past}).json()
    problem = assert_problem(Asker(ada.client, made["token"]).get(ME), 401, "unauthenticated")
    assert "expired" in problem["detail"]


def test_a_disabled_user_is_refused(ada: Asker, admin: Asker) -> None:
    user = ada.get(ME).json()
    path = f"/api/v1/users/{user['id']}"
    assert admin.patch(path, json={"disabled": True}).json()["disabled_at"] is not None
    assert_problem(ada.get(ME), 401, "unauthenticated")
    admin.patch(path, json={"disabled": False})
    assert ada.get(ME).status_code == 200


def test_each_role_may_do_its_part(ada: Asker, admin: Asker, person: Callable[..., Asker]) -> None:
    viewer = Asker(ada.client, ada.post(KEYS, json={"name": "v", "role": "viewer"}).json()["token"])
    assert viewer.get("/api/v1/tasks/summarise").status_code == 200
    assert_problem(viewer.post(EXECUTE, json={"variables": {"text": "a"}}), 403, "forbidden")
    assert_problem(viewer.post("/api/v1/agents", json=AGENT | {"name": "b"}), 403, "forbidden")
    problem = assert_problem(viewer.post(KEYS, json={"name": "x", "role": "operator"}), 403,
                             "forbidden")  # fmt: skip
    assert problem["field"] == "role"
    for asker in (viewer, ada):
        assert_problem(asker.get("/api/v1/users"), 403, "forbidden")
        assert_problem(asker.post("/api/v1/users", json={"name": "x"}), 403, "forbidden")
    eve = person("eve", Role.VIEWER)
    eve_id = eve.get(ME).json()["id"]
    assert_problem(ada.get(f"/api/v1/users/{eve_id}"), 404, "not_found")
    assert_problem(ada.post(KEYS, json={"name": "x", "user_id": eve_id}), 404, "not_found")
    problem = assert_problem(
        admin.post(KEYS, json={"name": "x", "user_id": eve_id, "role": "operator"}),
        403,
        "forbidden",
    )
    assert problem["field"] == "role", "a key is never more than its user"


def test_admins_can_t_lock_themselves_out(admin: Asker) -> None:
    path = f"/api/v1/users/{admin.get(ME).json()['id']}"
    assert_problem(admin.patch(path, json={"disabled": True}), 409, "conflict")
    assert_problem(admin.patch(path, json={"role": "viewer"}), 409, "conflict")


def test_the_use_of_a_key_is_noted(ada: Asker) -> None:
    listed = ada.get(KEYS).json()["items"]
    assert len(listed) == 1
    assert listed[0]["last_used_at"] is not None


@pytest.mark.requirement("A20")
def test_everything_done_is_in_the_audit_trail(ada: Asker, admin: Asker) -> None:
    accepted = ada.post(
        EXECUTE, json={"variables": {"text": "a"}}, headers={"X-Request-ID": "req-7"}
    ).json()
    ada.post(f"{accepted['_links']['self']}/cancel")
    ada.patch("/api/v1/tasks/summarise", json={"active": False})
    trail = ada.get("/api/v1/audit-logs").json()["items"]
    assert [entry["action"] for entry in trail] == [
        "task.change", "execution.cancel", "execution.create", "task.create", "agent.create",
    ]  # fmt: skip
    created = trail[2]
    assert created["actor"] == "ada"
    assert created["resource_id"] == accepted["execution_id"]
    assert created["request_id"] == "req-7"
    everything = admin.get("/api/v1/audit-logs?action=user.create").json()["items"]
    assert len(everything) == 2, "an administrator sees what everybody has done"


def test_who_tries_many_keys_has_to_wait_and_others_need_not(
    app_client: TestClient, ada: Asker, admin: Asker, container: CoreServices
) -> None:
    assert ada.get(ME).status_code == 200
    allowance = container.settings.api.bad_keys_per_minute
    bad = [Asker(app_client, f"cel_{number:012d}_" + "0" * 48) for number in range(allowance + 5)]
    responses = [asker.get(ME) for asker in bad]
    assert [each.status_code for each in responses].count(401) == allowance
    response = responses[-1]
    problem = assert_problem(response, 429, "too_many_requests")
    assert int(response.headers["retry-after"]) == problem["details"]["retry_after"] > 0
    assert ada.get(ME).status_code == 200, "the same address, a key that was good before"
    app_client.app.state.services.authenticate.forget()  # type: ignore[attr-defined]
    assert ada.get(ME).status_code == 200, "also when it is looked up again"
    assert app_client.get("/health/live").status_code == 200
    assert admin.get(ME).status_code == 200
