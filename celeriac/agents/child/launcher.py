"""Starts Python code in a child process: `python -P launcher.py MODULE [DIRECTORY]`.

Standard library only, and run by its path. It reserves stdin and stdout for the protocol before it
imports `MODULE`: `print` then writes to stderr, whose lines become log lines. The module path is
that of the `start` message, or this Python's own and `DIRECTORY`.
"""

import faulthandler
import importlib
import json
import os
import sys


def main(module: str, *directories: str) -> int:
    """Reserve the pipes, read the `start` message, do the work; returns the exit code."""
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
    # at the end: names of the standard library are not hidden
    sys.path[:] = start.get("sys_path", [*sys.path, *directories])
    return int(importlib.import_module(module).work(start, commands, answers))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
