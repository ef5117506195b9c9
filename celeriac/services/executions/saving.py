"""Saves the directories that an attempt's agent has worked in, before its end is stored."""

import time
from contextlib import suppress
from uuid import UUID

import structlog

from celeriac.domain.artifacts import ArtifactOwner
from celeriac.domain.errors import CeleriacError, LeaseLostError
from celeriac.domain.executions.events import EventType, NewEvent
from celeriac.kit.files import Folder
from celeriac.kit.json_types import storable
from celeriac.services.executions.attempt import Attempt
from celeriac.services.files.working import WorkingFiles

logger = structlog.get_logger(__name__)


def has_files(attempt: Attempt, workdir: Folder) -> bool:
    """Whether there is something to save, or something saved may be gone."""
    if attempt.folders:
        return True
    return attempt.has_workdir and (attempt.lease.attempt > 1 or not workdir.is_empty())


def save_files(files: WorkingFiles, attempt: Attempt, workspace_id: UUID, workdir: Folder) -> None:
    """Save the directories of an attempt whose agent has ended; blocks the calling thread.

    Raises nothing: the outcome of the attempt is worth more than its files. The log of the
    execution names what could not be saved, which stays on this machine.
    """
    if not has_files(attempt, workdir):
        return
    folders = dict(attempt.folders)
    if attempt.has_workdir:
        folders[ArtifactOwner(attempt.lease.execution_id, is_session=False)] = workdir
    for owner, folder in folders.items():
        try:
            files.save(attempt.lease, workspace_id, owner, folder)
        except LeaseLostError:
            return  # the worker that has the attempt now has its files, too
        except Exception as error:
            logger.exception("files.not_saved", owner_id=owner.id)
            reason = _reason(error)
            if attempt.masker is not None:
                reason = attempt.masker.text(reason)
            _log(attempt, f"The files of the working directory could not be saved: {reason}")


def _reason(error: Exception) -> str:
    match error:
        case CeleriacError():
            return error.message
        case OSError(strerror=str(reason)):
            return reason
    return type(error).__name__


def _log(attempt: Attempt, message: str) -> None:
    data = storable({"level": "error", "message": message, "source": "files"})
    event = NewEvent(EventType.LOG, data, time.monotonic())
    with suppress(LeaseLostError):
        attempt.write(lambda pending: pending.events.append(event))
