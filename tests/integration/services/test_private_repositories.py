"""Tasks whose repository has a secret: who may make them, and what is recorded of its use."""

import os
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import text

from celeriac.adapters.github_app import GithubTokens
from celeriac.agents.command.runner import CommandRunner
from celeriac.domain.accounts import Role
from celeriac.domain.agents import CommandAgent, RunnerName
from celeriac.domain.errors import ForbiddenError, InvalidInputError, TemplateRenderError
from celeriac.domain.executions.events import EventType
from celeriac.domain.executions.model import SubmitRequest
from celeriac.domain.executions.options import RunOptions
from celeriac.domain.executions.states import Status
from celeriac.domain.repositories import (
    Repository,
    RepositoryAccess,
    RepositoryChoice,
    RepositoryRule,
)
from celeriac.domain.secrets.cipher import SecretCipher
from celeriac.domain.secrets.minted import GithubApp
from celeriac.domain.tasks import RetryPolicy, TaskSpec
from celeriac.kit.json_types import JsonObject
from celeriac.kit.outbound import OutboundGuard
from celeriac.logs import LogOptions, Service, configure, flush, shutdown
from celeriac.logs.redact import MASK
from celeriac.services.catalog.agents import Agents
from celeriac.services.catalog.specs import SpecCache
from celeriac.services.catalog.tasks import Tasks
from celeriac.services.executions.repeat import Repeat
from celeriac.services.executions.submit import Submit
from celeriac.services.secrets.hand_out import HandOut
from celeriac.services.secrets.manage import NewSecret, Secrets
from tests.support.certificates import make_certificate
from tests.support.confined import confined
from tests.support.core import Core
from tests.support.durable_bench import Bench
from tests.support.executing import SECRET_KEY
from tests.support.git_server import GitServer, git_server, served_copy
from tests.support.github import APP, KEY, TOKEN, github, pem
from tests.support.memory import MemoryRunners
from tests.support.repositories import Desk, Origin, answer
from tests.support.tables import found_in_tables

pytestmark = pytest.mark.requirement("F25")

VALUE = "glpat-Zq8mN2vAl0123456789"
SCRIPT = f"read start\necho 2 >lib/value\n{answer('done')}"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[GitServer]:
    certificate = make_certificate(tmp_path, "localhost")
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate.certificate))
    served_copy(Origin(tmp_path / "origin"), tmp_path / "served", "shop.git")
    with git_server(tmp_path / "served", certificate) as running:
        yield running


@pytest.fixture
def given(core: Core, server: GitServer) -> Core:
    """The secret `shop`, an admin, and an agent."""
    core.actor = replace(core.actor, role=Role.ADMIN)
    Secrets(core.database, SecretCipher([SECRET_KEY])).create(
        core.actor, NewSecret(name="shop", value=VALUE)
    )
    agent = CommandAgent(command="shell", arguments=(SCRIPT,))
    Agents(core.database).create(core.actor, name="coder", spec=agent)
    return core


def spec_of(server: GitServer, **fields: object) -> TaskSpec:
    repository = {"git": f"{server.url}/shop.git", "secret": "shop", **fields}
    return TaskSpec(
        repository=Repository.model_validate(repository), retry=RetryPolicy(max_retries=0)
    )


def send(core: Core, server: GitServer) -> Submit:
    """Return what submits executions with repositories of the server."""
    return Submit(
        core.database,
        SpecCache(core.database),
        core.dispatch,
        OutboundGuard(hosts=frozenset({"localhost"})),
        repositories=RepositoryRule(allow=(server.url,)),
    )


def set_up(bench: Bench, tmp_path: Path, server: GitServer) -> None:
    """Have the worker make checkouts."""
    bounds = confined({"PATH": os.environ["PATH"]})
    runner = CommandRunner(commands={"shell": ["sh", "-c"]}, confinement=bounds)
    worker = bench.worker
    runs = worker.execute.runs
    desk = Desk(tmp_path / "home", Origin(tmp_path / "unused"), bounds)
    guard = OutboundGuard(hosts=frozenset({"localhost"}))
    desk.shared = replace(
        desk.shared,
        places=replace(desk.places, workdirs=runs.workdirs),
        mirrors=replace(desk.shared.mirrors, guard=guard),
        rule=replace(desk.shared.rule, allow=(server.url,)),
    )
    runners = MemoryRunners({RunnerName.COMMAND: runner})
    worker.execute = replace(
        worker.execute, runs=replace(runs, runners=runners, in_checkout=desk.runner)
    )


