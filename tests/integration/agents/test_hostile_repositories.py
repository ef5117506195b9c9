"""Checkouts that agents have made hostile: nothing in them is run, and no link leads out."""

import hashlib
import os
import struct
import zlib
from dataclasses import replace
from pathlib import Path

import pytest

from celeriac.agents.child.confinement import Confinement
from celeriac.agents.command.runner import CommandRunner
from celeriac.agents.repository.git import Git
from celeriac.domain.errors import RepositoryRefusedError
from celeriac.domain.executions.events import EventType
from celeriac.domain.executions.model import Completed
from celeriac.kit.users import UnreachableError
from tests.integration.agents.conftest import ENVIRONMENT
from tests.support.repositories import Desk, Origin, git, job_of, lines
from tests.support.run_context import events_of
from tests.support.sandboxes import confined_user, sandbox_for

pytestmark = [pytest.mark.anyio, pytest.mark.requirement("F26")]


HOSTILE = """
git init --quiet nested
git -C nested -c user.name=x -c user.email=x@x commit --quiet --allow-empty -m x
git init --quiet module
git -C module -c user.name=x -c user.email=x@x commit --quiet --allow-empty -m x
git add module 2>/dev/null; git commit --quiet -m 'a link to a repository'
echo dirty >module/file
{{ echo '#!/bin/sh'; echo 'touch {mark} "'"$PWD"'/ran"'; echo cat; }} >evil
chmod +x evil; evil=$PWD/evil
mkdir -p .git/hooks
for hook in pre-commit post-commit reference-transaction post-index-change commit-msg \
    pre-auto-gc post-checkout; do cp evil .git/hooks/$hook; done
for setting in core.fsmonitor diff.external core.sshCommand core.editor core.pager gpg.program \
    filter.own.clean filter.own.smudge filter.own.process diff.own.command diff.own.textconv \
    merge.own.driver core.alternateRefsCommand credential.helper uploadpack.packObjectsHook \
    alias.diff-tree alias.commit-tree trailer.x.command core.gitProxy; do
    git config --file .git/config "$setting" "$evil"
done
git config --file .git/config core.hooksPath "$PWD/.git/hooks"
git config --file .git/config commit.gpgSign true
git config --file .git/config core.worktree /
printf '[includeIf "gitdir:**"]\\n\\tpath = %s\\n' "$PWD/more" >>.git/config
printf '[core]\\n\\tfsmonitor = %s\\n' "$evil" >more
printf '* filter=own diff=own merge=own\\n' >.gitattributes
mkdir -p .git/info; printf '* filter=own diff=own\\n' >.git/info/attributes
git config --file nested/.git/config core.fsmonitor "$evil"
git config --file module/.git/config core.fsmonitor "$evil"
ln -s /etc/passwd link
mkdir moved; ln -s /etc there
rm -rf lib; ln -s /etc lib
echo changed >README
rm -f {mark} ran
"""


async def test_nothing_that_a_hostile_repository_names_is_run(
    desk: Desk, origin: Origin, shell: CommandRunner, tmp_path: Path
) -> None:
    mark = tmp_path / "executed"
    job = job_of(desk, HOSTILE.format(mark=mark))
    _, context = await desk.run(shell, job)
    (change,) = events_of(context, EventType.CHANGE)
    assert change["patch"] == "changes.patch"
    assert not mark.exists()
    assert not (desk.base(job) / "repository/ran").exists()
    text = (desk.base(job) / "changes.patch").read_text()
    assert "+changed" in text
    assert "root:" not in text
    patched = desk.applied(desk.base(job) / "changes.patch", tmp_path / "patched", origin.first)
    assert git(patched, "ls-files", "--stage", "link", "lib").count("120000 ") == 2


@pytest.mark.parametrize(
    "script",
    [
        "rm -rf .git",
        "rm -rf .git/objects; ln -s {other}/.git/objects .git/objects",
        "echo {other}/.git/objects >.git/objects/info/alternates; echo {sha} >.git/HEAD",
    ],
)
async def test_a_repository_that_borrows_objects_gives_no_patch(
    desk: Desk, shell: CommandRunner, tmp_path: Path, script: str
) -> None:
    other = Origin(tmp_path / "other")
    sha = other.commit({"secret": "of somebody else\n"})
    job = job_of(desk, script.format(other=other.path, sha=sha))
    done, context = await desk.run(shell, job)
    assert isinstance(done, Completed)
    assert events_of(context, EventType.CHANGE) == []
    (warning,) = lines(context, "repository")
    assert "can't be stored" in warning
    assert not (desk.base(job) / "changes.patch").exists()


