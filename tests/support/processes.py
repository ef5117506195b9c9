"""Starting one process of the embedded stack as its supervisor does."""

import time

from celeriac.embedded.process import ManagedProcess
from celeriac.embedded.supervisor import DEFAULT_POLICY, State, Supervised


def start_and_wait(process: ManagedProcess) -> None:
    """Start a process and wait until it serves. Raises ServerFailedError."""
    supervised = Supervised(process, DEFAULT_POLICY, lambda _: None)
    supervised.start(time.monotonic())
    while supervised.state is State.STARTING:
        supervised.step(time.monotonic())
        time.sleep(0.02)
