"""Secrets over HTTP, with the client and the command line; and who may give them to agents."""

from collections.abc import Callable
from io import StringIO
from json import dumps
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from celeriac.cli.main import main
from celeriac.client import Client, ClientError
from celeriac.domain.secrets.model import MOST_SECRETS
from celeriac.wiring.core import CoreServices
from tests.support.api import Asker, assert_problem, sign_in
from tests.support.github import APP, KEY, pem

pytestmark = pytest.mark.requirement("F25")

SECRETS = "/api/v1/secrets"
AGENTS = "/api/v1/agents"
VALUE = "github_pat_0123456789"
NEW = {"name": "github", "value": VALUE}
GRANT = [{"name": "github", "variable": "GITHUB_TOKEN"}]


def agent(name: str = "coder", **others: Any) -> dict[str, Any]:
    spec = {"runner": "command", "command": "code", "secrets": GRANT, **others}
    return {"name": name, "spec": spec}


@pytest.fixture
def team(admin: Asker, person: Callable[..., Asker]) -> dict[str, Asker]:
    """The administrator, an admin and an operator in one workspace."""
    assert admin.post("/api/v1/workspaces", json={"name": "team"}).status_code == 201
    members = {}
    for name, role in (("eve", "admin"), ("bob", "operator")):
        made = person(name)
        body = {"user": name, "role": role}
        assert admin.post("/api/v1/workspaces/team/members", json=body).status_code == 201
        members[name] = Asker(made.client, made.token, workspace="team")
    body = {"user": "admin", "role": "admin"}
    assert admin.post("/api/v1/workspaces/team/members", json=body).status_code == 201
    return members | {"root": Asker(admin.client, admin.token, workspace="team"), "home": admin}


def test_a_value_is_stored_encrypted_and_never_shown(
    team: dict[str, Asker], container: CoreServices
) -> None:
    eve = team["eve"]
    made = eve.post(SECRETS, json={**NEW, "description": "for the shop"})
    assert made.status_code == 201, made.text
    secret = made.json()
    place = secret["_links"]["self"]
    assert (secret["source"], secret["version"], secret["created_by"]) == ("stored", 1, "eve")
    assert_problem(eve.post(SECRETS, json=NEW), 409, "name_taken")
    changed = eve.patch(place, json={"value": VALUE + "2"}).json()
    assert changed["version"] == 2
    unchanged = eve.patch(f"{SECRETS}/github", json={"description": "other"}).json()
    assert (unchanged["version"], unchanged["description"]) == (2, "other")
    for answer in (eve.get(place), eve.get(SECRETS), eve.get("/api/v1/audit-logs")):
        assert answer.status_code == 200
        assert VALUE not in answer.text
    with container.database.autocommit() as connection:
        rows = connection.execute(text("SELECT t::text, sealed FROM secrets t")).all()
        assert len(rows) == 1
        assert VALUE not in rows[0][0]
        assert VALUE.encode() not in bytes(rows[0].sealed)
        logged = connection.execute(text("SELECT string_agg(t::text, ' ') FROM audit_logs t"))
        assert VALUE not in str(logged.scalar_one())

    # problems never repeat a value
    for body, field in (
        ({"name": "a", "value": "short"}, "value"),
        ({"name": "a", "value": 12345678901}, "value"),
        ({"name": "a", "value": VALUE, "extra": VALUE}, "extra"),
        ({"name": "a"}, "value"),
        ({**NEW, "worker_source": "vault"}, "value"),
    ):
        problem = eve.post(SECRETS, json=body)
        assert problem.status_code == 422, problem.text
        assert field in problem.text
        assert str(body.get("value", VALUE)) not in problem.text
    assert eve.delete(place).status_code == 204
    assert_problem(eve.get(place), 404, "not_found")


