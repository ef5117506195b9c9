"""Python's garbage collector while a program starts."""

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
