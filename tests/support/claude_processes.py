"""Which processes Claude Code and its tools have in a directory of sessions."""

from pathlib import Path

import psutil


def processes_of(sessions: Path) -> list[str]:
    """Return the command lines of all that work in `sessions`, or were started from there."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.status() == psutil.STATUS_ZOMBIE:
                continue
            words = process.cmdline()
            signs = (process.cwd(), *process.environ().values(), *words)
        except psutil.Error:
            continue
        if any(str(sessions) in sign for sign in signs):
            found.append(" ".join(words)[:200])
    return found
