"""Inbound hooks over HTTP: senders sign by themselves."""

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from structlog.testing import capture_logs

from celeriac.domain.accounts import Role
from celeriac.wiring.core import CoreServices
from tests.support.api import AGENT, TASK, Asker, assert_problem
from tests.support.hooks import (
    BODY,
    HOOKS,
    Hook,
    as_bytes,
    bearer,
    github,
    standard,
    stripe,
)

pytestmark = pytest.mark.requirement("F18", "A3")

EXECUTIONS = "/api/v1/task-executions"
STRIPE_SECRET = "whsec_made-by-stripe-0123456789"


@pytest.fixture
def boss(person: Callable[..., Asker]) -> Asker:
    """An admin of their own workspace, with a task."""
    asker = person("boss", Role.ADMIN)
    assert asker.post("/api/v1/agents", json=AGENT).status_code == 201
    assert asker.post("/api/v1/tasks", json=TASK).status_code == 201
    return asker


def _started(asker: Asker) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = asker.get(EXECUTIONS).json()["items"]
    return items


def _hook(boss: Asker, form: str) -> tuple[Hook, Callable[..., dict[str, str]]]:
    """Return a hook, and what signs a body for it."""
    if form == "stripe":
        hook = Hook(boss, verification=form, secret=STRIPE_SECRET)
    else:
        hook = Hook(boss, verification=form)
    signers: dict[str, Callable[..., dict[str, str]]] = {
        "standard": lambda body: standard(hook.secret, body),
        "github": lambda body: github(hook.secret, body),
        "stripe": lambda body: stripe(STRIPE_SECRET, body),
        "bearer": lambda body: bearer(hook.secret, name=f"k-{len(body)}"),
    }
    return hook, signers[form]


_SIGNING = ("authorization", "stripe-signature", "webhook-signature", "x-hub-signature-256")
FORMS = ["standard", "github", "stripe", "bearer"]


@pytest.mark.parametrize("form", FORMS)
def test_a_signed_request_starts_an_execution_once(boss: Asker, form: str) -> None:
    hook, sign = _hook(boss, form)
    body = as_bytes(BODY | {"id": "evt_1"})
    headers = sign(body)
    first = hook.call(headers, body)
    assert first.status_code == 202, first.text
    answer = first.json()
    assert (answer["status"], answer["run_id"]) == ("accepted", None)
    again = hook.call(headers, body)
    assert again.status_code == 202
    assert again.json() == answer, "the first one's answer"
    assert again.headers["idempotent-replayed"] == "true"
    (started,) = _started(boss)
    assert started["id"] == answer["execution_id"]
    found = boss.get(f"{EXECUTIONS}/{started['id']}").json()
    assert (found["trigger_type"], found["variables"]) == ("webhook", {"text": "It is late"})
    (delivery,) = hook.deliveries()
    assert delivery["status"] == "accepted"
    assert delivery["execution_id"] == answer["execution_id"]
    assert delivery["size"] == len(body)


@pytest.mark.parametrize("form", FORMS)
def test_a_sender_that_does_not_sign_learns_nothing(boss: Asker, form: str) -> None:
    hook, sign = _hook(boss, form)
    body = as_bytes(BODY | {"id": "evt_1"})
    good = sign(body)
    nobody = boss.client.post("/hooks/" + "a" * 43, content=body, headers=good)
    refusals = [
        hook.call({"content-type": "application/json"}, body),
        hook.call({**good, **dict.fromkeys(_SIGNING, "é".encode("latin-1"))}, body),
        hook.call(bearer("wrong") | standard("d3Jvbmc=", body) | github("wrong", body)
                  | stripe("wrong", body), body),
        boss.client.post(hook.path[:-1] + ("A" if hook.path[-1] != "A" else "B"),
                         content=body, headers=good),
        boss.client.post("/hooks/%00", content=body, headers=good),
    ]  # fmt: skip
    if form != "bearer":
        refusals.append(hook.call(good, body + b" "))
    wanted = {**nobody.json(), "request_id": ""}
    for each in refusals:
        assert_problem(each, 401, "hook_refused")
        assert {**each.json(), "request_id": ""} == wanted, "all are alike"
    assert _started(boss) == []
    assert hook.call(good, body).status_code == 202, "the sender is not locked out"
    assert all(not each["verified"] for each in hook.deliveries("refused"))
    assert set(hook.reasons()) <= {"not_signed", "signature_wrong"}