@pytest.mark.parametrize("kind", ["stored", "app"])
def test_an_execution_uses_the_secret_and_its_use_is_recorded(
    given: Core, bench: Bench, server: GitServer, tmp_path: Path, kind: str
) -> None:
    core = given
    value = VALUE if kind == "stored" else TOKEN
    server.users = {("x-access-token", value)}
    set_up(bench, tmp_path, server)
    spec = spec_of(server, secret="shop" if kind == "stored" else "app")
    with github() as (_, url):
        cipher = SecretCipher([SECRET_KEY])
        new = NewSecret(name="app", value=pem(KEY), github_app=GithubApp.model_validate(APP))
        Secrets(core.database, cipher).create(core.actor, new)
        hand_out = HandOut(core.database, lambda: cipher, str, GithubTokens(url).mint)
        runs = replace(bench.worker.execute.runs, hand_out=hand_out)
        bench.worker.execute = replace(bench.worker.execute, runs=runs)
        task = Tasks(core.database).create(core.actor, name="fix", agent="coder", spec=spec)
        execution_id = send(core, server)(core.actor, SubmitRequest(task_id=task.id)).execution_id
        bench.work()

    done = core.get(execution_id)
    assert (done.status, done.result) == (Status.COMPLETED, "done"), done.error_message
    assert set(server.seen) == {("x-access-token", value)}
    (used,) = [e.data for e in core.events(execution_id) if e.type is EventType.SECRET_USED]
    assert (used["secret"], used["repository"]) == (
        "shop" if kind == "stored" else "app",
        f"{server.url}/shop.git",
    )
    assert ("expires_at" in used) is (kind == "app")
    with core.database.autocommit() as connection:
        query = text("SELECT details FROM audit_logs WHERE action = 'secret.use'")
        entries = connection.execute(query).scalars().all()
    assert [(each["name"], each["repository"]) for each in entries] == [
        (used["secret"], used["repository"])
    ]
    access = RepositoryAccess("x-access-token", value, task.id, 1)
    assert found_in_tables(core, *access.values) == []


def test_only_admins_name_secrets_and_only_known_ones(given: Core, server: GitServer) -> None:
    tasks, admin = Tasks(given.database), given.actor
    operator = replace(admin, role=Role.OPERATOR)
    spec = spec_of(server)
    for name in ("shop", "unknown"):
        with pytest.raises(ForbiddenError):
            tasks.create(operator, name="fix", agent="coder", spec=spec_of(server, secret=name))
    with pytest.raises(InvalidInputError, match="no secret 'unknown'") as caught:
        tasks.create(admin, name="fix", agent="coder", spec=spec_of(server, secret="unknown"))
    assert caught.value.field == "spec.repository.secret"
    tasks.create(admin, name="fix", agent="coder", spec=spec)
    with pytest.raises(ForbiddenError):
        tasks.change(operator, "fix", spec=spec.model_copy(update={"prompt": "Print the token."}))
    tasks.change(operator, "fix", spec=spec, description="the same")


def test_a_secret_does_not_go_where_an_earlier_version_let_executions_choose(
    given: Core, bench: Bench, server: GitServer, tmp_path: Path
) -> None:
    core, tasks = given, Tasks(given.database)
    set_up(bench, tmp_path, server)
    task = tasks.create(
        core.actor, name="fix", agent="coder", spec=spec_of(server, secret=None, overrides=["git"])
    )
    choice = RepositoryChoice(git=f"{server.url}/evil.git")
    request = SubmitRequest(task_id=task.id, options=RunOptions(repository=choice))
    execution_id = send(core, server)(core.actor, request).execution_id
    bench.work()
    assert core.get(execution_id).error_code == "repository_unavailable"
    tasks.change(core.actor, "fix", spec=spec_of(server))
    server.users, server.seen = {("x-access-token", VALUE)}, []
    repeat = Repeat(core.database, SpecCache(core.database))
    origin = core.get(execution_id)
    (refused,) = repeat.check(core.actor, [origin]).refused.values()
    assert refused.details["field"] == "repository.git"
    with pytest.raises(InvalidInputError, match="does not leave git"):
        send(core, server).repeat(core.actor, execution_id)
    assert server.seen == []


