"""A program that runs the embedded servers as `celeriac up` does, for tests to stop and kill.

    python -m tests.support.run_stack HOME

It writes one line, the endpoints as JSON, once all serve; a typed error goes to stderr, exit 3.
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from celeriac.embedded.errors import EmbeddedError
from celeriac.embedded.output import Terminal
from celeriac.embedded.stack import Stack, StackOptions

FAILED = 3


def main(home: str) -> int:
    """Run the stack in `home` until a signal; return the exit code."""
    options = StackOptions(home=Path(home), local_model=False, fast_unsafe=True)
    terminal = Terminal(Console(stderr=True))
    try:
        with Stack(options, terminal) as stack:
            endpoints = stack.start()
            stack.publish(endpoints)
            sys.stdout.write(json.dumps(asdict(endpoints)) + "\n")
            sys.stdout.flush()
            stack.supervisor.run()
    except EmbeddedError as error:
        sys.stderr.write(f"{error.code}: {error}\n")
        return FAILED
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