def test_only_administrators_let_workers_read_their_machine(team: dict[str, Asker]) -> None:
    body = {"name": "db", "worker_source": "vault-db"}
    assert_problem(team["eve"].post(SECRETS, json=body), 403, "forbidden")
    made = team["root"].post(SECRETS, json=body).json()
    assert (made["source"], made["worker_source"]) == ("worker", "vault-db")
    place = made["_links"]["self"]
    for asker, change in (
        (team["eve"], {"worker_source": "other"}),
        (team["eve"], {"description": "mine"}),
        (team["bob"], {"description": "mine"}),
    ):
        assert_problem(asker.patch(place, json=change), 403, "forbidden")
    assert_problem(team["root"].patch(place, json={"value": VALUE}), 422, "invalid_input")
    team["eve"].post(SECRETS, json=NEW)
    stored = team["root"].patch(f"{SECRETS}/github", json={"worker_source": "vault"})
    assert_problem(stored, 422, "invalid_input")
    assert team["eve"].delete(place).status_code == 204


def test_only_admins_give_secrets_to_agents(team: dict[str, Asker]) -> None:
    eve, bob = team["eve"], team["bob"]
    missing = assert_problem(eve.post(AGENTS, json=agent()), 422, "invalid_input")
    assert "no secret 'github'" in missing["detail"]
    assert eve.post(SECRETS, json=NEW).status_code == 201
    # those of another workspace are missing, too
    foreign = assert_problem(team["home"].post(AGENTS, json=agent()), 422, "invalid_input")
    assert foreign["detail"] == missing["detail"]

    document = {"agents": [agent()]}
    assert_problem(bob.post(AGENTS, json=agent()), 403, "forbidden")
    assert_problem(bob.post("/api/v1/apply", json=document), 403, "forbidden")
    assert eve.post(AGENTS, json=agent()).status_code == 201
    assert "unchanged" in bob.post("/api/v1/apply", json=document).text
    place = f"{AGENTS}/coder"
    spec = agent()["spec"]
    for change in ({"arguments": ["--dump"]}, {"secrets": [{**GRANT[0], "variable": "MY_TOKEN"}]}):
        assert_problem(bob.patch(place, json={"spec": {**spec, **change}}), 403, "forbidden")
        applied = bob.post("/api/v1/apply", json={"agents": [agent(**change)]})
        assert_problem(applied, 403, "forbidden")
    assert bob.patch(place, json={"description": "codes"}).status_code == 200
    unknown = {"agents": [agent(secrets=[{"name": "none", "variable": "A_TOKEN"}])]}
    refused = assert_problem(eve.post("/api/v1/apply", json=unknown), 422, "document_invalid")
    assert "agents.0.spec.secrets" in dumps(refused)
    # without secrets it is anybody's agent again
    assert bob.patch(place, json={"spec": {**spec, "secrets": []}}).status_code == 200


def test_a_workspace_has_so_many_secrets(team: dict[str, Asker], container: CoreServices) -> None:
    eve = team["eve"]
    first = eve.post(SECRETS, json=NEW).json()
    with container.database.transaction() as connection:
        connection.execute(
            text(
                "INSERT INTO secrets (id, workspace_id, owner_id, created_by, name, source, sealed)"
                " SELECT gen_random_uuid(), workspace_id, owner_id, 'eve', 's' || n, 'stored',"
                " sealed FROM secrets, generate_series(2, :most) n"
            ),
            {"most": MOST_SECRETS},
        )
    assert_problem(eve.post(SECRETS, json={**NEW, "name": "more"}), 409, "conflict")
    assert eve.delete(first["_links"]["self"]).status_code == 204
    assert eve.post(SECRETS, json={**NEW, "name": "more"}).status_code == 201