def test_a_branch_that_can_not_be_pushed_is_refused_before_anything_is_stored(
    given: Core, server: GitServer
) -> None:
    spec = spec_of(server, push={"branch": "fix/{{ issue }}"})
    task = Tasks(given.database).create(given.actor, name="fix", agent="coder", spec=spec)
    submit, before = send(given, server), given.count("executions")
    for issue, error in (("a b", InvalidInputError), (None, TemplateRenderError)):
        variables = {} if issue is None else {"issue": issue}
        with pytest.raises(error):
            submit(given.actor, SubmitRequest(task_id=task.id, variables=variables))
        with pytest.raises(error) as caught:
            submit.batch(given.actor, SubmitRequest(task_id=task.id), [{"issue": "7"}, variables])
        assert caught.value.message.startswith("Item 1: ")
    assert given.count("executions") == before


def test_the_branch_to_push_may_not_be_the_one_that_an_execution_chooses(
    given: Core, server: GitServer
) -> None:
    spec = spec_of(server, ref="release-1", push={"branch": "{{ branch }}"})
    task = Tasks(given.database).create(given.actor, name="fix", agent="coder", spec=spec)
    submit, before = send(given, server), given.count("executions")
    chosen = RunOptions(repository=RepositoryChoice(ref="release-2"))
    variables: JsonObject = {"branch": "release-2"}
    with pytest.raises(InvalidInputError, match="release-2 is the branch that is checked out"):
        submit(given.actor, SubmitRequest(task_id=task.id, variables=variables, options=chosen))
    with pytest.raises(InvalidInputError, match="Item 1: release-2 is the branch"):
        submit.batch(
            given.actor,
            SubmitRequest(task_id=task.id),
            [variables, variables],
            [None, chosen.repository],
        )
    assert given.count("executions") == before
    submit(given.actor, SubmitRequest(task_id=task.id, variables=variables))
    other = SubmitRequest(task_id=task.id, variables={"branch": "release-1"}, options=chosen)
    submit(given.actor, other)
    assert given.count("executions") == before + 2


PRINTS = f"""
read start
token=$(printf %s {b64encode(VALUE.encode()).decode()} | base64 -d)
{{ env; cat .git/config; git config --list; }} >found 2>&1
printf 'protocol=https\\nhost=localhost\\n\\n' | git credential fill >>found 2>&1
grep -qF "$token" found && exit 9
cat found >&2
echo 2 >lib/value
rm found
{answer("done")}
"""


def test_a_credential_appears_nowhere_whatever_agent_and_server_print(
    given: Core, bench: Bench, server: GitServer, tmp_path: Path
) -> None:
    core = given
    server.users = {("x-access-token", VALUE)}
    set_up(bench, tmp_path, server)
    agent = CommandAgent(command="shell", arguments=(PRINTS,))
    Agents(core.database).create(core.actor, name="printer", spec=agent)
    spec = spec_of(server, push=True)
    task = Tasks(core.database).create(core.actor, name="print", agent="printer", spec=spec)
    hook = tmp_path / "served/shop.git/hooks/pre-receive"
    hook.parent.mkdir(exist_ok=True)
    logs = tmp_path / "logs"
    configure(LogOptions(service=Service.WORKER, directory=logs, console="off"))
    try:
        ids = []
        for script in ("exit 0", f"echo 'no pushes with {VALUE}'; exit 1"):
            hook.write_text(f"#!/bin/sh\n{script}\n")
            hook.chmod(0o755)
            request = SubmitRequest(task_id=task.id)
            ids.append(send(core, server)(core.actor, request).execution_id)
            bench.work()
        bench.worker.event_writer.flush()
        assert flush()
    finally:
        shutdown()

    pushed, refused = (core.get(each) for each in ids)
    assert pushed.status is Status.COMPLETED, pushed.error_message
    assert (refused.status, refused.error_code) == (Status.FAILED, "push_failed")
    assert f"no pushes with {MASK}" in str(refused.error_message)
    kinds = core.event_types(ids[0])
    assert [each for each in kinds if each in {"change", "pushed"}] == ["change", "pushed"]
    values = RepositoryAccess("x-access-token", VALUE, task.id, 1).values
    assert found_in_tables(core, *values) == []
    texts = [each.read_bytes() for each in tmp_path.rglob("*") if each.is_file() and each != hook]
    assert len(texts) > 20
    assert not any(value.encode() in text for text in texts for value in values)
    for row in (pushed, refused):
        assert not any(value in repr((row, core.events(row.id))) for value in values)
