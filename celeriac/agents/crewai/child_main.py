"""The program of a child process that runs a crew (see `runner`).

Run by its path with `python -P`, by the Python of CrewAI's virtual environment, which has no
Celeriac: only `program`, beside this file, is taken from it. Before anything else is imported it
takes stdin and stdout for the protocol: what libraries print then becomes log lines.
"""

import faulthandler
import importlib.util
import json
import os
import sys
from pathlib import Path
from types import ModuleType


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
        return 0  # the worker changed its mind before it said what to do
    _load_program()
    from celeriac_crew.channel import Channel
    from celeriac_crew.work import work

    return int(work(json.loads(line), Channel(answers, commands)))


def _load_program() -> ModuleType:
    """Import the package `program` as `celeriac_crew`, without anything that lies beside it."""
    folder = Path(__file__).with_name("program")
    spec = importlib.util.spec_from_file_location(
        "celeriac_crew", folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # Libraries' threads and exit handlers have nothing to say once the result is out.
    os._exit(code)
