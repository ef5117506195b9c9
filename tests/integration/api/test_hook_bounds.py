"""What strangers and busy senders can cost a hook: rates, stored refusals, sizes."""

from collections.abc import Callable
from typing import Any

import pytest
from starlette.types import Message, Scope

from celeriac.api.v1.hooks import MAX_HOOK_BYTES
from celeriac.domain.accounts import Role
from tests.support.api import AGENT, TASK, Asker, assert_problem
from tests.support.hooks import (
    HOOKS,
    Hook,
    bearer,
    standard,
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


@pytest.fixture
def clock(boss: Asker, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The clock of the rates, which the test moves."""
    receive = boss.client.app.state.services.receive  # type: ignore[attr-defined]
    now = [1_000.0]
    monkeypatch.setattr(receive._rates, "_clock", lambda: now[0])
    return now


def test_strangers_fill_no_table_and_push_out_no_reason(boss: Asker, clock: list[float]) -> None:
    hook = Hook(boss)

    def strangers(number: int) -> list[int]:
        return [hook.call(bearer("wrong"), b"{}").status_code for _ in range(number)]

    assert strangers(62) == [401] * 60 + [429] * 2, "from one address"
    clock[0] += 60
    assert_problem(hook.send({"issue": {}}), 422, "invalid_input")
    assert strangers(70) == [401] * 70
    assert hook.send().status_code == 202, "the sender has the same address, and is let through"
    found = boss.get(f"{HOOKS}/{hook.id}/deliveries?status=refused&limit=500").json()["items"]
    assert len(found) == 51
    assert [each["reason"] for each in found if each["verified"]] == ["invalid_input"]


@pytest.mark.usefixtures("clock")
def test_a_hook_takes_so_many_in_a_minute(boss: Asker) -> None:
    hook = Hook(boss, per_minute=3)
    answers = [hook.send() for _ in range(6)]
    assert [each.status_code for each in answers] == [202] * 3 + [429] * 3
    assert int(answers[-1].headers["retry-after"]) >= 1
    assert hook.reasons() == ["too_many_requests"], "one for each minute"
    assert Hook(boss).send().status_code == 202, "others are not affected"


async def _ask(app: Any, path: str, headers: dict[str, str]) -> tuple[int, bool]:
    """Post a body that never comes; return the status, and whether the body was asked for."""
    asked, status = False, 0

    async def receive() -> Message:
        nonlocal asked
        asked = True
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        nonlocal status
        status = message.get("status", status)

    scope: Scope = {
        "type": "http", "method": "POST", "path": path, "raw_path": path.encode(),
        "query_string": b"", "headers": [(k.encode(), v.encode()) for k, v in headers.items()],
        "client": ("10.0.0.1", 1), "server": ("testserver", 80), "scheme": "http", "state": {},
    }  # fmt: skip
    await app(scope, receive, send)
    return status, asked


def test_the_body_is_not_read_before_its_size_and_the_token_are_checked(boss: Asker) -> None:
    hook = Hook(boss)

    def ask(path: str, size: int) -> tuple[int, bool]:
        headers = {"host": "testserver", "content-length": str(size)}
        portal = boss.client.portal
        assert portal is not None
        asked: tuple[int, bool] = portal.call(_ask, boss.client.app, path, headers)
        return asked

    assert ask(hook.path, MAX_HOOK_BYTES + 1) == (413, False)
    assert ask("/hooks/" + "a" * 43, 10) == (401, False)
    large = b"x" * (MAX_HOOK_BYTES + 1)
    chunks = iter([large[:600_000], large[600_000:]])
    response = boss.client.post(hook.path, headers=standard(hook.secret, large), content=chunks)
    assert_problem(response, 413, "too_large")
