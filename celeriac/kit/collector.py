"""Python's garbage collector in programs that import much and then run for long."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def paused() -> Iterator[None]:
    """Collect no cycles during the block, which imports what stays.

    The collector would go through all of it again and again: a tenth to a sixth of the time that a
    worker or an API needs to start.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def leave_out() -> None:
    """Leave all objects that exist now out of later collections.

    What a program has imported stays, and collections would go through it again and again: a tenth
    to a quarter of the time in which a worker with short executions runs Python (sampled with
    py-spy; 2 % afterwards). Call it when the program is ready: what is garbage later and in a cycle
    with one of these objects is never freed.
    """
    gc.collect()
    gc.freeze()
