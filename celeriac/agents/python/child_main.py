"""The program of the child process that runs a plain Python function (see `runner`).

Run by its path, with `python -P`. It reserves stdin and stdout for the protocol before it imports
the user's code: `print` then writes to stderr, whose lines become log lines.
"""

import faulthandler
import json
import os
import sys


def main() -> int:
    """Reserve the pipes, read the `start` message, run the function; returns the exit code."""
    commands = os.fdopen(os.dup(0), "rb")
    answers = os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    # Printing text that has no UTF-8 form must not fail.
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True, errors="backslashreplace")  # type: ignore[union-attr]
    faulthandler.enable(all_threads=False)
    line = commands.readline()
    if not line:
        return 0  # the worker cancelled before the start message
    start = json.loads(line)
    sys.path[:] = start["python"]["sys_path"]

    from celeriac.agents.python.child_channel import Channel
    from celeriac.agents.python.child_work import work

    return work(start, commands, Channel(answers))


if __name__ == "__main__":
    sys.exit(main())
