"""Looks at processes that may end at any moment, and signals to them."""

from collections.abc import Iterable

import psutil


def children_of(pid: int, *, recursive: bool = False) -> list[psutil.Process]:
    """Return what runs below a process; nothing if it has ended."""
    try:
        return psutil.Process(pid).children(recursive=recursive)
    except psutil.NoSuchProcess:
        return []


def title_of(process: psutil.Process) -> str:
    """Return the command line of a process, which it may have changed; nothing if it has ended."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def signal_all(processes: Iterable[psutil.Process], number: int) -> None:
    """Send a signal to those that still run."""
    for process in processes:
        try:
            process.send_signal(number)
        except psutil.Error:
            continue
