"""Giving directories to the user that agents run as."""

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from celeriac.domain.errors import ConfigurationError
from celeriac.kit.processes import UserIds
from celeriac.kit.users import (
    OURSELVES,
    ChildUser,
    UnreachableError,
    named_user,
    obstacle,
    system_user,
)
from celeriac.settings import Settings
from celeriac.wiring.core import AGENT_USER, child_user
from tests.support.confined import agent_user
from tests.support.places import temporary_directory
from tests.support.programs import REPOSITORY

AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


@pytest.fixture
def user() -> ChildUser:
    return agent_user()


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that others can reach."""
    with temporary_directory() as directory:
        yield directory


def can(user: ChildUser, *command: str | Path) -> bool:
    assert user.ids is not None
    try:
        done = subprocess.run(
            list(map(str, command)),
            user=user.ids.user,
            group=user.ids.group,
            extra_groups=[],
            cwd="/",
            capture_output=True,
            check=False,
        )
    except PermissionError:
        return False
    return done.returncode == 0


@AS_ROOT
def test_a_system_user_is_made_where_the_path_names_no_programs_of_root(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = f"celeriac-test-{os.getpid()}"
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    try:
        made = system_user(name)
        assert named_user(name) == made
    finally:
        subprocess.run(["/usr/sbin/userdel", name], check=True)


def test_a_directory_is_given_with_all_that_is_in_it(user: ChildUser, place: Path) -> None:
    victim = place / "victim"
    victim.mkdir(mode=0o700)
    (victim / "file").touch()
    given = place / "home" / "given"
    (given / "inner").mkdir(parents=True)
    (given / "inner" / "file").touch()
    (given / "link").symlink_to(victim)
    (place / "home").chmod(0o700)

    user.own(given)

    assert can(user, "touch", given / "new", given / "inner" / "new")
    assert not can(user, "ls", place / "home"), "it may pass, and no more"
    assert {victim.stat().st_uid, (victim / "file").stat().st_uid} == {0}, "links are not followed"
    assert stat.S_IMODE(given.stat().st_mode) == 0o700


def test_what_links_lead_to_is_let_through_as_well(user: ChildUser, place: Path) -> None:
    program = place / "far" / "bin" / "program"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\nexit 0\n")
    program.chmod(0o755)
    middle = place / "middle" / "program"
    middle.parent.mkdir()
    middle.symlink_to(program)
    link = place / "near" / "program"
    link.parent.mkdir()
    link.symlink_to("../middle/program")
    for closed in (place / "far", place / "middle", place / "near"):
        closed.chmod(0o700)
    assert not can(user, link)

    user.let_read([link, place / "absent"])

    assert can(user, link)
    assert not can(user, "ls", place / "far")


@pytest.mark.parametrize("mode", [0o700, 0o750, 0o711])
def test_what_is_closed_stays_closed_and_is_named(user: ChildUser, place: Path, mode: int) -> None:
    modules = place / "modules"
    modules.mkdir()
    (modules / "shop.py").touch()
    modules.chmod(mode)
    with pytest.raises(UnreachableError, match=f"{AGENT_USER}.*can't read {modules}"):
        user.let_read([modules])
    assert stat.S_IMODE(modules.stat().st_mode) == mode
    user.let_through([modules / "shop.py"])
    assert can(user, "cat", modules / "shop.py"), "a file in it may be named"


def test_our_own_user_needs_nothing(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    OURSELVES.own(closed)
    assert stat.S_IMODE(closed.stat().st_mode) == 0o700
    OURSELVES.let_read([closed, tmp_path / "absent"])
    assert OURSELVES.variables(tmp_path) == {}


@AS_ROOT
def test_root_runs_agents_as_a_user_of_their_own() -> None:
    found = child_user(Settings.load())
    assert found.name == AGENT_USER
    assert found.ids is not None
    assert found.ids.user != 0
    assert obstacle(found.ids) == ""


@AS_ROOT
@pytest.mark.parametrize(
    ("wanted", "ids"),
    [
        ("nobody", 65534),
        ("1234", UserIds(1234, 1234)),
        ("1234:99", UserIds(1234, 99)),
        ("root", None),
    ],
)
def test_an_administrator_names_another(
    monkeypatch: pytest.MonkeyPatch, wanted: str, ids: UserIds | int | None
) -> None:
    monkeypatch.setenv("CELERIAC_AGENT_USER", wanted)
    found = child_user(Settings.load()).ids
    assert (found.user if isinstance(ids, int) and found else found) == ids


@pytest.mark.parametrize("wanted", ["no-such-user-here", "root"])
def test_a_user_that_cannot_be_taken_on_is_told(
    monkeypatch: pytest.MonkeyPatch, wanted: str
) -> None:
    if wanted == "root" and os.geteuid() == 0:
        pytest.skip("root may stay root")
    monkeypatch.setenv("CELERIAC_AGENT_USER", wanted)
    with pytest.raises(ConfigurationError, match="CELERIAC_AGENT_USER"):
        child_user(Settings.load())


def test_users_are_found_by_name_and_number() -> None:
    assert named_user(str(os.geteuid())).user == os.geteuid()
    with pytest.raises(ValueError, match="no user 'x:1'"):
        named_user("x:1")


_WITHOUT = """
import ctypes, os, sys
assert ctypes.CDLL(None).prctl(24, 7, 0, 0, 0) == 0  # PR_CAPBSET_DROP, CAP_SETUID
os.execv(sys.executable, [sys.executable, "-c", sys.argv[1]])
"""
_OBSTACLE = """
from celeriac.kit.users import obstacle
from celeriac.kit.processes import UserIds
print(obstacle(UserIds(1, 1)))
"""


@AS_ROOT
def test_root_that_may_not_change_users_is_told() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _WITHOUT, _OBSTACLE],
        env={"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        check=True,
        text=True,
    )
    assert done.stdout == "root has no CAP_SETUID here\n"
