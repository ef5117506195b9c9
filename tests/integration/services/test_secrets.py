"""Secrets that attempts are given: hostile agents, the audit trail, and what can't be read."""

import os
import resource
import sys
from base64 import b64encode
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy import text
from starlette.responses import Response

from celeriac.adapters.github_app import GithubTokens
from celeriac.adapters.secret_sources import (
    CommandSource,
    FileSource,
    SecretSources,
    Source,
    VariableSource,
)
from celeriac.agents.command.runner import CommandRunner
from celeriac.agents.python.runner import PythonRunner
from celeriac.db import secrets as rows
from celeriac.db import workspaces
from celeriac.domain.accounts import Role
from celeriac.domain.agents import AgentSpec, CommandAgent, PythonAgent, RunnerName, SecretGrant
from celeriac.domain.confinement import AgentConfinement
from celeriac.domain.errors import ConfigurationError, ForbiddenError, SecretUnavailableError
from celeriac.domain.executions.events import EventType
from celeriac.domain.executions.model import SubmitRequest
from celeriac.domain.executions.states import Status, WaitingFor
from celeriac.domain.secrets.cipher import SecretCipher
from celeriac.domain.secrets.minted import GithubApp
from celeriac.domain.tasks import RetryPolicy, TaskSpec
from celeriac.logs import LogOptions, Service, configure, flush, shutdown
from celeriac.logs.redact import MASK
from celeriac.services.catalog.agents import Agents
from celeriac.services.catalog.tasks import Tasks
from celeriac.services.ports import Job
from celeriac.services.secrets.hand_out import HandOut
from celeriac.services.secrets.manage import NewSecret, SecretChange, Secrets
from tests.support import leaky_functions
from tests.support.confined import confined
from tests.support.core import Core
from tests.support.durable_bench import Bench
from tests.support.executing import SECRET_KEY
from tests.support.github import APP, KEY, TOKEN, github, pem
from tests.support.memory import MemoryRunner, MemoryRunners
from tests.support.tables import found_in_tables
from tests.support.waiting import wait_until

pytestmark = pytest.mark.requirement("F25")

VALUE = "tok/Zq8'\"mN2-väl"
FUNCTIONS = leaky_functions.__name__
PROGRAM = """
import json, os, sys
value = os.environ["SHOP_TOKEN"]
print(value, file=sys.stderr, flush=True)
say = lambda **message: print(json.dumps(message), flush=True)
say(type="event", data={"name": value, "data": {"value": value}})
say(type="log", level="info", message=value, fields={value: value})
say(type="usage", provider="local", model=value, input_tokens=1, output_tokens=1)
say(type="delta", data={"text": value})
if sys.argv[1:] == ["fails"]:
    print(value, flush=True)
say(type="result", value={"value": value, value: [value]})
"""


def secrets_of(core: Core, *, keys: tuple[str, ...] = (SECRET_KEY,)) -> Secrets:
    return Secrets(core.database, SecretCipher(keys))


def make(core: Core, agent: AgentSpec, name: str = "leaky") -> UUID:
    """Store an agent and a task of it, and submit an execution."""
    Agents(core.database).create(core.actor, name=name, spec=agent)
    spec = TaskSpec(retry=RetryPolicy(max_retries=0))
    task = Tasks(core.database).create(core.actor, name=name, agent=name, spec=spec)
    return core.submit(core.actor, SubmitRequest(task_id=task.id)).execution_id


@pytest.fixture
def given(core: Core) -> Core:
    """The secret `shop` of the workspace, and an admin of it."""
    core.actor = replace(core.actor, role=Role.ADMIN)
    secrets_of(core).create(core.actor, NewSecret(name="shop", value=VALUE))
    return core


def runners() -> MemoryRunners:
    """Return the runners of the functions and of the program."""
    bounds = confined({"PATH": os.environ["PATH"], "PYTHONPATH": str(Path.cwd())})
    line = [sys.executable, "-c", PROGRAM]
    return MemoryRunners(
        {
            RunnerName.PYTHON: PythonRunner(modules=(FUNCTIONS,), confinement=bounds),
            RunnerName.COMMAND: CommandRunner(commands={"leak": line}, confinement=bounds),
        }
    )


GRANT = (SecretGrant(name="shop", variable="SHOP_TOKEN"),)


