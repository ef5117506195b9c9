"""Agents in checkouts of a real repository: what they get, what is kept of their work."""

import asyncio
import os
import secrets
import time
from dataclasses import replace
from pathlib import Path
from shutil import which

import pytest

from celeriac.agents.child.confinement import Confinement
from celeriac.agents.command.runner import CommandRunner
from celeriac.agents.repository.git import can_pin
from celeriac.agents.repository.mirrors import MirrorLimits, locked
from celeriac.domain.errors import (
    ChildCrashedError,
    DatabaseUnavailableError,
    RepositoryRefusedError,
    RepositoryUnavailableError,
    SetupFailedError,
    VerifyFailedError,
)
from celeriac.domain.executions.events import EventType
from celeriac.domain.executions.model import Completed
from celeriac.kit.json_types import JsonObject
from celeriac.kit.outbound import OutboundGuard
from celeriac.services.ports import Job
from tests.integration.agents.conftest import ENVIRONMENT
from tests.support.repositories import Desk, Origin, git, job_of, lines
from tests.support.run_context import RecordingContext, events_of, python_job
from tests.support.runners import PythonRunner
from tests.support.sandboxes import confined_user, sandbox_for

pytestmark = [pytest.mark.anyio, pytest.mark.requirement("F26")]


async def test_the_change_of_an_agent_is_a_branch_a_patch_and_a_bundle(
    desk: Desk, origin: Origin, shell: CommandRunner, tmp_path: Path
) -> None:
    script = """
    test "$(cat value)" = 1
    git config user.name >name
    git commit --quiet --allow-empty -m 'a commit of the agent'
    echo 2 >value
    printf '\\000\\001' >data
    git rm --quiet --cached ../README; rm ../README
    echo ignored >../.gitignore; echo x >ignored
    """
    job = job_of(desk, script, path="lib")
    done, context = await desk.run(shell, job)
    assert isinstance(done, Completed)
    (begun,) = events_of(context, EventType.CHECKOUT)
    assert (begun["sha"], begun["new"], begun["path"]) == (origin.first, True, "lib")
    (change,) = events_of(context, EventType.CHANGE)
    branch = f"celeriac/{job.execution_id}"
    assert (change["branch"], change["base"], change["files"]) == (branch, origin.first, 5)
    patched = desk.applied(desk.base(job) / "changes.patch", tmp_path / "patched", origin.first)
    assert (patched / "lib/value").read_text() == "2\n"
    assert (patched / "lib/data").read_bytes() == b"\0\1"
    assert (patched / "lib/name").read_text() == "tester\n"
    assert not (patched / "README").exists()
    assert not (patched / "lib/ignored").exists()
    # the bundle brings the branch, with the commits of the agent
    git(origin.path, "fetch", "--quiet", str(desk.base(job) / "changes.bundle"), branch)
    log = git(origin.path, "log", "--format=%s %an %ae", f"{origin.first}..FETCH_HEAD")
    author = f"tester {job.execution_id}@celeriac.invalid"
    assert log.splitlines() == [
        f"Work of the agent tester {author}",
        f"a commit of the agent {author}",
    ]
    assert git(origin.path, "rev-parse", "FETCH_HEAD") == change["head"]
    # the copy of the repository is not needed any more
    assert not (desk.base(job) / "repository/.git").exists()
    assert (desk.base(job) / "repository/lib/ignored").exists()


async def test_refs_lead_to_their_commits_and_a_branch_that_moves_is_fetched(
    desk: Desk, origin: Origin, shell: CommandRunner
) -> None:
    second = origin.commit({"README": "two\n"})
    expected = [
        (None, second),
        ("main", second),
        ("v1", origin.first),
        (origin.first, origin.first),
    ]
    for ref, sha in expected:
        job = job_of(desk, ":", **({} if ref is None else {"ref": ref}))
        _, context = await desk.run(shell, job)
        assert events_of(context, EventType.CHECKOUT)[0]["sha"] == sha
        assert events_of(context, EventType.CHANGE)[0]["patch"] is None
    third = origin.commit({"README": "three\n"})
    _, context = await desk.run(shell, job_of(desk, ":", ref="main"))
    assert events_of(context, EventType.CHECKOUT)[0]["sha"] == third
    for wrong in ({"ref": "0" * 40}, {"ref": "gone"}, {"path": "nowhere"}):
        with pytest.raises(RepositoryRefusedError):
            await desk.run(shell, job_of(desk, ":", **wrong))


