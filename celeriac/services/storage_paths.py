"""The directories and files of executions and sessions."""

from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from celeriac.logs.writer import execution_file


@dataclass(frozen=True, slots=True)
class StoragePaths:
    """The directories of this machine's home."""

    sessions: Path
    """A directory per session, named by its id; the agent's files are in its `work`."""
    workdirs: Path
    """A directory per execution, named by its id."""
    logs: Path
    saved: Path
    """A file per session or execution: which saved version this machine has of its files."""

    def session(self, session_id: UUID) -> Path:
        """Return a session's directory."""
        return self.sessions / str(session_id)

    def workdir(self, execution_id: UUID) -> Path:
        """Return an execution's working directory."""
        return self.workdirs / str(execution_id)

    def log_file(self, execution_id: UUID) -> Path:
        """Return an execution's log file."""
        return execution_file(self.logs, str(execution_id))
