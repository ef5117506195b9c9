"""The program of a child process that runs a crew (see `runner`).

Run by its path with `python -P`, by the Python of CrewAI's virtual environment, which has no
Celeriac: only `program`, beside this file, is loaded. Before anything else is imported it takes
stdin and stdout for the protocol: what libraries print then becomes log lines.
"""

import faulthandler
import importlib.util
import json
import os
import sys
from pathlib import Path


def main() -> int:
    """Take the pipes, read the `start` message, and run the crew; returns the exit code."""
    commands = os.fdopen(os.dup(0), "rb")
    answers = os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True, errors="backslashreplace")  # type: ignore[union-attr]
    faulthandler.enable(all_threads=False)
    for name in ("HOME", "TMPDIR"):
        Path(os.environ[name]).mkdir(parents=True, exist_ok=True)
    line = commands.readline()
    if not line:
        return 0  # the worker ended before it sent the job
    here = Path(__file__)
    _load("celeriac_crew", here.with_name("program"))
    from celeriac_crew.channel import Channel
    from celeriac_crew.work import work

    return int(work(json.loads(line), Channel(answers, commands)))


def _load(name: str, folder: Path) -> None:
    """Import the package in `folder` as `name`, without its siblings."""
    spec = importlib.util.spec_from_file_location(
        name, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # The result is out: threads and exit handlers of libraries are not waited for.
    os._exit(code)