def test_a_git_that_can_not_be_bound_to_an_address_is_known() -> None:
    assert can_pin("git version 2.39.5 (Apple Git-154)")
    assert not can_pin("git version 2.36.6")
    assert not can_pin("git version 1.99")


async def test_what_can_not_be_fetched_is_reported(desk: Desk, shell: CommandRunner) -> None:
    gone = f"{desk.origin.url}/gone"
    with pytest.raises(RepositoryUnavailableError, match="can't be fetched"):
        await desk.run(shell, job_of(desk, ":", git=gone))
    with pytest.raises(RepositoryRefusedError, match="CELERIAC_REPOSITORIES_ALLOW"):
        await desk.run(shell, job_of(desk, ":", git="https://example.com/x.git"))
    allowed = replace(desk.shared.rule, allow=("https://",))
    for host in ("127.0.0.1", "169.254.169.254", "localhost", "0x7f.1"):
        job = job_of(desk, ":", git=f"https://{host}/x.git")
        with pytest.raises(RepositoryRefusedError, match="not on the public internet"):
            await desk.runner(shell, rule=allowed).run(job, desk.context(job))


@pytest.mark.parametrize(
    ("scheme", "greeting"),
    [
        ("https", b"\x16"),
        pytest.param(
            "ssh",
            b"S",
            marks=pytest.mark.skipif(not which("ssh"), reason="apt install openssh-client"),
        ),
    ],
)
async def test_git_goes_to_the_address_that_was_checked(
    desk: Desk, shell: CommandRunner, scheme: str, greeting: bytes
) -> None:
    greetings: list[bytes] = []

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        greetings.append(await reader.read(1))
        writer.close()

    guard = OutboundGuard(hosts=frozenset({"127.0.0.1"}))
    mirrors = replace(desk.shared.mirrors, guard=guard)
    rule = replace(desk.shared.rule, allow=(f"{scheme}://",))
    async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        job = job_of(desk, ":", git=f"{scheme}://127.0.0.1:{port}/x.git")
        with pytest.raises(RepositoryUnavailableError, match=r"can't be fetched: .*127\.0\.0\.1"):
            await desk.runner(shell, rule=rule, mirrors=mirrors).run(job, desk.context(job))
    assert greetings == [greeting]


