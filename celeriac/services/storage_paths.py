"""The directories and files of executions and sessions."""

from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from celeriac.kit.files import Folder
from celeriac.logs.writer import execution_file

_WORK = "work"


@dataclass(frozen=True, slots=True)
class StoragePaths:
    """The directories of one home, shared by workers, API and keeper."""

    sessions: Path
    """A directory per session, named by its id; the agent's files are in its `work`."""
    workdirs: Path
    """A directory per execution, named by its id."""
    logs: Path

    def session(self, session_id: UUID) -> Path:
        """Return a session's directory."""
        return self.sessions / str(session_id)

    def workdir(self, execution_id: UUID) -> Path:
        """Return an execution's working directory."""
        return self.workdirs / str(execution_id)

    def log_file(self, execution_id: UUID) -> Path:
        """Return an execution's log file."""
        return execution_file(self.logs, str(execution_id))

    def session_files(self, session_id: UUID) -> Folder:
        """Return the files of a session's working directory."""
        return Folder(self.sessions, str(session_id), _WORK)

    def execution_files(self, execution_id: UUID) -> Folder:
        """Return the files of an execution's working directory."""
        return Folder(self.workdirs, str(execution_id))
