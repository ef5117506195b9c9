"""The directories of sessions: where an agent works, and where Claude Code keeps its own things.

    <root>/<session id>/work      the working directory; its files are the session's
    <root>/<session id>/config    Claude Code's HOME and configuration: transcripts above all

They are kept, so that a later execution can go on with the session. Claude Code finds a
conversation by the path of its working directory: workers that share sessions need the root at the
same path, or at least with the same files; what lies under another path's name is taken over.
"""

import os
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from claude_agent_sdk import project_key_for_directory

from celeriac.domain.errors import SessionUnavailableError

RUN_PREFIX = "run-"
"""Begins the names of the attempts' own directories."""

_PRIVATE = 0o700


_COPIED = frozenset({stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK})


@dataclass(frozen=True, slots=True)
class SessionDirectories:
    """The two directories of one session."""

    work: Path
    config: Path

    @classmethod
    def of(cls, root: Path, session_id: UUID) -> "SessionDirectories":
        """Name the directories; nothing is made."""
        place = root.absolute() / str(session_id)
        return cls(place / "work", place / "config")

    @property
    def place(self) -> Path:
        """The directory of both; each attempt has one of its own here for as long as it lasts."""
        return self.work.parent

    def make(self) -> None:
        """Make what isn't there, and remove what attempts have left that were killed."""
        for directory in (self.place, self.work, self.config):
            directory.mkdir(parents=True, exist_ok=True, mode=_PRIVATE)
        for left in self.place.glob(f"{RUN_PREFIX}*"):
            shutil.rmtree(left, ignore_errors=True)

    def copy_from(self, other: "SessionDirectories") -> None:
        """Fill these with another session's files, which stay as they are.

        Links are copied as links: they lead nowhere that they did not lead before. Pipes, sockets
        and devices are left out. Raises SessionUnavailableError where the other's are gone.
        """
        if not other.config.is_dir():
            raise _gone(other)
        for source, target in ((other.work, self.work), (other.config, self.config)):
            shutil.copytree(source, target, symlinks=True, dirs_exist_ok=True, ignore=_special)

    def take_over(self, conversation: str) -> None:
        """See that Claude Code finds a conversation from the working directory.

        Raises SessionUnavailableError where there is no such conversation.
        """
        projects = self.config / "projects"
        here = projects / project_key_for_directory(self.work)
        if (here / f"{conversation}.jsonl").is_file():
            return
        for found in projects.glob(f"*/{conversation}.jsonl"):
            shutil.copytree(found.parent, here, symlinks=True, dirs_exist_ok=True)
            return
        raise _gone(self)


def _special(directory: str, names: list[str]) -> list[str]:
    """Return the names of what is neither a file nor a directory nor a link."""
    return [
        name
        for name in names
        if stat.S_IFMT(os.lstat(os.path.join(directory, name)).st_mode) not in _COPIED  # noqa: PTH118
    ]


def _gone(directories: SessionDirectories) -> SessionUnavailableError:
    return SessionUnavailableError(
        f"The files of the session are not on this worker ({directories.config}). They were "
        "removed, or the workers don't share CELERIAC_HOME; run the task without the session."
    )
