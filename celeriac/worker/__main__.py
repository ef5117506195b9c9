"""Celery's own program, as `celeriac` starts it: `python -P -m celeriac.worker worker|beat …`.

The current directory is where users have modules of agents and tasks, and where anything may lie:
it comes last on the path, so that no file in it takes the place of the standard library's or of an
installed package's. Celery would put it first.
"""

import sys
from contextlib import suppress
from pathlib import Path

from celery.__main__ import main

if __name__ == "__main__":
    with suppress(FileNotFoundError):  # it was removed
        directory = str(Path.cwd())
        if directory not in sys.path:
            sys.path.append(directory)
    main()
