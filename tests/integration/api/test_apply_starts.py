"""Limits, schedules and hooks of documents: made and changed with the tasks that they are about."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest

from celeriac.client import Client, ClientError
from celeriac.client.documents import Document, DocumentError
from celeriac.services.documents import starts
from tests.integration.api.test_apply import DOCUMENT, actions, apply, audited, fields
from tests.integration.api.test_apply_workflows import INNER
from tests.support.api import Asker, assert_problem

STARTS: dict[str, Any] = {
    "limits": [
        {"name": "sorting", "task": "sort", "max": 2},
        {"name": "slowly", "workflow": "inner", "of": "runs", "key": "input.text", "max": 10},
    ],
    "schedules": [
        {
            "name": "nightly",
            "task": "sort",
            "input": {"text": "of ${{ fire.date }}"},
            "cron": "0 2 * * *",
            "zone": "Europe/Berlin",
        },
        {"name": "often", "workflow": "inner", "input": {"text": "a"}, "every_seconds": 900},
    ],
    "hooks": [
        {"name": "shop", "task": "sort", "mapping": {"text": "${{ body.text }}"}},
        {"name": "bank", "workflow": "inner", "verification": "stripe", "secret_env": "BANK"},
    ],
}
WHOLE = {**DOCUMENT, "workflows": [INNER], **STARTS}
SECRET = "whsec_of_the_bank_0123456789"


def given(document: dict[str, Any]) -> dict[str, Any]:
    """Return a document with the secret, as clients send it."""
    return dict(Document(document).with_secrets({"BANK": SECRET}).content)


@pytest.mark.requirement("F7")
def test_what_starts_tasks_is_made_with_them_and_a_second_time_nothing(
    admin: Asker, client: Client
) -> None:
    planned = apply(admin, given(WHOLE), dry_run=True)
    assert not [*client.schedules.list(), *client.hooks.list()]
    first = apply(admin, given(WHOLE))
    assert actions(first) == actions(planned)
    assert actions(first)[-6:] == [
        ("limit", "sorting", "create"), ("limit", "slowly", "create"),
        ("schedule", "nightly", "create"), ("schedule", "often", "create"),
        ("hook", "shop", "create"), ("hook", "bank", "create"),
    ]  # fmt: skip
    assert fields(first["items"][-4]) == {
        "task": (None, "sort"),
        "input.text": (None, "of ${{ fire.date }}"),
        "cron": (None, "0 2 * * *"),
        "zone": (None, "Europe/Berlin"),
    }
    assert SECRET not in str(first), "no answer has a secret"
    limit, nightly = client.limits.get("slowly"), client.schedules.get("nightly")
    assert (limit.workflow_name, limit.max, limit.of) == ("inner", 10, "runs")
    assert (nightly.task_name, nightly.active) == ("sort", True)
    bank, shop = client.hooks.list()
    assert (bank.name, bank.workflow_name, bank.given_secret) == ("bank", "inner", True)
    assert (shop.name, shop.task_name, shop.given_secret) == ("shop", "sort", False)
    assert [each["id"] for each in first["items"][-2:]] == [str(shop.id), str(bank.id)]
    receipt = client.hooks.test(shop.id, {"text": "b"})
    assert client.executions.get(str(receipt.execution_id)).variables == {"text": "b"}

    before = {kind: audited(admin, kind) for kind in ("limit", "schedule", "hook")}
    assert apply(admin, WHOLE)["unchanged"] == 10, "its secret is needed only once"
    assert {kind: audited(admin, kind) for kind in before} == before


def test_what_differs_is_changed_and_what_was_paused_by_hand_stays_paused(
    admin: Asker, client: Client
) -> None:
    apply(admin, given(WHOLE))
    client.schedules.pause("nightly")
    changed = deepcopy(WHOLE)
    changed["limits"][0] |= {"max": 3, "policy": "cancel_new"}
    changed["schedules"][0] |= {"task": None, "workflow": "inner", "misfire": "skip"}
    changed["schedules"][1] |= {"every_seconds": 60, "active": False}
    changed["hooks"][0] |= {"when": "body.text != ''", "description": "Of the shop"}
    changed["hooks"][1]["active"] = False

    planned = apply(admin, changed, dry_run=True)
    assert client.limits.get("sorting").max == 2
    outcome = apply(admin, changed)

    assert (outcome["changed"], outcome["unchanged"]) == (5, 5)
    assert [fields(each) for each in outcome["items"]] == [
        fields(each) for each in planned["items"]
    ]
    assert fields(outcome["items"][-4]) == {
        "task": ("sort", None), "workflow": (None, "inner"), "misfire": ("latest", "skip")
    }  # fmt: skip
    assert (client.limits.get("sorting").max, client.limits.get("sorting").policy) == (
        3,
        "cancel_new",
    )
    nightly, often = client.schedules.get("nightly"), client.schedules.get("often")
    assert (nightly.workflow_name, nightly.task_id, nightly.active) == ("inner", None, False)
    assert (often.every_seconds, often.active) == (60, False)
    bank, shop = client.hooks.list()
    assert (bank.active, shop.active, shop.when) == (False, True, "body.text != ''")
    assert apply(admin, changed)["unchanged"] == 10
    assert apply(admin, WHOLE)["changed"] == 4, "active is not in it, and the description is kept"
    assert not client.schedules.get("often").active


def test_every_fault_is_named_and_nothing_is_written(admin: Asker, client: Client) -> None:
    broken = deepcopy(WHOLE)
    broken["limits"] = [{"name": "a", "task": "none", "max": 1}, {"name": "a", "max": 1}]
    first, second = broken["schedules"]
    first |= {"cron": "0 25 * * *", "input": {}}
    second |= {"input": {"text": "${{ fire.day }}"}, "workflow": "iner"}
    broken["hooks"][0]["mapping"] = {"txt": "${{ bdy.text }}"}
    answer = admin.post("/api/v1/apply", json=broken)
    assert_problem(answer, 422, "document_invalid")
    found = {each["field"] for each in answer.json()["fields"]}
    assert found == {
        "limits.1.name", "limits.0.task", "schedules.0.cron", "schedules.1.workflow",
        "schedules.1.input.text", "hooks.0.mapping.txt", "hooks.1.secret_env",
    }  # fmt: skip
    assert list(client.limits.list()) == [], "nothing is written"

    misfit = deepcopy(WHOLE)
    misfit["schedules"][0]["input"] = {}
    misfit["hooks"][0]["mapping"] = {}
    misfit["limits"][1]["key"] = "input.txt"
    answer = admin.post("/api/v1/apply", json=given(misfit))
    assert {each["field"] for each in answer.json()["fields"]} == {
        "schedules.0.input", "hooks.0.mapping", "limits.1.key"
    }  # fmt: skip

    apply(admin, given(WHOLE))
    kept = deepcopy(WHOLE)
    kept["limits"][0] |= {"key": "variables.text", "seconds": 5}
    kept["limits"][1] |= {"count": "active"}
    kept["hooks"][1]["verification"] = "github"
    answer = admin.post("/api/v1/apply", json=kept)
    assert {each["field"] for each in answer.json()["fields"]} == {
        "limits.0.key", "limits.0.seconds", "limits.1.count", "hooks.1.verification"
    }  # fmt: skip


def test_hooks_and_limits_of_the_whole_workspace_need_an_admin(
    person: Callable[..., Asker],
) -> None:
    operator = person("olaf")
    apply(operator, {**DOCUMENT, "workflows": [INNER]})
    assert apply(operator, {"limits": STARTS["limits"]})["created"] == 2
    assert apply(operator, {"schedules": STARTS["schedules"]})["created"] == 2
    for refused in ({"hooks": STARTS["hooks"]}, {"limits": [{"name": "all", "max": 1}]}):
        assert_problem(operator.post("/api/v1/apply?dry_run=true", json=refused), 403, "forbidden")


def test_a_file_holds_no_secret(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DocumentError, match=r"a\.yaml:1:.*secret_env"):
        Document.parse(f"hooks: [{{name: shop, task: sort, secret: {SECRET}}}]", "a.yaml")
    monkeypatch.delenv("BANK", raising=False)
    with pytest.raises(ClientError, match="hook bank, secret_env: the environment variable BANK"):
        client.apply(WHOLE, dry_run=True)
    monkeypatch.setenv("BANK", SECRET)
    assert client.apply(WHOLE, dry_run=True).created == 10


def test_inputs_are_checked_for_a_bounded_time(
    admin: Asker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each may take seconds, and there are 500: the transaction has locked the workspace."""
    monkeypatch.setattr(starts, "_CHECK_SECONDS", 0.0)
    answer = admin.post("/api/v1/apply", json=given(WHOLE))
    assert_problem(answer, 422, "document_invalid")
    assert [each["field"] for each in answer.json()["fields"]] == ["schedules.1.input"]