async def test_ssh_gets_the_address_that_was_checked_and_no_settings_of_its_user(
    desk: Desk, shell: CommandRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # git starts what is called `ssh`: this needs none on the machine
    programs, given = tmp_path / "programs", tmp_path / "given"
    programs.mkdir()
    (programs / "ssh").write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" >{given}; exit 255\n')
    (programs / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    guard = OutboundGuard(hosts=frozenset({"localhost"}))
    mirrors = replace(desk.shared.mirrors, guard=guard)
    rule = replace(desk.shared.rule, allow=("ssh://",))
    job = job_of(desk, ":", git="ssh://git@localhost:2222/x.git")
    with pytest.raises(RepositoryUnavailableError, match="can't be fetched"):
        await desk.runner(shell, rule=rule, mirrors=mirrors).run(job, desk.context(job))
    arguments = given.read_text().splitlines()
    assert {"HostName=127.0.0.1", "HostName=::1"} & {*arguments}
    assert {"HostKeyAlias=localhost", "StrictHostKeyChecking=yes", "git@localhost"} <= {*arguments}
    assert arguments[:2] == ["-F", "/dev/null"]
    assert arguments[arguments.index("-p") + 1] == "2222"


async def test_a_name_that_no_resolver_takes_is_reported(desk: Desk, shell: CommandRunner) -> None:
    rule = replace(desk.shared.rule, allow=("https://",))
    job = job_of(desk, ":", git=f"https://{'a' * 64}.example.com/x.git")
    with pytest.raises(RepositoryUnavailableError, match="can't be resolved"):
        await desk.runner(shell, rule=rule).run(job, desk.context(job))


async def test_a_failing_check_sends_the_agent_back_with_its_output(
    desk: Desk, origin: Origin, shell: CommandRunner
) -> None:
    script = """
    case "${CELERIAC_FEEDBACK-}" in
        *"expected 2"*) echo 2 >lib/value;;
        *) echo 3 >lib/value;;
    esac
    """
    commands = {
        "setup": ["echo prepared >prepared", "test -f prepared"],
        "verify": ["true", 'test "$(cat lib/value)" = 2 || { echo "expected 2"; exit 7; }'],
    }
    job = job_of(desk, script, **commands)
    done, context = await desk.run(shell, job)
    assert isinstance(done, Completed)
    assert lines(context, "setup") == ["$ echo prepared >prepared", "$ test -f prepared"]
    assert lines(context, "verify").count("expected 2") == 1
    check = commands["verify"][1]
    failure = {"command": check, "exit_code": 7, "rounds": 1, "output": "expected 2"}
    sent_back = {**failure, "sent_back": True, "round": 1}
    assert events_of(context, EventType.VERIFY_FAILED) == [sent_back]
    assert (desk.base(job) / "repository/lib/value").read_text() == "2\n"
    # an agent that does not learn
    job = job_of(desk, "echo 4 >lib/value", **commands, verify_rounds=2)
    context = desk.context(job)
    with pytest.raises(VerifyFailedError, match=r"sent back 2 times .* exited with 7") as caught:
        await desk.run(shell, job, context)
    assert caught.value.details["rounds"] == 2
    assert lines(context, "verify").count("expected 2") == 3
    failures = events_of(context, EventType.VERIFY_FAILED)
    rounds = [(each["sent_back"], each["round"], each["rounds"]) for each in failures]
    assert rounds == [(True, 1, 2), (True, 2, 2), (False, 2, 2)]
    assert events_of(context, EventType.CHANGE)[0]["patch"] == "changes.patch"
    job = job_of(desk, ":", setup=["echo no network; false"])
    with pytest.raises(SetupFailedError, match=r"exited with 1:\nno network"):
        await desk.run(shell, job)


async def test_a_durable_function_that_is_sent_back_repeats_no_step(
    desk: Desk, bounds: Confinement
) -> None:
    modules = ["tests.support.durable_functions"]
    check = "grep -qx 2 lib/value || { echo expected 2; exit 1; }"
    job = replace(python_job(f"{modules[0]}:corrector"), repository=desk.repository(verify=[check]))
    done, _ = await desk.run(PythonRunner(modules=modules, confinement=bounds), job)
    assert isinstance(done, Completed)
    assert (desk.base(job) / "repository/log").read_text() == "1\n2\n"


async def test_an_attempt_that_starts_over_gets_a_new_checkout_at_the_same_commit(
    desk: Desk, origin: Origin, shell: CommandRunner, tmp_path: Path
) -> None:
    script = "test -e mark && echo seen >seen; echo half >mark"
    first = job_of(desk, f"{script}; exit 9")
    with pytest.raises(ChildCrashedError):
        await desk.run(shell, first)
    base = desk.base(first)
    assert (base / "changes.patch").exists()
    # as if the worker had died before it stored the change
    state = base / "checkout.json"
    state.write_text(state.read_text().replace('"saved": true', '"saved": false'))
    (base / "changes.patch").unlink()
    origin.commit({"README": "moved on\n"})
    second = replace(job_of(desk, script), execution_id=first.execution_id, attempt=2)
    _, context = await desk.run(shell, second)
    assert events_of(context, EventType.CHECKOUT)[0]["sha"] == origin.first
    assert [each["attempt"] for each in events_of(context, EventType.CHANGE)] == [1, 2]
    assert not (base / "repository/seen").exists()
    kept = desk.applied(base / "attempt-1.patch", tmp_path / "kept", origin.first)
    assert (kept / "mark").read_text() == "half\n"


def durable(job: Job) -> Job:
    return replace(job, agent=job.agent.model_copy(update={"durable": True}))


async def test_setup_that_has_failed_is_run_again_before_a_durable_program(
    desk: Desk, shell: CommandRunner
) -> None:
    ready = desk.home / "ready"
    setup = [f"test -e {ready} || {{ touch {ready}; false; }}", "echo prepared >prepared"]
    first = durable(job_of(desk, "test -e prepared", setup=setup))
    with pytest.raises(SetupFailedError):
        await desk.run(shell, first)
    done, context = await desk.run(shell, replace(first, attempt=2))
    assert isinstance(done, Completed)
    assert events_of(context, EventType.CHECKOUT)[0]["new"]
    # and not once more, where it has succeeded
    _, context = await desk.run(shell, replace(first, attempt=3))
    assert not events_of(context, EventType.CHECKOUT)[0]["new"]
    assert lines(context, "setup") == []


async def test_an_attempt_whose_outcome_was_lost_leaves_its_patch(
    desk: Desk, origin: Origin, shell: CommandRunner
) -> None:
    """It has ended well, and its worker is gone before that is stored."""
    script = "test -e mark || echo once >>mark"
    for changed, kept in ((durable, "changes.patch"), (lambda job: job, "attempt-1.patch")):
        first = changed(job_of(desk, script))
        _, context = await desk.run(shell, first)
        sha = events_of(context, EventType.CHECKOUT)[0]["sha"]
        origin.commit({"README": f"{kept}\n"})
        _, context = await desk.run(shell, replace(first, attempt=2))
        assert events_of(context, EventType.CHECKOUT)[0]["sha"] == sha
        assert b"+once" in (desk.base(first) / kept).read_bytes()


async def test_a_cancelled_attempt_leaves_its_change(desk: Desk, shell: CommandRunner) -> None:
    begun = asyncio.Event()

    class Watched(RecordingContext):
        async def progress(self, done: float, total: float | None = None, note: str = "") -> None:
            begun.set()

    script = """echo half >half; mkfifo never; echo '{"type": "progress", "done": 1}'; : <never"""
    job = job_of(desk, script)
    context = Watched(desk.context(job).workdir)
    running = asyncio.create_task(desk.run(shell, job, context))
    async with asyncio.timeout(30):
        await begun.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert events_of(context, EventType.CHANGE)[0]["files"] == 1
    assert b"+half" in (desk.base(job) / "changes.patch").read_bytes()


async def test_a_check_whose_output_can_not_be_stored_ends(
    desk: Desk, shell: CommandRunner
) -> None:
    class Broken(RecordingContext):
        async def emit(self, kind: EventType, data: JsonObject) -> None:
            if data.get("source") == "verify" and data["message"] == "endless":
                raise DatabaseUnavailableError("The database does not answer.")
            await super().emit(kind, data)

    job = job_of(desk, ":", verify=["exec yes endless"])
    async with asyncio.timeout(30):
        with pytest.raises(DatabaseUnavailableError):
            await desk.run(shell, job, Broken(desk.context(job).workdir))


async def test_a_change_that_can_not_be_stored_does_not_hide_why_the_agent_failed(
    desk: Desk, shell: CommandRunner
) -> None:
    job = job_of(desk, "echo half >half; exit 9")
    in_its_place = desk.base(job) / "changes.patch/kept"
    in_its_place.mkdir(parents=True)
    with pytest.raises(ChildCrashedError):
        await desk.run(shell, job)
    assert in_its_place.is_dir()
    assert not list(desk.base(job).glob(".changes*"))


async def test_what_is_fetched_is_bounded_and_what_is_not_used_is_removed(
    desk: Desk, origin: Origin, shell: CommandRunner
) -> None:
    origin.commit({"large": secrets.token_hex(1_000_000)})
    small = replace(desk.shared.mirrors, limits=MirrorLimits(fetch_bytes=200_000))
    job = job_of(desk, ":")
    with pytest.raises(RepositoryUnavailableError, match="CELERIAC_REPOSITORIES_FETCH_MB"):
        await desk.runner(shell, mirrors=small).run(job, desk.context(job))
    await desk.run(shell, job_of(desk, ":"))
    mirrors = desk.shared.mirrors
    (used,) = (each for each in mirrors.root.iterdir() if each.is_dir())
    assert not list(used.glob("mirror.git/objects/pack/tmp_*"))
    for name, days in (("old", 40), ("older", 50), ("held", 60), ("new", 0)):
        (mirrors.root / name).mkdir()
        (mirrors.root / name / "lock").touch()
        then = time.time() - days * 86_400
        os.utime(mirrors.root / name, (then, then))
    held = locked(mirrors.root / "held" / "lock")
    assert held is not None
    assert mirrors.prune(used) == 0, "it was pruned less than an hour ago"
    (mirrors.root / "pruned").unlink()
    assert mirrors.prune(used) == 2
    (mirrors.root / "pruned").unlink()
    full = replace(mirrors, limits=MirrorLimits(cache_bytes=0))
    assert full.prune(used) == 1
    os.close(held)
    assert locked(mirrors.root / "old" / "lock") is None, "its directory was removed"
    assert {each.name for each in mirrors.root.iterdir() if each.is_dir()} == {used.name, "held"}
    # what can't be removed is no fault of an execution
    (mirrors.root / "pruned").unlink()
    (mirrors.root / "pruned").symlink_to(mirrors.root / "missing/file")
    done, _ = await desk.run(shell, job_of(desk, ":"))
    assert isinstance(done, Completed)


async def test_executions_use_a_fetched_repository_at_the_same_time(
    desk: Desk, origin: Origin
) -> None:
    mirrors, repository = desk.shared.mirrors, desk.repository()
    both = asyncio.Barrier(2)

    async def use() -> str:
        async with mirrors.holding(repository, None, None) as found:
            await both.wait()
            return found.sha

    async with asyncio.timeout(30):
        assert {*await asyncio.gather(use(), use())} == {origin.first}
        async with mirrors.holding(repository, None, None) as first:
            async with mirrors.holding(repository, None, first.sha) as second:
                assert second == first
            # what is to be fetched waits, since it would change what the others have
            impatient = replace(mirrors, limits=MirrorLimits(fetch_seconds=0.2))
            with pytest.raises(RepositoryUnavailableError, match="Other executions have used"):
                async with impatient.holding(repository, None, None):
                    pass
        async with mirrors.holding(repository, None, None) as third:
            assert third == first


async def test_confined_agents_work_in_checkouts_and_reach_no_mirror(
    tmp_path: Path, origin: Origin
) -> None:
    home = tmp_path / "home"
    bounds = Confinement(ENVIRONMENT, user=confined_user(), sandbox=sandbox_for(home))
    desk = Desk(home, origin, bounds)
    shell = CommandRunner(commands={"shell": ["sh", "-c"]}, confinement=bounds)
    script = f"""
    test -e {home}/repositories && exit 3
    case "$PWD" in {home}/work/*/repository/lib) ;; *) exit 5;; esac
    git status --short >/dev/null || exit 6
    echo 2 >value; echo top >../top; echo home >"$HOME/home"
    """
    job = job_of(desk, script, path="lib", verify=["test -d ../.git", "echo $HOME"])
    _, context = await desk.run(shell, job)
    assert events_of(context, EventType.CHANGE)[0]["files"] == 2
    assert lines(context, "verify")[-1] == str(desk.base(job) / "home")
