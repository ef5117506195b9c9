"""The table of docs/workspaces.md: each request with each role, here and from another workspace."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr

from celeriac.api.app import create_app, describe
from celeriac.domain.accounts import Role
from celeriac.domain.cassettes import dump
from celeriac.domain.executions.model import Completed, Failed, Failure
from celeriac.services.operations.rollups import Rollups
from celeriac.settings import Settings
from celeriac.wiring.core import CoreServices, build
from tests.support.api import AGENT, EXECUTE, TASK, Asker, assert_problem, build_accounts
from tests.support.asking import a_form, park
from tests.support.cassettes import cassette, recorded
from tests.support.servers import PostgresServer, ValkeyServer
from tests.support.working import begin_session, claim, finish

pytestmark = pytest.mark.requirement("F8", "A20")

PAGE = Path(__file__).parents[3] / "docs" / "workspaces.md"
ROW = re.compile(r"^\| `(\w+) (\S+)` \| (\w+) \| (404|own|-) \|$", re.MULTILINE)
OPEN = re.compile(r"/health|/approvals/links|/invitations/accept|/hooks/{token}|/metrics")
MANAGED = re.compile(r"/(users|workspaces|api-keys|celery-tasks)/")
"""What administrators see of all users; of Celery tasks those that no workspace has sent."""
ROLES = ["viewer", "operator", "admin", "administrator"]
V1 = "/api/v1"


@dataclass(frozen=True)
class Row:
    """A row of the table."""

    method: str
    path: str
    needs: str
    elsewhere: str

    @property
    def name(self) -> str:
        """The request without the kinds of its parameters."""
        return f"{self.method} {re.sub(r':[a-z]+}', '}', self.path)}"


ROWS = [Row(*match) for match in ROW.findall(PAGE.read_text(encoding="utf-8"))]

BODIES: dict[str, dict[str, Any]] = {
    "PATCH /agents/{agent}": {"description": "new"},
    "PATCH /tasks/{task}": {"description": "new"},
    "POST /tasks/{task}/execute": {"variables": {"text": "a"}},
    "POST /tasks/{task}/execute-batch": {"items": [{"text": "a"}]},
    "PATCH /workflows/{workflow}": {"description": "new"},
    "POST /workflows/{workflow}/run": {"input": {}},
    "POST /task-executions/{execution_id}/prioritise": {"priority": "high"},
    "POST /task-executions/{execution_id}/label": {"labels": {"customer": "acme"}},
    "POST /task-executions/{execution_id}/move": {"to_queue": "spare"},
    "POST /workflow-runs/{run_id}/fork": {"step": "sum"},
    "POST /approvals/{approval_id}/answer": {"approved": True},
    "PATCH /workspaces/{workspace}/members/{user_id}": {"role": "viewer"},
    "PATCH /schedules/{schedule}": {"zone": "UTC"},
    "PATCH /limits/{limit}": {"max": 2},
    "PATCH /views/{view}": {"name": "renamed"},
    "POST /schedules/{schedule}/backfill": {
        "from": "2020-01-01T00:00:00Z",
        "to": "2020-01-02T00:00:00Z",
    },
    "PATCH /failure-groups/{group_id}": {"note": "new"},
    "PATCH /secrets/{secret}": {"description": "new"},
    "PATCH /webhooks/{webhook_id}": {"description": "new"},
    "PATCH /hooks/{hook_id}": {"description": "new"},
    "POST /workspaces/{workspace}/invitations": {"name": "dan"},
}
"""What requests that name a resource are sent with, so that only its absence is wrong."""


def test_the_table_has_every_request() -> None:
    paths = {
        f"{method.upper()} {path.removeprefix(V1)}"
        for path, operations in describe()["paths"].items()
        for method in operations
        if not OPEN.search(path)
    }
    assert {row.name for row in ROWS} == paths
    assert len(ROWS) == len(paths)


@dataclass(frozen=True)
class Team:
    """A workspace with something of everything: its members by role, and the ids of what it has."""

    members: dict[str, Asker]
    ids: dict[str, str]

    def path(self, row: Row, **unknown: str) -> str:
        """Return the path of a request for what there is; `unknown` replaces the ids."""
        return V1 + re.sub(r"{(\w+)(:\w+)?}", lambda match: {**self.ids, **unknown}[match[1]],
                           row.path)  # fmt: skip


def _team(admin: Asker, name: str) -> dict[str, Asker]:
    """Make a workspace with a member of each role; the administrator is its admin too."""
    assert admin.post(f"{V1}/workspaces", json={"name": name}).status_code == 201
    members = {}
    for role in Role:
        user = admin.post(f"{V1}/users", json={"name": f"{name}-{role.value}"}).json()["id"]
        body = {"user": user, "role": role.value}
        assert admin.post(f"{V1}/workspaces/{name}/members", json=body).status_code == 201
        key = {"name": "k", "user_id": user, "workspace": name}
        token = admin.post(f"{V1}/api-keys", json=key).json()["token"]
        members[role.value] = Asker(admin.client, token)
    body = {"user": "admin", "role": "admin"}
    assert admin.post(f"{V1}/workspaces/{name}/members", json=body).status_code == 201
    return members | {"administrator": replace(admin, workspace=name)}


@pytest.fixture(scope="module")
def shared(
    postgres_server: PostgresServer,
    valkey_server: ValkeyServer,
    migrated: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[CoreServices]:
    """The shared parts on a database that the module's tests share."""
    name = postgres_server.fresh_database(migrated)
    update = {
        "home": tmp_path_factory.mktemp("home"),
        "database_url": postgres_server.url(name),
        "redis_url": valkey_server.url(0),
        "celery_broker_url": None,
        "celery_result_backend": None,
        "allowed_hosts": ("testserver",),
        "secret_key": SecretStr("a key of tests alone: 0123456789abcdef"),
    }
    parts = build(Settings.load().model_copy(update=update), service="test", connections=10)
    yield parts
    parts.close()
    postgres_server.drop_database(name)


