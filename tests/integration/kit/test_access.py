"""Root's closed directories let one user pass, and nobody else."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from celeriac.embedded.service_user import USER_NAME, find_service_user
from celeriac.kit.access import grant_reading, grant_search
from celeriac.kit.processes import UserIds
from tests.support.places import temporary_directory

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root has a service user")

STRANGER = UserIds(user=65534, group=65534)


@pytest.fixture
def place() -> Iterator[Path]:
    """An empty directory that other users can reach."""
    with temporary_directory() as directory:
        yield directory


@pytest.fixture
def service_user() -> UserIds:
    user = find_service_user()
    assert user is not None
    return user


@pytest.fixture
def hidden(place: Path) -> Path:
    """A readable file below two directories that are closed to everybody."""
    path = place / "closed" / "closer" / "file"
    path.parent.mkdir(parents=True)
    for directory in (path.parent, path.parent.parent, place):
        directory.chmod(0o700)
    path.touch()
    path.chmod(0o644)
    return path


def test_the_service_user_may_pass_but_not_list_and_others_may_neither(
    hidden: Path, service_user: UserIds
) -> None:
    assert not _can(service_user, "cat", hidden)
    grant_search(hidden, service_user)
    assert _can(service_user, "cat", hidden)
    assert not _can(service_user, "ls", hidden.parent)
    assert not _can(STRANGER, "cat", hidden), "an entry for one user must not open it to all"


def test_granting_twice_changes_nothing(hidden: Path, service_user: UserIds) -> None:
    grant_search(hidden, service_user)
    before = os.getxattr(hidden.parent, "system.posix_acl_access")
    grant_search(hidden, service_user)
    assert os.getxattr(hidden.parent, "system.posix_acl_access") == before


def test_a_second_user_is_added_to_the_first(hidden: Path, service_user: UserIds) -> None:
    grant_search(hidden, service_user)
    grant_search(hidden, STRANGER)
    assert _can(service_user, "cat", hidden)
    assert _can(STRANGER, "cat", hidden)


def test_a_package_installed_under_a_strict_umask_becomes_readable(
    place: Path, service_user: UserIds
) -> None:
    package = place / "package"
    package.mkdir(mode=0o700)
    program = package / "program"
    program.write_text("#!/bin/sh\nexit 0\n")
    program.chmod(0o700)
    grant_search(package, service_user)
    assert not _can(service_user, program)
    grant_reading(package)
    assert _can(service_user, program)
    assert program.stat().st_mode & 0o022 == 0, "nobody may change it"


def test_the_service_user_can_log_in_nowhere(service_user: UserIds) -> None:
    line = subprocess.check_output(["getent", "passwd", USER_NAME], text=True).strip()
    assert line.endswith("nologin")
    assert service_user.user != 0


def _can(user: UserIds, *command: str | Path) -> bool:
    try:
        subprocess.run(
            command,
            user=user.user,
            group=user.group,
            extra_groups=[],
            capture_output=True,
            check=True,
            cwd="/",
        )
    except (PermissionError, subprocess.CalledProcessError):
        return False
    return True
