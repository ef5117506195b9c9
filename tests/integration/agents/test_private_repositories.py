"""Repositories that ask for credentials: the worker has them, the agent never does."""

import os
from base64 import b64encode
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from celeriac.agents.command.runner import CommandRunner
from celeriac.agents.repository.git import Git
from celeriac.domain.errors import RepositoryUnavailableError
from celeriac.domain.executions.events import EventType
from celeriac.domain.executions.model import Completed
from celeriac.domain.repositories import Repository, RepositoryAccess
from celeriac.services.ports import Job
from tests.support.git_server import (
    ACCESS,
    PASSWORD,
    GitServer,
    may_use,
    private_server,
    served_copy,
)
from tests.support.repositories import Desk, Origin, answer
from tests.support.run_context import command_job, events_of

pytestmark = [pytest.mark.anyio, pytest.mark.requirement("F25")]

WORKSPACE = UUID(int=1)

FIND = f"""
token=$(printf %s {b64encode(PASSWORD.encode()).decode()} | base64 -d)
test ${{#token}} = {len(PASSWORD)} || exit 9
grep -rqF "$token" . && echo 'in the checkout' >found
tr '\\0' '\\n' </proc/self/environ | grep -qF "$token" && echo 'in the environment' >found
for each in /proc/[0-9]*; do
    grep -aqF "$token" $each/cmdline 2>{os.devnull} && echo "in the arguments of $each" >found
done
cat .git/config >config
git credential fill 2>{os.devnull} >>config <<IN
protocol=https
host=localhost
IN
"""


@pytest.fixture
def server(tmp_path: Path, origin: Origin, monkeypatch: pytest.MonkeyPatch) -> Iterator[GitServer]:
    served_copy(origin, tmp_path / "served", "shop.git")
    with private_server(tmp_path / "served", monkeypatch) as running:
        yield running


@pytest.fixture
def desk(desk: Desk, server: GitServer) -> Desk:
    return may_use(desk, server)


def job_of(server: GitServer, script: str, access: RepositoryAccess | None = ACCESS) -> Job:
    secret = None if access is None else "shop"
    return replace(
        command_job("shell", f"read start\n{script}\n{answer('done')}"),
        execution_id=uuid4(),
        workspace_id=WORKSPACE,
        repository=Repository(git=f"{server.url}/shop.git", secret=secret),
        repository_access=access,
    )


def shown_by_processes() -> list[str]:
    """Return the files of running processes that show the token: arguments and environments."""
    found = []
    for each in Path("/proc").glob("[0-9]*"):
        for name in ("cmdline", "environ"):
            with suppress(OSError):
                content = (each / name).read_bytes()
                if PASSWORD.encode() in content or ACCESS.basic.encode() in content:
                    found.append(f"{each}/{name}")
    return found


def holding(place: Path, *texts: str) -> list[Path]:
    """Return the files below `place` that have one of the texts."""
    files = [each for each in place.rglob("*") if each.is_file() and not each.is_symlink()]
    return [each for each in files if any(one.encode() in each.read_bytes() for one in texts)]


async def test_the_worker_fetches_with_a_secret_that_the_agent_can_not_find(
    desk: Desk, server: GitServer, shell: CommandRunner, tmp_path: Path
) -> None:
    job, seen = job_of(server, FIND), []
    server.watch = lambda: seen.extend(shown_by_processes())
    done, context = await desk.run(shell, job)
    assert isinstance(done, Completed)
    assert seen == []
    assert set(server.seen) == {("x-access-token", PASSWORD)}
    assert events_of(context, EventType.CHANGE)[0]["files"] == 1
    patch = (desk.base(job) / "changes.patch").read_text()
    assert "+\turl = " in patch
    assert "+++ b/found" not in patch, patch
    assert holding(desk.home, PASSWORD, ACCESS.basic) == []
    assert PASSWORD not in repr((context.events, context.logged(), job))


async def test_what_was_fetched_with_a_secret_is_not_given_to_tasks_without_it(
    desk: Desk, server: GitServer, shell: CommandRunner
) -> None:
    await desk.run(shell, job_of(server, ":"))
    sha = (await desk.run(shell, job_of(server, ":")))[1].events[0][1]["sha"]
    for access in (None, replace(ACCESS, password="of-another", secret_id=UUID(int=8))):
        job = job_of(server, ":", access)
        assert job.repository is not None
        pinned = replace(job, repository=job.repository.model_copy(update={"ref": sha}))
        with pytest.raises(RepositoryUnavailableError, match="can't be fetched") as caught:
            await desk.run(shell, pinned)
        wanted = "Give the task a repository.secret" if access is None else "secret 'shop'"
        assert wanted in str(caught.value)
        assert "of-another" not in str(caught.value)
    # nor to those with another value of it
    changed = job_of(server, ":", replace(ACCESS, version=2, password="revoked-0000"))
    with pytest.raises(RepositoryUnavailableError):
        await desk.run(shell, changed)


async def test_credentials_go_to_no_other_server_and_are_masked_in_what_one_says(
    desk: Desk, server: GitServer, shell: CommandRunner
) -> None:
    server.users = {("x-access-token", "another-value")}
    job = job_of(server, ":")
    context = desk.context(job)
    with pytest.raises(RepositoryUnavailableError, match="does not take the secret") as caught:
        await desk.run(shell, job, context)
    assert server.seen == [("x-access-token", PASSWORD)]
    assert PASSWORD not in repr((caught.value, caught.value.details, context.events))
    assert holding(desk.home, PASSWORD, ACCESS.basic) == []


async def test_git_has_no_kerberos_ticket_to_send(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".gitconfig").write_text("[http]\n\temptyAuth = true\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("KRB5CCNAME", str(tmp_path / "ticket"))
    setting = await Git().do("config", "--get", "http.emptyAuth", at=tmp_path)
    assert setting.text == "false"
    shown = await Git().do("-c", "alias.environment=!env", "environment", at=tmp_path)
    assert "KRB5CCNAME=/dev/null" in shown.text.splitlines()
    assert "KRB5_CLIENT_KTNAME=/dev/null" in shown.text.splitlines()