@pytest.mark.failure("H1")
def test_h1_a_delivery_after_the_window_is_refused_and_a_repeat_makes_nothing(boss: Asker) -> None:
    hook, late = Hook(boss), Hook(boss)
    body, now = as_bytes(BODY), time.time()
    for at in (now - 360, now + 360):
        assert_problem(late.send(at=at), 401, "hook_refused")
        headers = stripe(STRIPE_SECRET, body, at=at)
        charged = Hook(boss, verification="stripe", secret=STRIPE_SECRET)
        assert_problem(charged.call(headers, body), 401, "hook_refused")
        assert charged.reasons() == ["too_old"]
    assert late.reasons() == ["too_old"] * 2
    assert _started(boss) == []
    # the timestamp is signed: a fresh one with the old signature is refused
    old = standard(hook.secret, body, at=now - 360)
    assert_problem(hook.call(old | {"webhook-timestamp": str(int(now))}, body), 401, "hook_refused")
    # the same id within a day, signed anew, is the same delivery
    first = hook.send(name="msg_1", at=now - 200).json()
    assert hook.send(name="msg_1", at=now).json() == first
    assert hook.send(name="msg_2").json()["execution_id"] != first["execution_id"]
    assert len(_started(boss)) == 2


@pytest.mark.failure("H1")
def test_h1_a_request_of_github_sent_again_under_another_id_makes_nothing(boss: Asker) -> None:
    hook = Hook(boss, verification="github")
    body = as_bytes(BODY)
    first = hook.call(github(hook.secret, body, name="one"), body).json()
    # the id is not signed: this is what somebody who has seen the request can do
    assert hook.call(github(hook.secret, body, name="two"), body).json() == first
    other = as_bytes(BODY | {"number": 2})
    assert hook.call(github(hook.secret, other, name="one"), other).json() == first
    assert len(_started(boss)) == 1


BODIES = (
    b'{ "issue" :\n { "title":"x" }  }',
    rb'{"issue":{"title":"\u00e9\u2028"}}',
    '{"issue":{"title":"é 日本"}}'.encode(),
)


@pytest.mark.failure("H2")
@pytest.mark.parametrize("secret", [None, "whsec_plJ3nmyCDGBKInavdOK15jsl",
                                    "plJ3nmyCDGBKInavdOK15jsl"])  # fmt: skip
def test_h2_the_body_is_verified_as_it_came(boss: Asker, secret: str | None) -> None:
    hook = Hook(boss, secret=secret)
    assert secret is None or hook.secret == secret
    for body in BODIES:
        answer = hook.call(standard(hook.secret, body), body)
        assert answer.status_code == 202, answer.text
        found = boss.get(f"{EXECUTIONS}/{answer.json()['execution_id']}").json()
        assert found["variables"] == {"text": json.loads(body)["issue"]["title"]}
        tidy = json.dumps(json.loads(body)).encode() + b" "
        assert_problem(hook.call(standard(hook.secret, body), tidy), 401, "hook_refused")


@pytest.mark.failure("H1")
def test_h1_deliveries_at_the_same_time_start_one(boss: Asker) -> None:
    hook = Hook(boss, verification="github")
    body = as_bytes(BODY)
    with ThreadPoolExecutor(8) as pool:
        calls = [pool.submit(hook.call, github(hook.secret, body, name="one"), body)
                 for _ in range(8)]  # fmt: skip
    answers = [call.result() for call in calls]
    assert {each.status_code for each in answers} == {202}
    assert len({each.json()["execution_id"] for each in answers}) == 1
    assert len(_started(boss)) == len(hook.deliveries()) == 1