@pytest.mark.parametrize("kind", ["result", "error", "steps", "program", "program fails"])
def test_no_value_is_stored_whatever_an_agent_writes(
    given: Core, bench: Bench, tmp_path: Path, kind: str
) -> None:
    core, worker = given, bench.worker
    worker.use(runners())
    agent: AgentSpec
    if kind.startswith("program"):
        arguments = tuple(kind.split()[1:])
        agent = CommandAgent(command="leak", arguments=arguments, secrets=GRANT)
    else:
        agent = PythonAgent(function=f"{FUNCTIONS}:leak_{kind}", secrets=GRANT)
    logs = tmp_path / "logs"
    configure(LogOptions(service=Service.WORKER, directory=logs, console="off"))
    try:
        execution_id = make(core, agent)
        bench.work()
        worker.event_writer.flush()
        if kind == "steps":
            assert core.get(execution_id).waiting_for is WaitingFor.APPROVAL
            core.answer(execution_id)
            core.resume()
            bench.work()
        assert flush()
    finally:
        shutdown()

    done = core.get(execution_id)
    succeeds = kind in {"result", "program"}
    assert done.status is (Status.COMPLETED if succeeds else Status.FAILED), done.error_message
    if kind == "steps":
        assert "name of a step has the value of a secret" in str(done.error_message)
    # beginnings count, too: texts are cut in the middle of the value
    parts = (VALUE, VALUE[:6], VALUE.encode("unicode_escape").decode()[2:8])
    assert found_in_tables(core, *parts) == []
    lines = "\n".join(path.read_text() for path in logs.rglob("*") if path.is_file())
    assert str(execution_id) in lines
    for part in parts:
        assert part not in lines
    assert MASK in lines
    assert MASK in str([each.data for each in core.events(execution_id)])
    assert_uses_are_recorded(core, execution_id, attempts=2 if kind == "steps" else 1)


def assert_uses_are_recorded(core: Core, execution_id: UUID, *, attempts: int) -> None:
    events = core.events(execution_id)
    used = [each.data for each in events if each.type is EventType.SECRET_USED]
    assert used == [{"secret": "shop", "version": 1, "variable": "SHOP_TOKEN"}] * attempts
    with core.database.autocommit() as connection:
        query = text("SELECT details FROM audit_logs WHERE action = 'secret.use' ORDER BY id")
        entries = list(connection.execute(query).scalars())
    assert [each["attempt"] for each in entries] == [*range(1, attempts + 1)]
    assert {each["execution_id"] for each in entries} == {str(execution_id)}


def test_what_can_not_be_read_fails_before_the_agent_starts(given: Core, bench: Bench) -> None:
    core, secrets = given, secrets_of(given)
    bench.worker.use(runners())
    coroutine = make(core, PythonAgent(function=f"{FUNCTIONS}:leak_coroutine", secrets=GRANT), "c")
    agent = PythonAgent(function=f"{FUNCTIONS}:leak_result", secrets=GRANT)
    foreign = make(core, agent, "foreign")
    with core.database.transaction() as connection:  # as after a rotation without the old key
        sealed = SecretCipher(["o" * 32]).encrypt(secrets.get(core.actor, "shop").id, 1, VALUE)
        connection.execute(text("UPDATE secrets SET sealed = :sealed"), {"sealed": sealed})
    bench.work()
    for execution_id, message in ((coroutine, "encrypted with a key"), (foreign, "a key that")):
        failed = core.get(execution_id)
        assert (failed.status, failed.error_code) == (Status.FAILED, "agent_misconfigured")
        assert message in str(failed.error_message)
        assert EventType.SECRET_USED not in {each.type for each in core.events(execution_id)}

    secrets.change(core.actor, "shop", SecretChange(value=VALUE + "2"))
    again = core.submit(core.actor, SubmitRequest(task_id=core.get(coroutine).task_id))
    bench.work()
    assert "is a coroutine" in str(core.get(again.execution_id).error_message)

    secrets.delete(core.actor, "shop")
    last = core.submit(core.actor, SubmitRequest(task_id=core.get(foreign).task_id))
    bench.work()
    failed = core.get(last.execution_id)
    assert (failed.status, failed.error_code) == (Status.FAILED, "agent_misconfigured")
    assert "names the secret 'shop'" in str(failed.error_message)


