"""The unprivileged user that servers run as when root starts them."""

import os
from pathlib import Path

from celeriac.embedded.errors import EmbeddedError, usable
from celeriac.kit.access import grant_reading, grant_search
from celeriac.kit.processes import UserIds
from celeriac.kit.users import system_user

USER_NAME = "celeriac-embedded"


def find_service_user() -> UserIds | None:
    """Return the user of the servers: None for ourselves; for root a system user, created once.

    PostgreSQL refuses to run as root, and no server should. Raises EmbeddedError where the user
    can't be created.
    """
    if os.geteuid() != 0:
        return None
    try:
        return system_user(USER_NAME)
    except OSError as error:
        raise EmbeddedError(
            f"PostgreSQL can't run as root, and the user {USER_NAME} for it could not be "
            f"made: {error}. Make the user by hand, or run Celeriac as a normal user."
        ) from error


def give_directory(path: Path, user: UserIds | None) -> None:
    """Make `path` a directory that `user` owns and can reach, and that is closed to others.

    `user` None means ourselves. Raises OSError.
    """
    path.mkdir(mode=0o700, exist_ok=True)
    path.chmod(0o700)
    if user is not None:
        os.chown(path, user.user, user.group)
        grant_search(path, user)


def let_run(directory: Path, user: UserIds | None) -> None:
    """Let `user` run the programs under `directory`. Raises HomeUnusableError."""
    if user is not None:
        with usable(directory, f"user id {user.user} can't be let in: "):
            grant_search(directory, user)
            grant_reading(directory)