@pytest.mark.failure("H5")
def test_h5_a_delivery_and_its_execution_are_stored_together(
    boss: Asker, container: CoreServices
) -> None:
    hook = Hook(boss)
    with container.database.transaction() as connection:
        connection.exec_driver_sql(
            "ALTER TABLE executions ADD CONSTRAINT fails"
            " CHECK (trigger_type <> 'webhook') NOT VALID"
        )
    assert hook.send(name="msg_1").status_code == 500
    assert _started(boss) == hook.deliveries() == [], "neither is there without the other"
    with container.database.transaction() as connection:
        connection.exec_driver_sql("ALTER TABLE executions DROP CONSTRAINT fails")
    assert hook.send(name="msg_1").status_code == 202
    assert len(_started(boss)) == len(hook.deliveries()) == 1


def test_a_workflow_is_started_once_with_its_input(boss: Asker) -> None:
    spec = {
        "input": {"type": "object", "properties": {"text": {"type": "string"}},
                  "required": ["text"]},
        "steps": {"sum": {"task": "summarise", "with": {"text": "${{ input.text }}"}}},
    }  # fmt: skip
    assert boss.post("/api/v1/workflows", json={"name": "brief", "spec": spec}).status_code == 201
    hook = Hook(boss, task=None, workflow="brief", mapping=None)
    first = hook.send({"text": "a"}, name="m")
    assert first.status_code == 202, first.text
    assert hook.send({"text": "a"}, name="m").json() == first.json()
    assert_problem(hook.send({"number": 1}), 422, "input_invalid")
    assert_problem(hook.send(["no object"]), 422, "invalid_input")
    (run,) = boss.get("/api/v1/workflow-runs").json()["items"]
    assert (run["id"], run["trigger_type"]) == (first.json()["run_id"], "webhook")
    assert [each["run_id"] for each in hook.deliveries("accepted")] == [run["id"]]
    assert hook.reasons() == ["invalid_input", "input_invalid"]


def test_headers_query_forms_and_texts_can_be_mapped(boss: Asker) -> None:
    mapping = {"text": "${{ headers['x-kind'] }} ${{ query.lead }} ${{ body.a }}"}
    hook = Hook(boss, verification="bearer", mapping=mapping)
    secret = {"authorization": f"Bearer {hook.secret}", "x-kind": "new"}

    def text_of(body: bytes, media: str) -> str:
        answer = hook.call(secret | {"content-type": media}, body, "?lead=7")
        assert answer.status_code == 202, answer.text
        found = boss.get(f"{EXECUTIONS}/{answer.json()['execution_id']}").json()
        return str(found["variables"]["text"])

    assert text_of(b'{"a": [1]}', "application/vnd.x+json; charset=utf-8") == "new 7 [1]"
    assert text_of(b"a=b%20c&d=", "application/x-www-form-urlencoded") == "new 7 b c"
    changed = boss.patch(f"{HOOKS}/{hook.id}", json={"mapping": {"text": "${{ body }}"}})
    assert changed.status_code == 200, changed.text
    assert text_of("ä".encode(), "text/plain") == "ä"
    # neither secrets nor signatures are seen
    boss.patch(f"{HOOKS}/{hook.id}", json={"mapping": {"text": "${{ headers.authorization }}"}})
    assert_problem(hook.call(secret, b"{}"), 422, "invalid_input")


def test_what_is_sent_keeps_the_order_of_its_properties_to_the_prompt(boss: Asker) -> None:
    task = {"name": "ordered", "agent": AGENT["name"], "spec": {"prompt": "{{ given | tojson }}"}}
    assert boss.post("/api/v1/tasks", json=task).status_code == 201
    hook = Hook(boss, verification="bearer", task="ordered", mapping={"given": "${{ body.a }}"})
    body = b'{"a": {"zebra": 1, "b": {"y": [{"d": 1, "c": 2}]}, "aa": 1}}'
    secret = {"authorization": f"Bearer {hook.secret}", "content-type": "application/json"}
    started = hook.call(secret, body).json()["execution_id"]
    found = boss.get(f"{EXECUTIONS}/{started}").text
    assert '"given":{"zebra":1,"b":{"y":[{"d":1,"c":2}]},"aa":1}' in found