def test_the_client_and_the_command_line(
    client: Client,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sign_in(client, monkeypatch)
    made = client.secrets.create("github", VALUE, description="shop")
    assert client.secrets.get("github") == made
    assert client.secrets.change(made.id, value=VALUE + "2").version == 2
    assert client.secrets.create("db", worker_source="vault").source == "worker"
    assert [each.name for each in client.secrets.list()] == ["db", "github"]
    assert client.secrets.reencrypt() == 0
    client.agents.create("coder", agent()["spec"])
    with pytest.raises(ClientError, match="private key"):
        client.secrets.create("app", VALUE, github_app=APP)
    pem_file = tmp_path / "app.pem"
    pem_file.write_text(pem(KEY))
    made_app = (
        "secrets",
        "create",
        "app",
        "--value-file",
        str(pem_file),
        "--github-app",
        dumps(APP),
    )
    assert main(made_app) == 0
    assert client.secrets.get("app").github_app == APP
    with pytest.raises(ClientError, match="private key"):
        client.secrets.change("app", value=VALUE)
    client.secrets.delete("app")

    value = tmp_path / "value"
    value.write_text("from-a-file-1\n")
    assert main(("secrets", "create", "filed", "--value-file", str(value))) == 0
    monkeypatch.setattr("sys.stdin", StringIO("from-stdin-22\n"))
    assert main(("secrets", "create", "piped")) == 0
    monkeypatch.setattr("sys.stdin", StringIO("short\n"))
    assert main(("secrets", "change", "piped", "--value-file", "-")) == 2
    assert "value" in capsys.readouterr().err
    assert main(("secrets", "change", "piped")) == 2
    assert "--value-file" in capsys.readouterr().err
    assert main(("secrets", "list")) == 0
    assert main(("secrets", "show", "db")) == 0
    assert main(("secrets", "reencrypt")) == 0
    shown = capsys.readouterr()
    assert "worker: vault" in shown.out
    assert "from-" not in shown.out + shown.err
    assert main(("secrets", "delete", "piped")) == 0
    with pytest.raises(ClientError, match="piped"):
        client.secrets.get("piped")


def test_only_admins_give_a_repository_a_secret(team: dict[str, Asker]) -> None:
    eve, bob = team["eve"], team["bob"]
    assert eve.post(SECRETS, json=NEW).status_code == 201
    plain = {"name": "coder", "spec": {"runner": "command", "command": "code"}}
    assert bob.post(AGENTS, json=plain).status_code == 201

    def task(**repository: Any) -> dict[str, Any]:
        spec = {"repository": {"git": "https://git.example.com/shop.git", **repository}}
        return {"name": "fix", "agent": "coder", "spec": spec}

    named, unknown = task(secret="github"), task(secret="unknown")
    for wrong in (named, unknown):
        assert_problem(bob.post("/api/v1/tasks", json=wrong), 403, "forbidden")
        assert_problem(bob.post("/api/v1/apply", json={"tasks": [wrong]}), 403, "forbidden")
    refused = assert_problem(eve.post("/api/v1/tasks", json=unknown), 422, "invalid_input")
    assert refused["field"] == "spec.repository.secret"
    answer = eve.post("/api/v1/apply", json={"tasks": [unknown]})
    refused = assert_problem(answer, 422, "document_invalid")
    assert "tasks.0.spec.repository.secret" in dumps(refused)
    made = eve.post("/api/v1/apply", json={"tasks": [named]})
    assert made.status_code == 200, made.text
    # an operator may apply what changes nothing, and run it
    assert "unchanged" in bob.post("/api/v1/apply", json={"tasks": [named]}).text
    changed = task(secret="github", ref="main")
    assert_problem(bob.post("/api/v1/apply", json={"tasks": [changed]}), 403, "forbidden")
    patched = bob.patch("/api/v1/tasks/fix", json={"spec": changed["spec"]})
    assert_problem(patched, 403, "forbidden")
    for fields, message in (
        ({"secret": "github", "git": "ssh://git@git.example.com/shop.git"}, "https:// only"),
        ({"secret": "github", "overrides": ["git"]}, "overrides can't have git"),
    ):
        answer = eve.post("/api/v1/tasks", json=task(**fields) | {"name": "other"})
        assert message in assert_problem(answer, 422, "invalid_input")["detail"], answer.text