@pytest.fixture(scope="module")
def teams(shared: CoreServices) -> Iterator[tuple[Team, dict[str, Asker]]]:
    """A workspace that has everything, and the members of another one."""
    with TestClient(create_app(shared), raise_server_exceptions=False) as client:
        admin = Asker(client, build_accounts(shared).bootstrap_admin().token)
        members, others = _team(admin, "team"), _team(admin, "others")
        yield Team(members, _filled(shared, members)), others


def _filled(container: CoreServices, members: dict[str, Asker]) -> dict[str, str]:
    """Make one of everything; return the ids by the names of the path parameters."""
    asker = members["operator"]
    invited = members["admin"].post(f"{V1}/workspaces/team/invitations", json={"name": "eve"})
    agent = asker.post(f"{V1}/agents", json=AGENT).json()["id"]
    task = asker.post(f"{V1}/tasks", json=TASK).json()["id"]
    accepted = asker.post(EXECUTE, json={"variables": {"text": "a"}}).json()
    claimed = claim(container, accepted["execution_id"])
    session = begin_session(container, claimed)
    finish(container, claimed, Completed({"summary": "a"}))
    failed = asker.post(EXECUTE, json={"variables": {"text": "c"}}).json()["execution_id"]
    finish(container, claim(container, failed), Failed(Failure("output_invalid", "no summary")))
    Rollups(container.database).fold(100)
    waiting = asker.post(EXECUTE, json={"variables": {"text": "b"}}).json()["execution_id"]
    park(container, waiting, a_form())
    budget = {"task": "summarise", "period": "day", "max_tokens": 9}
    body = {
        "name": "brief",
        "spec": {"steps": {"sum": {"task": "summarise", "with": {"text": "a"}}}},
    }
    workflow = asker.post(f"{V1}/workflows", json=body).json()["id"]
    run = asker.post(f"{V1}/workflows/{workflow}/run", json={"input": {}}).json()["run_id"]
    webhook = (
        members["admin"]
        .post(f"{V1}/webhooks", json={"url": "https://hooks.example/", "events": ["budget.spent"]})
        .json()["id"]
    )
    tested = members["admin"].post(f"{V1}/webhooks/{webhook}/test").json()["id"]
    hook = members["admin"].post(f"{V1}/hooks", json={"task": "summarise"}).json()["id"]
    schedule = asker.post(
        f"{V1}/schedules",
        json={"name": "s", "task": "summarise", "input": {"text": "a"}, "cron": "@yearly"},
    )
    job = asker.post(
        f"{V1}/bulk-jobs", json={"action": "cancel", "filter": {"status": ["pending"]}}
    )
    started = asker.post(f"{V1}/bulk-jobs/{job.json()['id']}/start")
    pause = asker.post(f"{V1}/pauses", json={"scope": "task", "task": "summarise", "reason": "r"})
    limit = {"name": "keys", "task": "summarise", "max": 99}
    tape = asker.post(f"{V1}/cassettes?name=c", content=dump(cassette(recorded("a", "b"))))
    return {
        "agent": agent,
        "task": task,
        "workflow": workflow,
        "run_id": run,
        "step": "sum",
        "execution_id": accepted["execution_id"],
        "session_id": str(session),
        "path": "a.txt",
        "cassette_id": tape.json()["id"],
        "budget_id": asker.post(f"{V1}/budgets", json=budget).json()["id"],
        "approval_id": asker.get(f"{V1}/approvals").json()["items"][0]["id"],
        "task_id": accepted["celery_task_id"],
        "user_id": asker.get(f"{V1}/me").json()["id"],
        "key_id": asker.get(f"{V1}/api-keys").json()["items"][0]["id"],
        "invitation_id": invited.json()["id"],
        "schedule": schedule.json()["id"],
        "view": asker.post(
            f"{V1}/views", json={"name": "v", "shared": True, "filter": {"flag": "no_op"}}
        ).json()["id"],
        "limit": asker.post(f"{V1}/limits", json=limit).json()["id"],
        "pause_id": pause.json()["id"],
        "job_id": started.json()["id"],
        "webhook_id": webhook,
        "secret": members["admin"]
        .post(f"{V1}/secrets", json={"name": "github", "value": "a" * 20})
        .json()["id"],
        "delivery_id": tested,
        "hook_id": hook,
        "group_id": asker.get(f"{V1}/failure-groups").json()["items"][0]["id"],
        "workspace": "team",
    }


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_member_needs_the_role_that_the_table_says(
    row: Row, teams: tuple[Team, dict[str, Asker]]
) -> None:
    """What is asked for is not there, or the body is wrong: allowed requests change nothing."""
    team, _ = teams
    kept = () if row.name == "DELETE /workspaces/{workspace}" else ("workspace",)
    nothing = {name: str(uuid4()) for name in team.ids if name not in kept}
    for role in ROLES:
        body: Any = None
        if row.method in ("POST", "PATCH"):
            changes = row.needs == "admin" and row.method == "PATCH"
            body = BODIES[row.name] if changes else {"no such field": 1}
        response = team.members[role].request(row.method, team.path(row, **nothing), json=body)
        if ROLES.index(role) < ROLES.index(row.needs):
            assert_problem(response, 403, "forbidden")
        else:
            assert response.status_code in (200, 404, 422), (role, response.text[:300])