def test_a_condition_ignores(boss: Asker) -> None:
    hook = Hook(boss, when="body.action == 'opened'")
    answer = hook.send(BODY | {"action": "closed"})
    assert (answer.status_code, answer.json()["status"]) == (202, "ignored")
    assert answer.json()["execution_id"] is None
    assert _started(boss) == []
    assert hook.send().json()["status"] == "accepted"
    assert_problem(hook.send({"issue": {}}), 422, "invalid_input")
    assert [each["status"] for each in hook.deliveries()] == ["refused", "accepted", "ignored"]


def test_a_refusal_says_why_to_the_sender_and_in_the_deliveries(boss: Asker) -> None:
    hook = Hook(boss)
    for body, media, code, status in (
        (b"{", "application/json", "malformed_json", 400),
        (b'{"issue": {"title": 5}}', "application/json", "variables_invalid", 422),
        (b'{"issue": {}}', "application/json", "invalid_input", 422),
        (rb'{"issue": {"title": "\u0000"}}', "application/json", "invalid_input", 422),
        (b"\xff", "text/plain", "invalid_input", 422),
        (b"", "application/json", "invalid_input", 422),
    ):
        headers = standard(hook.secret, body) | {"content-type": media}
        assert_problem(hook.call(headers, body), status, code)
        (refused,) = (
            each for each in hook.deliveries() if each["delivery_id"] == headers["webhook-id"]
        )
        assert (refused["status"], refused["reason"], refused["verified"]) == (
            "refused", code, True
        )  # fmt: skip
        assert refused["message"]
    assert _started(boss) == []


def test_the_event_of_stripe_that_was_refused_is_named(boss: Asker) -> None:
    hook = Hook(boss, verification="stripe", secret=STRIPE_SECRET)
    body = as_bytes({"id": "evt_7"})
    assert_problem(hook.call(stripe(STRIPE_SECRET, body), body), 422, "invalid_input")
    assert [each["delivery_id"] for each in hook.deliveries("refused")] == ["evt_7"]


def test_other_events_of_github_are_ignored(boss: Asker) -> None:
    when = "headers['x-github-event'] == 'issues' && body.action == 'opened'"
    hook = Hook(boss, verification="github", when=when)
    ping = as_bytes({"zen": "Keep it logically awesome.", "hook_id": 1})
    answer = hook.call(github(hook.secret, ping) | {"x-github-event": "ping"}, ping)
    assert (answer.status_code, answer.json()["status"]) == (202, "ignored")
    body = as_bytes(BODY)
    assert hook.call(github(hook.secret, body), body).json()["status"] == "accepted"


def test_a_delivery_that_was_refused_may_come_again(boss: Asker) -> None:
    hook = Hook(boss, mapping={"text": "${{ body.headline }}"})
    assert_problem(hook.send(name="msg_1"), 422, "invalid_input")
    boss.patch(f"{HOOKS}/{hook.id}", json={"mapping": {"text": "${{ body.issue.title }}"}})
    assert hook.send(name="msg_1").status_code == 202


def test_a_paused_hook_refuses_and_knows_what_it_has_started(boss: Asker) -> None:
    hook = Hook(boss)
    first = hook.send(name="msg_1")
    paused = boss.post(f"{HOOKS}/{hook.id}/pause").json()
    assert (paused["active"], paused["mapping"]) == (False, {"text": "${{ body.issue.title }}"})
    assert_problem(hook.send(name="msg_2"), 409, "hook_paused")
    assert hook.send(name="msg_1").json() == first.json()
    assert_problem(hook.call({}, b"{}"), 401, "hook_refused")
    boss.post(f"{HOOKS}/{hook.id}/resume")
    assert hook.send(name="msg_2").status_code == 202
    assert hook.reasons() == ["not_signed", "hook_paused"]


