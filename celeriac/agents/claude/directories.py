"""The directories of sessions: where an agent works, and where Claude Code keeps its own things.

    <root>/<session id>/work      the working directory; its files are the session's
    <root>/<session id>/config    Claude Code's HOME and configuration: transcripts above all

They are kept, so that a later execution can go on with the session. Claude Code finds a
conversation by the path of its working directory: workers that share sessions need the root at the
same path, or at least with the same files; what lies under another path's name is taken over.
"""

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from claude_agent_sdk import project_key_for_directory

from celeriac.agents.claude import copying
from celeriac.domain.errors import SessionUnavailableError
from celeriac.kit.process import guarded_command
from celeriac.kit.users import ChildUser

RUN_PREFIX = "run-"
"""Begins the names of the attempts' own directories."""

_PRIVATE = 0o700
_LAST_WORDS = 300


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

    def make(self, user: ChildUser) -> None:
        """Make what isn't there, and remove what attempts have left that were killed.

        Both belong to `user`, what is above them doesn't. Raises UnreachableError.
        """
        self.place.mkdir(parents=True, exist_ok=True, mode=_PRIVATE)
        for directory in (self.work, self.config):
            user.own(directory)
        for left in self.place.glob(f"{RUN_PREFIX}*"):
            shutil.rmtree(left, ignore_errors=True)

    def copy_from(self, other: "SessionDirectories", user: ChildUser) -> None:
        """Fill these with another session's files, which stay as they are.

        Links are copied as links: they lead nowhere that they did not lead before. Pipes, sockets
        and devices are left out. Raises SessionUnavailableError where the other's are gone.
        """
        if not other.config.is_dir():
            raise _gone(other)
        _copy(user, (other.work, self.work), (other.config, self.config))

    def take_over(self, conversation: str, user: ChildUser) -> None:
        """See that Claude Code finds a conversation from the working directory.

        Raises SessionUnavailableError where there is no such conversation.
        """
        projects = self.config / "projects"
        here = projects / project_key_for_directory(self.work)
        if (here / f"{conversation}.jsonl").is_file():
            return
        for found in projects.glob(f"*/{conversation}.jsonl"):
            _copy(user, (found.parent, here))
            return
        raise _gone(self)


def _copy(user: ChildUser, *pairs: tuple[Path, Path]) -> None:
    """Copy directories as the user who owns them; raises SessionUnavailableError."""
    paths = [str(path) for pair in pairs for path in pair]
    if user.ids is None:
        copying.copy_trees(*((str(source), str(target)) for source, target in pairs))
        return
    user.let_read([Path(sys.executable), Path(copying.__file__)])
    command = (sys.executable, "-I", "-S", copying.__file__, *paths)
    done = subprocess.run(
        guarded_command(command, become=user.ids), capture_output=True, check=False, env={}, cwd="/"
    )
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip()[-_LAST_WORDS:]
        raise SessionUnavailableError(f"The files of the session can't be copied: {said}")


def _gone(directories: SessionDirectories) -> SessionUnavailableError:
    return SessionUnavailableError(
        f"The files of the session are not on this worker ({directories.config}). They were "
        "removed, or the workers don't share CELERIAC_HOME; run the task without the session."
    )
