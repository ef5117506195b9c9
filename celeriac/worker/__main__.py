"""Celery's own program, as `celeriac` starts it: `python -P -m celeriac.worker worker|beat …`.

The current directory contains the users' modules of agents and tasks, and may contain anything. It
is last on the path, so that no file in it shadows the standard library or an installed package.
Celery would put it first.
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
