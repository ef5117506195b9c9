"""Imports the modules with users' own tasks, and says in a few lines why one can't be imported."""

import importlib
import sys
import traceback
from pathlib import Path
from types import ModuleType

import celery
import kombu
from celery.loaders.app import AppLoader

_OWN = "celeriac."
_EXIT_USAGE = 2
_FRAMEWORK = (
    *(str(Path(str(each.__file__)).parent) for each in (celery, kombu, importlib)),
    str(Path(__file__).parent),
    "<frozen importlib",
)


class ModuleLoader(AppLoader):
    """Celery's loader, for which a user's module that fails is a wrong option, not a crash."""

    def import_task_module(self, module: str) -> ModuleType:
        """Import one module with tasks.

        In Celery's own program a module that fails ends the process with exit code 2 and the
        reason on stderr. Elsewhere the exception is raised as it is.
        """
        try:
            imported: ModuleType = super().import_task_module(module)
        except (Exception, SystemExit) as error:  # the module is the user's: anything may be raised
            if module.startswith(_OWN) or "celery.bin.celery" not in sys.modules:
                raise
            sys.stderr.write(f"error: {import_failure(module, error)}\n")
            sys.stderr.flush()
            sys.exit(_EXIT_USAGE)
        return imported


def import_failure(module: str, error: BaseException) -> str:
    """Return one sentence with the module, the exception and its type, and then the user's frames.

    Frames of Celery and of Python's import system are left out.
    """
    formatted = traceback.TracebackException.from_exception(error)
    kind = type(error).__name__
    message = str(error)
    sentence = f"The module {module!r} can't be imported: {kind}{message and f': {message}'}"
    _leave_frameworks_out(formatted)
    return f"{sentence}\n{''.join(formatted.format()).rstrip()}"


def _leave_frameworks_out(formatted: traceback.TracebackException) -> None:
    formatted.stack = traceback.StackSummary.from_list(
        [frame for frame in formatted.stack if not frame.filename.startswith(_FRAMEWORK)]
    )
    for earlier in (formatted.__cause__, formatted.__context__):
        if earlier is not None:
            _leave_frameworks_out(earlier)
