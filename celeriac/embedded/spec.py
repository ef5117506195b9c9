"""What a supervised program is: command, environment, readiness; and programs within packages."""

import importlib.util
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from celeriac.embedded.errors import ServerNotInstalledError
from celeriac.kit.processes import UserIds

ReadyCheck = Callable[[], str | None]
"""Returns None once the process serves, else why it doesn't yet; takes seconds at the most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessSpec:
    """One long-lived process: how to start it, know that it serves, and stop it.

    `env` is the whole environment, not an addition; `become` needs root. Without a ready check a
    process counts as ready once it runs. Where `stop_grace` seconds after the stop signal it still
    runs, it is killed with all that came from it.
    """

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: Path | None = None
    become: UserIds | None = None
    ready: ReadyCheck | None = None
    ready_within: float = 60.0
    stop_signal: signal.Signals = signal.SIGTERM
    stop_grace: float = 10.0


def find_in_package(package: str, pattern: str, *, cure: str) -> Path:
    """Return the first file of an installed package that matches a glob pattern.

    Raises ServerNotInstalledError, naming `cure` as the command that helps.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise ServerNotInstalledError(f"The package {package} isn't installed. Run: {cure}")
    for path in sorted(Path(spec.origin).parent.glob(pattern)):
        return path
    raise ServerNotInstalledError(
        f"The package {package} is damaged: it has no file {pattern}. Run: {cure}"
    )
