"""The first process of a container: it passes signals on, and reaps what others leave behind.

The kernel gives the first process of a PID namespace all orphans, and ignores signals that it does
not handle. Small init programs do the same, but theirs is an environment that other processes of
the user can read (docs/adr/0062).
"""

import os
import signal
import sys

from celeriac.kit.child_bootstrap import hide_memory, reap_all

_PASSED_ON = frozenset(
    {
        signal.SIGTERM,
        signal.SIGINT,
        signal.SIGQUIT,
        signal.SIGHUP,
        signal.SIGUSR1,
        signal.SIGUSR2,
    }
)
_OF_TERMINALS = frozenset({signal.SIGINT, signal.SIGQUIT, signal.SIGHUP})


def divide_first_process() -> None:
    """Return in a child if this is the first process of its namespace; else return at once.

    The first process ends with the exit code of that child, and returns never.
    """
    if os.getpid() == 1:
        divide()


def divide() -> None:
    """Return in a child. This process reaps until the child has ended, then ends as it did.

    Needs a process without other threads. A signal that ended the child becomes 128 and its number.
    """
    awaited = _PASSED_ON | {signal.SIGCHLD}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, awaited)
    child = os.fork()
    if child == 0:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return
    hide_memory()
    while True:
        number = signal.sigwait(awaited)
        if number == signal.SIGCHLD:
            code = reap_all(child)
            if code is not None:
                os._exit(code)
        elif number not in _OF_TERMINALS or not sys.stdin.isatty():  # a terminal asks both
            os.kill(child, number)