def test_the_old_secret_is_valid_for_a_time(boss: Asker, container: CoreServices) -> None:
    hook = Hook(boss)
    first, body = hook.secret, as_bytes(BODY)
    rotated = boss.post(f"{HOOKS}/{hook.id}/rotate", json={"overlap_hours": 1}).json()
    second = rotated["secret"]
    assert len({first, second}) == 2
    for secret in (first, second):
        assert hook.call(standard(secret, body), body).status_code == 202
    with container.database.transaction() as connection:
        connection.exec_driver_sql("UPDATE hooks SET previous_until = now() - interval '1 second'")
    assert_problem(hook.call(standard(first, body), body), 401, "hook_refused")
    assert hook.call(standard(second, body), body).status_code == 202
    # one that has leaked, replaced by one that the sender has made
    given = "whsec_plJ3nmyCDGBKInavdOK15jsl"
    answer = boss.post(
        f"{HOOKS}/{hook.id}/rotate", json={"overlap_hours": 0, "secret": given}
    ).json()
    assert (answer["secret"], answer["given_secret"]) == (given, True)
    assert_problem(hook.call(standard(second, body), body), 401, "hook_refused")
    assert hook.call(standard(given, body), body).status_code == 202
    # back to a derived one; the given one is valid, too
    third = boss.post(f"{HOOKS}/{hook.id}/rotate").json()["secret"]
    assert third not in {first, second, given}
    for secret in (given, third):
        assert hook.call(standard(secret, body), body).status_code == 202


def test_secrets_are_not_stored_shown_or_logged(boss: Asker, container: CoreServices) -> None:
    given = "a-secret-made-by-the-sender"
    with capture_logs() as logs:
        hook = Hook(boss, verification="bearer", secret=given)
        derived = Hook(boss)
        derived.send()
        hook.call(bearer(given, name="k"), as_bytes(BODY))
        hook.call(bearer("wrong-secret"), as_bytes(BODY))
        boss.get(hook.path)
        boss.client.post("/api/v1" + hook.path)
    secrets = (given, derived.secret, "wrong-secret")
    tokens = (hook.path.rpartition("/")[2], derived.path.rpartition("/")[2])
    with container.database.transaction() as connection:
        stored = " ".join(
            str(connection.exec_driver_sql(f"SELECT {table}::text FROM {table}").all())
            for table in ("hooks", "hook_deliveries", "audit_logs")
        )
    for secret in (*secrets, *tokens):
        assert secret not in stored
        assert secret not in str(logs)
    assert given.encode().hex() not in stored
    for path in (HOOKS, f"{HOOKS}/{hook.id}", f"{HOOKS}/{hook.id}/deliveries"):
        shown = boss.get(path).text
        assert not [secret for secret in secrets if secret in shown]


def test_a_hook_has_the_rights_of_its_maker(
    admin: Asker, boss: Asker, container: CoreServices
) -> None:
    admin.post("/api/v1/workspaces", json={"name": "team"})
    people = {}
    for name in ("maker", "other"):
        user = admin.post("/api/v1/users", json={"name": name}).json()["id"]
        admin.post("/api/v1/workspaces/team/members", json={"user": user, "role": "admin"})
        key = {"name": "k", "user_id": user, "workspace": "team"}
        people[name] = (user, Asker(admin.client, admin.post("/api/v1/api-keys", json=key).json()
                                    ["token"]))  # fmt: skip
    (maker, asker), (_, other) = people["maker"], people["other"]
    asker.post("/api/v1/agents", json=AGENT)
    asker.post("/api/v1/tasks", json=TASK)
    hook = Hook(asker)
    hook.admin = other
    started = hook.send().json()["execution_id"]
    assert other.get(f"{EXECUTIONS}/{started}").json()["owner_id"] == maker
    members = f"/api/v1/workspaces/team/members/{maker}"
    assert other.patch(members, json={"role": "viewer"}).status_code == 200
    assert_problem(hook.send(), 403, "hook_forbidden")
    assert other.patch(members, json={"role": "operator"}).status_code == 200
    assert hook.send().status_code == 202
    assert admin.patch(f"/api/v1/users/{maker}", json={"disabled": True}).status_code == 200
    refused = hook.send()
    assert_problem(refused, 403, "hook_forbidden")
    assert "maker" not in refused.json()["detail"], "the sender is not told"
    admin.patch(f"/api/v1/users/{maker}", json={"disabled": False})
    assert hook.send().status_code == 202
    assert other.delete(members).status_code in (200, 204)
    assert_problem(hook.send(), 403, "hook_forbidden")
    messages = [each["message"] for each in hook.deliveries("refused")]
    assert [("no member" in m, "disabled" in m, "viewer" in m) for m in messages] == [
        (True, False, False), (False, True, False), (False, False, True)
    ]  # fmt: skip