def test_secrets_stay_without_their_maker_and_go_with_their_workspace(
    given: Core, bench: Bench
) -> None:
    core = given
    bench.worker.use(runners())
    agent = PythonAgent(function=f"{FUNCTIONS}:leak_result", secrets=GRANT)
    first = make(core, agent)
    core.execute("UPDATE users SET disabled_at = now() WHERE id = :id", id=core.actor.user_id)
    bench.work()
    assert EventType.SECRET_USED in {each.type for each in core.events(first)}

    last = core.submit(core.actor, SubmitRequest(task_id=core.get(first).task_id)).execution_id
    with core.database.transaction() as connection:
        assert workspaces.lock(connection, core.actor.workspace_id)
        workspaces.end(connection, core.actor.workspace_id)
    bench.work()
    assert core.count("secrets") == 0
    failed = core.get(last)
    assert (failed.status, failed.error_code) == (Status.FAILED, "agent_misconfigured")
    assert EventType.SECRET_USED not in {each.type for each in core.events(last)}


def test_a_secret_for_a_host_is_not_among_the_variables(given: Core, bench: Bench) -> None:
    grants = (
        SecretGrant(name="git", host="git.example.com", user="x-access-token"),
        SecretGrant(name="git", host="api.example.com:8443", header="X-Key", template="{secret}"),
    )
    value = "tok-0123456789"
    secrets_of(given).create(given.actor, NewSecret(name="git", value=value))
    jobs: list[Job] = []

    async def work(job: Job, _context: object) -> str:
        jobs.append(job)
        header = job.credentials[0].value
        return f"{header} {value} {header.removeprefix('Basic ')}"

    bench.worker.use(MemoryRunners({RunnerName.COMMAND: MemoryRunner(work)}))
    network = AgentConfinement(network=("*.example.com:443", "api.example.com:8443"))
    execution_id = make(
        given, CommandAgent(command="a", secrets=grants, confinement=network), "hosts"
    )
    bench.work()

    done = given.get(execution_id)
    assert (done.status, done.result) == (Status.COMPLETED, f"{MASK} {MASK} {MASK}")
    (job,) = jobs
    assert job.secrets == {}
    assert value not in repr(job)
    basic = "Basic " + b64encode(f"x-access-token:{value}".encode()).decode()
    assert [(each.host, each.port, each.header, each.value) for each in job.credentials] == [
        ("git.example.com", 80, "Authorization", basic),
        ("api.example.com", 8443, "X-Key", value),
    ]
    events = given.events(execution_id)
    used = [each.data for each in events if each.type is EventType.SECRET_USED]
    assert used == [
        {"secret": "git", "version": 1, "host": "git.example.com"},
        {"secret": "git", "version": 1, "host": "api.example.com:8443"},
    ]


def test_an_attempt_gets_a_token_of_the_app(given: Core, bench: Bench) -> None:
    app = GithubApp.model_validate(APP)
    new = NewSecret(name="app", value=pem(KEY), github_app=app)
    secrets_of(given).create(given.actor, new)
    seen: list[str] = []

    async def work(job: Job, _context: object) -> str:
        seen.append(job.secrets["GITHUB_TOKEN"])
        return job.secrets["GITHUB_TOKEN"]

    worker = bench.worker
    worker.use(MemoryRunners({RunnerName.COMMAND: MemoryRunner(work)}))
    grants = (SecretGrant(name="app", variable="GITHUB_TOKEN"),)
    with github() as (server, url):
        cipher, sources = SecretCipher([SECRET_KEY]), SecretSources({}, {})
        hand_out = HandOut(given.database, lambda: cipher, sources.read, GithubTokens(url).mint)
        worker.execute = replace(
            worker.execute, runs=replace(worker.execute.runs, hand_out=hand_out)
        )
        execution_id = make(given, CommandAgent(command="a", secrets=grants), "app")
        bench.work()
        server.answer = Response("", 404)
        refused = given.submit(
            given.actor, SubmitRequest(task_id=given.get(execution_id).task_id)
        ).execution_id
        bench.work()

    done = given.get(execution_id)
    assert (done.status, done.result) == (Status.COMPLETED, MASK), done.error_message
    assert seen == [TOKEN]
    assert [wanted["repositories"] for _, wanted in server.asked] == [["shop"]] * 2
    assert found_in_tables(given, TOKEN, "PRIVATE KEY") == []
    failed = given.get(refused)
    assert (failed.status, failed.error_code) == (Status.FAILED, "secret_unavailable")
    events = given.events(execution_id)
    (used,) = [each.data for each in events if each.type is EventType.SECRET_USED]
    assert used["expires_at"] == "2026-11-28T20:00:00+00:00"


