"""Which processes a running stack has started, for the next run to end what was left."""

import json
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from celeriac.embedded.errors import HomeUnusableError, ServerFailedError
from celeriac.embedded.home import Home, write_private
from celeriac.kit.process import ProcessIdentity, send_signal, still_running, terminate_group

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_POLL_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Child:
    """One process of a stack: its name there, and its identity within one boot of the machine."""

    name: str
    pid: int
    started: int
    stop_signal: int

    @property
    def identity(self) -> ProcessIdentity:
        """The process itself, whatever became of its pid."""
        return ProcessIdentity(pid=self.pid, started=self.started)


class ChildRecord:
    """The list, kept in the home. Only the holder of the home's lock may write it."""

    def __init__(self, home: Home) -> None:
        self._path = home.children_file
        self._children: dict[str, Child] = {}

    def add(self, child: Child) -> None:
        """Remember a process, in place of an earlier one of the same name.

        Where that can't be written (a full disk), the process runs even so. The next change that
        is written names it; it also dies with the stack itself (`kit.process`).
        """
        self._children[child.name] = child
        with suppress(HomeUnusableError):
            self._write()

    def remove(self, name: str) -> None:
        """Forget a process that has ended.

        Where that can't be written (a full disk), stopping the others goes on: an entry whose
        process has gone misleads nobody.
        """
        if self._children.pop(name, None) is not None:
            with suppress(HomeUnusableError):
                self._write()

    @property
    def children(self) -> Sequence[Child]:
        """Those that run, in the order they were started."""
        return tuple(self._children.values())

    def end_leftovers(self, grace_seconds: float) -> Sequence[Child]:
        """End what an earlier run left running, and forget it; return what had to be ended.

        Each gets its stop signal and, after `grace_seconds` for all together, SIGKILL with all
        that came from it. Raises ServerFailedError where one survives even that.
        """
        found = [child for child in self._read() if still_running(child.identity)]
        for child in found:
            send_signal(child.identity, child.stop_signal)
            send_signal(child.identity, signal.SIGCONT)  # a stopped one would not see it
        _wait_gone(found, grace_seconds)
        for child in found:
            if survivors := terminate_group(child.identity, 0):
                pids = ", ".join(str(each.pid) for each in survivors)
                raise ServerFailedError(
                    child.name, f"an earlier run left it running and it can't be ended: {pids}."
                )
        self._children.clear()
        self._write()
        return found

    def _read(self) -> list[Child]:
        """A record of another boot, or one that was damaged, names nobody who still runs."""
        try:
            stored = json.loads(self._path.read_text(encoding="utf-8"))
            if stored["boot"] != _boot_id():
                return []
            return [Child(**values) for values in stored["children"]]
        except (OSError, ValueError, KeyError, TypeError):
            return []

    def _write(self) -> None:
        values = [asdict(child) for child in self._children.values()]
        write_private(self._path, json.dumps({"boot": _boot_id(), "children": values}))


def _wait_gone(children: Sequence[Child], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while any(still_running(child.identity) for child in children) and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)


def _boot_id() -> str:
    """Start times count from boot, so they tell processes apart only within one."""
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return ""