@pytest.mark.parametrize(
    "row", [row for row in ROWS if row.elsewhere == "404"], ids=lambda row: row.name
)
def test_what_another_workspace_has_is_not_there(
    row: Row, teams: tuple[Team, dict[str, Asker]]
) -> None:
    team, others = teams
    body = {"json": BODIES[row.name]} if row.name in BODIES else {}
    for role in ROLES:
        if ROLES.index(role) < ROLES.index(row.needs):
            continue
        if role == "administrator" and MANAGED.match(row.path):
            continue
        response = others[role].request(row.method, team.path(row), **body)
        problem = assert_problem(response, 404, "not_found")
        unknown = {name: str(uuid4()) for name in team.ids}
        nowhere = others[role].request(row.method, team.path(row, **unknown), **body)
        expected = assert_problem(nowhere, 404, "not_found")
        assert _without_ids(problem) == _without_ids(expected), "it tells nothing"


def _without_ids(problem: dict[str, Any]) -> str:
    text = f"{problem['title']} {problem['detail']}"
    return re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}|\bteam\b", "ID", text)


@pytest.mark.parametrize(
    "row",
    [row for row in ROWS if row.elsewhere == "own" and row.method == "GET"],
    ids=lambda row: row.name,
)
def test_lists_have_nothing_of_another_workspace(
    row: Row, teams: tuple[Team, dict[str, Asker]]
) -> None:
    team, others = teams
    theirs = others["operator"].get(team.path(row)).text
    found = {name for name, key in team.ids.items() if _names(theirs, key) and name != "path"}
    assert not found, "ids of the other workspace"
    if row.path not in ("/me", "/api-keys", "/workspaces", "/audit-logs"):
        administrator = others["administrator"].get(team.path(row)).text
        assert not {key for key in team.ids.values() if _names(administrator, key)} - {
            "a.txt", "team",
        }  # fmt: skip


def _names(text: str, key: str) -> bool:
    """Whether a text has an id or a name as a word of its own."""
    return re.search(rf"\b{re.escape(key)}\b", text) is not None