@pytest.mark.parametrize(
    "script",
    [
        "rm -rf .git/refs/heads/celeriac; echo none >.git/refs/heads/celeriac",
        "own=$(git symbolic-ref HEAD); rm .git/$own; mkfifo .git/$own",
        "own=$(git symbolic-ref HEAD); rm .git/$own; mkdir -p .git/$own/inner",
    ],
)
async def test_a_change_is_stored_although_its_branch_can_not_be(
    desk: Desk, shell: CommandRunner, script: str
) -> None:
    desk.shared = replace(desk.shared, collector=replace(desk.shared.collector, seconds=20))
    job = job_of(desk, f"{script}; echo changed >README")
    _, context = await desk.run(shell, job)
    assert lines(context, "repository") == []
    (change,) = events_of(context, EventType.CHANGE)
    assert (change["base"], change["files"]) == (desk.origin.first, 1)
    assert "+changed" in (desk.base(job) / "changes.patch").read_text()


async def test_links_in_the_git_directory_lead_nowhere(
    desk: Desk, shell: CommandRunner, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("f" * 40)
    job = job_of(desk, f"rm .git/HEAD; ln -s {secret} .git/HEAD; echo changed >README")
    _, context = await desk.run(shell, job)
    (change,) = events_of(context, EventType.CHANGE)
    assert (change["base"], change["files"]) == (desk.origin.first, 1)


@pytest.mark.parametrize("boxed", [False, True])
async def test_a_link_in_place_of_its_directory_leads_no_command_out(
    tmp_path: Path, origin: Origin, boxed: bool
) -> None:
    origin.commit({"lib/inner/value": "1\n"})
    inner = tmp_path / "outside/inner"
    inner.mkdir(parents=True)
    (inner / "file").write_text("kept")
    home = tmp_path / "home"
    sandbox = sandbox_for(home) if boxed else None
    bounds = Confinement(ENVIRONMENT, user=confined_user(), sandbox=sandbox)
    desk = Desk(home, origin, bounds)
    shell = CommandRunner(commands={"shell": ["sh", "-c"]}, confinement=bounds)
    script = f"cd ../..; mv lib aside; ln -s {inner.parent} lib"
    job = job_of(desk, script, path="lib/inner", verify=["cat file; echo changed >file"])
    context = desk.context(job)
    with pytest.raises(RepositoryRefusedError, match="no directory lib/inner"):
        await desk.run(shell, job, context)
    assert "kept" not in lines(context, "verify")
    assert inner.stat().st_uid == os.getuid()
    assert (inner / "file").read_text() == "kept"


def test_nothing_in_a_directory_of_the_agents_user_is_given_to_it(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root gives directories away")
    (tmp_path / "outside/inner").mkdir(parents=True)
    user, top = confined_user(), tmp_path / "top"
    user.own(top)
    (top / "link").symlink_to(tmp_path / "outside")
    with pytest.raises(UnreachableError, match="lies in a directory of this user"):
        user.own(top / "link/inner")
    assert (tmp_path / "outside/inner").stat().st_uid == 0


def small_pack(copies: int) -> bytes:
    """Return a pack of two objects; the second is a delta for `copies` times 16 MB."""

    def number(value: int, first: int = 0) -> bytes:
        taken = 4 if first else 7
        rest = value >> taken
        head = first | value & (1 << taken) - 1 | (0x80 if rest else 0)
        return bytes([head]) + (number(rest) if rest else b"")

    base = b"a" * 0xFFFFFF
    name = hashlib.sha1(b"blob %d\0" % len(base) + base, usedforsecurity=False).digest()
    delta = number(len(base)) + number(len(base) * copies) + b"\xf0\xff\xff\xff" * copies
    blob, ref_delta = 0x30, 0x70
    pack = b"PACK" + struct.pack(">II", 2, 2)
    pack += number(len(base), blob) + zlib.compress(base)
    pack += number(len(delta), ref_delta) + name + zlib.compress(delta)
    return pack + hashlib.sha1(pack, usedforsecurity=False).digest()


async def test_a_small_pack_that_stands_for_large_objects_takes_bounded_memory(
    tmp_path: Path,
) -> None:
    """Agents write bundles and servers send packs; the worker's own git reads both."""
    path = tmp_path / "small.pack"
    path.write_bytes(small_pack(40))
    assert path.stat().st_size < 20_000
    assert (await Git().run("index-pack", "--strict", path.name, at=tmp_path)).code == 0
    bounded = Git(memory=256 * 1024**2)
    done = await bounded.run("index-pack", "--strict", path.name, at=tmp_path)
    assert done.code != 0
    assert "Out of memory" in done.reason


async def test_a_small_repository_whose_checkout_is_large_is_refused(
    desk: Desk, origin: Origin, shell: CommandRunner
) -> None:
    content = os.urandom(900_000)
    for number in range(10):
        (origin.path / f"same{number}").write_bytes(content)
    git(origin.path, "add", ".")
    git(origin.path, "commit", "--quiet", "-m", "same")
    mirrors = desk.shared.mirrors
    limits = replace(mirrors.limits, fetch_bytes=1_000_000)
    desk.shared = replace(desk.shared, mirrors=replace(mirrors, limits=limits))
    job = job_of(desk, "date >ran")
    with pytest.raises(RepositoryRefusedError, match="CELERIAC_REPOSITORIES_FETCH_MB"):
        await desk.run(shell, job)
    assert not (desk.base(job) / "repository").exists()
