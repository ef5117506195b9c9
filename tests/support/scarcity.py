"""A process that can open nothing more, or gets no more memory, for a while."""

import contextlib
import os
import resource
import selectors
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest


def count_open_loops() -> int:
    """Return how many event loops of this process are open; each has an epoll descriptor."""
    count = 0
    for each in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            count += str(each.readlink()) == "anon_inode:[eventpoll]"
    return count


@contextlib.contextmanager
def no_descriptors(*, but: int = 0) -> Iterator[None]:
    """Let this process open no more than `but` files or sockets in the block."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    opened = [os.open(os.devnull, os.O_RDONLY) for _ in range(but + 1)]
    for each in opened:
        os.close(each)
    resource.setrlimit(resource.RLIMIT_NOFILE, (opened[-1], hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@contextlib.contextmanager
def no_memory_for_selectors() -> Iterator[None]:
    """Have a lack of memory keep event loops from being made in the block."""

    def refuse() -> None:
        raise MemoryError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(selectors, "DefaultSelector", refuse)
        yield


LACKS: dict[str, Callable[[], AbstractContextManager[None]]] = {
    "no descriptor": no_descriptors,
    "no descriptor after the selector's": lambda: no_descriptors(but=1),
    "no memory": no_memory_for_selectors,
}
"""What keeps event loops from being made."""
