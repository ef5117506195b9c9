"""What Celery's worker is started with: our defaults, unless the same was said otherwise."""

import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from celeriac.cli.exits import UsageProblemError

DEFAULT_CONCURRENCY = 100
"""Executions wait for models and the network far more than they compute (DESIGN section 6)."""


CELERY = ("-P", "-m", "celeriac.worker")
"""Python's arguments for Celery's program, with the current directory last on the path."""

_QUIET = ("--without-gossip", "--without-mingle")
"""Workers needn't know of each other: what each does is in the database."""


def worker_arguments(given: Sequence[str], queues: Sequence[str]) -> list[str]:
    """Return `given`, Celery's own worker options, with our defaults before them.

    The pool is `threads`; with `--autoscale`, which threads can't do, `prefork`. Concurrency is
    100 in threads and Celery's own choice in other pools. `queues` are listened to unless `given`
    names queues. The node's name has the id of this process, so that two workers of one host are
    told apart. Raises UsageProblemError for a pool that a worker can't use.
    """
    from celeriac.adapters.celery_app import pool_refusal

    autoscale = _has(given, "--autoscale")
    pool = _value(given, "-P", "--pool") or ("prefork" if autoscale else "threads")
    refusal = pool_refusal(pool)
    if refusal is not None:
        raise UsageProblemError(refusal)
    defaults: list[str] = []
    if not _has(given, "-P", "--pool"):
        defaults.append(f"--pool={pool}")
    if pool == "threads" and not autoscale and not _has(given, "-c", "--concurrency"):
        defaults.append(f"--concurrency={DEFAULT_CONCURRENCY}")
    if not _has(given, "-Q", "--queues"):
        defaults.append(f"--queues={','.join(queues)}")
    if not _has(given, "-n", "--hostname"):
        defaults.append(f"--hostname={node_name()}@%h")
    if not _has(given, "-l", "--loglevel"):
        defaults.append("--loglevel=INFO")
    defaults += [flag for flag in _QUIET if not _has(given, flag)]
    return [*defaults, *given]


def node_name() -> str:
    """Return what the worker that this process starts or becomes is called on its host."""
    return f"celeriac-{os.getpid()}"


def include_arguments(modules: Sequence[str]) -> list[str]:
    """Return the option that has Celery load `modules`, each a name or several with commas.

    Raises UsageProblemError where one can't be found, here or among what is installed.
    """
    names = [name.strip() for each in modules for name in each.split(",") if name.strip()]
    check_modules(names, "--include")
    return [f"--include={','.join(names)}"] if names else []


def check_modules(names: Sequence[str], source: str) -> None:
    """Raise UsageProblemError where there is no module of a name that `source` gives."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    for name in names:
        if not _exists(name):
            raise UsageProblemError(
                f"{source} {name}: there is no module of that name in this directory or among "
                "the installed packages."
            )


def _exists(module: str) -> bool:
    """Whether a module is there; its parents are imported to find out."""
    try:
        return find_spec(module) is not None
    except ImportError:  # its parent is no package, or can't be imported
        return False


def _has(given: Sequence[str], *names: str) -> bool:
    return any(_names(argument, name) for argument in given for name in names)


def _names(argument: str, name: str) -> bool:
    """Whether `argument` is the option `name`: `-c`, `-c4`, `--pool` or `--pool=solo`."""
    if name.startswith("--"):
        return argument == name or argument.startswith(f"{name}=")
    return argument.startswith(name) and not argument.startswith("--")


def _value(given: Sequence[str], short: str, long: str) -> str | None:
    """Return the last value given to an option, as Celery takes the last one too."""
    value = None
    for index, argument in enumerate(given):
        if argument in {short, long}:
            value = given[index + 1] if index + 1 < len(given) else None
        elif argument.startswith(f"{long}="):
            value = argument.removeprefix(f"{long}=")
        elif _names(argument, short):
            value = argument.removeprefix(short).removeprefix("=")
    return value
