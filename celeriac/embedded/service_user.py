"""The unprivileged user that servers run as when root starts them."""

import os
import pwd
import subprocess
from pathlib import Path

from celeriac.embedded.access import grant_reading, grant_search
from celeriac.embedded.errors import EmbeddedError
from celeriac.kit.process import UserIds

USER_NAME = "celeriac-embedded"

_USERADD = (
    "useradd",
    "--system",
    "--user-group",
    "--no-create-home",
    "--home-dir",
    "/nonexistent",
    "--shell",
    "/usr/sbin/nologin",
    USER_NAME,
)
_TIMEOUT_SECONDS = 30


def find_service_user() -> UserIds | None:
    """Return who servers shall run as: None for ourselves, and for root a system user, made once.

    PostgreSQL refuses to run as root, and no server should. Raises EmbeddedError where root can't
    make the user.
    """
    if os.geteuid() != 0:
        return None
    try:
        entry = pwd.getpwnam(USER_NAME)
    except KeyError:
        _create_user()
        entry = pwd.getpwnam(USER_NAME)
    return UserIds(user=entry.pw_uid, group=entry.pw_gid)


def _create_user() -> None:
    """Two stacks may start at once: what counts is that the user is there in the end."""
    try:
        subprocess.run(_USERADD, check=True, capture_output=True, timeout=_TIMEOUT_SECONDS)
    except (OSError, subprocess.SubprocessError) as error:
        try:
            pwd.getpwnam(USER_NAME)
        except KeyError:
            reason = getattr(error, "stderr", b"").decode(errors="replace").strip() or str(error)
            raise EmbeddedError(
                f"PostgreSQL can't run as root, and the user {USER_NAME} for it could not be "
                f"made: {reason}. Make the user by hand, or run Celeriac as a normal user."
            ) from error


def give_directory(path: Path, user: UserIds | None) -> None:
    """Make `path` a directory of the service user's own, closed to others, and reachable by it.

    `user` None means ourselves. Raises OSError where that can't be done.
    """
    path.mkdir(mode=0o700, exist_ok=True)
    path.chmod(0o700)
    if user is not None:
        os.chown(path, user.user, user.group)
        grant_search(path, user)


def let_run(directory: Path, user: UserIds | None) -> None:
    """Let the service user run the programs under `directory`. Raises OSError."""
    if user is not None:
        grant_search(directory, user)
        grant_reading(directory)
