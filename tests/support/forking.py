"""Python programs that are forked from a process which has imported what they import.

A worker or an API needs two to three seconds of processor time for its imports, which the hundreds
of programs in these tests would all pay. They differ from programs that are executed only in that:
their environment, session, output, signals and exit are their own. The tests of commands, of the
README and of deployments execute the programs.
"""

import atexit
import io
import multiprocessing
import os
import runpy
import signal
import sys
import threading
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path

from celeriac.kit.child_bootstrap import set_parent_death_signal

_IMPORTED = (
    "celery.__main__",
    "celery.apps.beat",
    "celery.apps.worker",
    "celery.bin.celery",
    "celery.concurrency.prefork",
    "celery.concurrency.thread",
    "celeriac.api.app",
    "celeriac.worker.lifecycle",
    "celeriac.worker.signals",
    "uvicorn.__main__",
    "tests.support.fleet_agents",
)
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(list(_IMPORTED))


class ForkedProgram:
    """A running `python -m module …`, with the part of `subprocess.Popen` that `Program` needs."""

    def __init__(
        self, arguments: Sequence[str], env: Mapping[str, str], directory: Path, log: Path
    ) -> None:
        """`arguments` are those after `-m`: the name of a module, and its own."""
        started, begins = _CONTEXT.Pipe(duplex=False)
        self._process = _CONTEXT.Process(
            target=_run,
            args=(begins, list(arguments), dict(env), str(directory), str(log)),
            name="MainProcess",
            daemon=True,  # pytest ends it if a test does not
        )
        self._process.start()
        begins.close()
        with suppress(EOFError):  # it closes its end as soon as it leads its session
            started.recv_bytes()
        started.close()

    @property
    def pid(self) -> int:
        """Its pid, also after its end."""
        assert self._process.pid is not None
        return self._process.pid

    def poll(self) -> int | None:
        """Return its exit code (negative: the signal); None while it runs."""
        return self._process.exitcode

    def wait(self) -> int:
        """Wait for its end and return its exit code."""
        self._process.join()
        assert self._process.exitcode is not None
        return self._process.exitcode


def _run(
    begins: Connection, arguments: Sequence[str], env: Mapping[str, str], directory: str, log: str
) -> None:
    """Become the program: never returns."""
    os.setsid()
    set_parent_death_signal(signal.SIGKILL, os.getppid())
    begins.close()
    _redirect(log)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(directory)
    module = arguments[0]
    sys.argv = [*arguments]
    searched = env.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:] = [directory, *(each for each in sys.path if each not in {"", directory})]
    sys.path[1:1] = [each for each in searched if each and each not in sys.path]
    os._exit(_exit_code(module))


def _redirect(log: str) -> None:
    nothing = os.open(os.devnull, os.O_RDONLY)
    output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    for number, opened in enumerate((nothing, output, output)):
        os.dup2(opened, number)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    sys.stdin = io.TextIOWrapper(io.FileIO(0, "r"))
    sys.stdout = io.TextIOWrapper(io.FileIO(1, "w"), write_through=True)
    sys.stderr = io.TextIOWrapper(io.FileIO(2, "w"), errors="backslashreplace", write_through=True)


def _exit_code(module: str) -> int:
    """Run a module as the interpreter does, with what it does at the end."""
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        code: object = 0
    except SystemExit as end:
        code = end.code
    except BaseException:  # noqa: BLE001 - as the interpreter: printed, and the exit code is 1
        traceback.print_exc()
        code = 1
    threading._shutdown()  # type: ignore[attr-defined] # as the interpreter at its end
    atexit._run_exitfuncs()
    if code is None or isinstance(code, int):
        return code or 0
    print(code, file=sys.stderr)  # noqa: T201 - as the interpreter
    return 1