def test_keys_are_replaced(given: Core) -> None:
    administrator = replace(given.actor, administrator=True)
    rotated = secrets_of(given, keys=("n" * 32, SECRET_KEY))

    assert rotated.reencrypt(administrator) == 1
    assert rotated.reencrypt(administrator) == 0
    with given.database.autocommit() as connection:
        (stored,) = rows.named(connection, ["shop"], workspace=given.actor.workspace_id).values()
    assert stored.sealed is not None
    assert SecretCipher(["n" * 32]).decrypt(stored.secret.id, 1, stored.sealed) == VALUE
    with pytest.raises(ForbiddenError):
        rotated.reencrypt(replace(given.actor, administrator=False))


def test_a_command_is_read_in_a_process_with_many_open_files() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 1_200:
        pytest.skip(f"this process may open only {hard} files")
    sources = SecretSources({"command": CommandSource(("/bin/echo", "shop-value"), 10)}, {})
    with ExitStack() as stack:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 1_200), hard))
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        while (last := os.open(os.devnull, os.O_RDONLY)) < 1_100:
            stack.callback(os.close, last)
        stack.callback(os.close, last)
        assert sources.read("command") == "shop-value"


def test_sources_of_a_worker(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("line one\nline two\n")
    marker = tmp_path / "outlives"
    shell = "/bin/sh"
    slow = f"echo secret-part; (sleep 60; touch {marker}) & echo $! >{tmp_path}/pid; sleep 60"
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "endless").symlink_to("/dev/zero")
    with (tmp_path / "large").open("wb") as file:
        file.truncate(1_000_000_000)
    (tmp_path / "link").symlink_to(key)
    found: dict[str, Source] = {
        "pipe": FileSource(tmp_path / "pipe"),
        "device": FileSource(tmp_path / "endless"),
        "directory": FileSource(tmp_path),
        "large": FileSource(tmp_path / "large"),
        "link": FileSource(tmp_path / "link"),
        "variable": VariableSource("SHOP"),
        "unset": VariableSource("NOT_SET"),
        "file": FileSource(key),
        "no file": FileSource(tmp_path / "none"),
        "command": CommandSource((shell, "-c", "echo from-a-command; echo noise >&2"), 10),
        "fails": CommandSource((shell, "-c", "echo secret-part; exit 3"), 10),
        "slow": CommandSource((shell, "-c", slow), 0.3),
        "flood": CommandSource((shell, "-c", "yes secret-part"), 10),
        "binary": CommandSource((shell, "-c", "printf '\\377\\376secret-part'"), 10),
        "no program": CommandSource((str(tmp_path / "none"),), 1),
    }  # fmt: skip
    sources = SecretSources(found, {"SHOP": "from-a-variable"})

    assert sources.read("variable") == "from-a-variable"
    assert sources.read("file") == sources.read("link") == "line one\nline two"
    assert sources.read("command") == "from-a-command"
    with pytest.raises(ConfigurationError, match="no source 'vault'") as unknown:
        sources.read("vault")
    assert "flood" not in str(unknown.value), "names of others are not for this workspace"
    for name, message in {
        "no file": "No such file",
        "pipe": "is no regular file",
        "device": "is no regular file",
        "directory": "is no regular file",
        "large": "gave more than 256,000 bytes",
        "fails": "ended with the code 3",
        "slow": "took longer than 0.3 s",
        "flood": "gave more than",
        "binary": "no UTF-8 text",
        "no program": "can't be run",
    }.items():
        with pytest.raises(SecretUnavailableError, match=message) as caught:
            sources.read(name)
        assert "secret-part" not in f"{caught.value!r} {caught.value.__cause__!r}"
        assert caught.value.__cause__ is None or isinstance(caught.value.__cause__, OSError)
    child = Path("/proc") / (tmp_path / "pid").read_text().strip()
    wait_until(lambda: not child.exists(), "the command's child has ended")
    assert not marker.exists()
