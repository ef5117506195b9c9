"""Containers of an engine that the administrator chose: the template of its command.

Only what docs/confinement.md lists exists inside. The engine's command is a template, whose
placeholders name what a container shows and how it is limited; all else is done by our own first
process inside (`container_entry`).
"""

import contextlib
import fcntl
import json
import logging
import os
import shutil
import string
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import ClassVar, Self
from uuid import uuid4

from celeriac.kit import container_client, container_entry, seccomp
from celeriac.kit.processes import NO_LIMITS, Asked, Namespace, ResourceLimits, UserIds
from celeriac.kit.sandbox import Sandbox, View, uncovered_as_named
from celeriac.kit.users import OURSELVES, ChildUser

PREFIX = "celeriac-"
"""Begins the names of containers."""

PATHS = ("read", "write", "hidden")
"""Placeholders whose argument is repeated for each path."""
VALUES = ("name", "image", "workdir", "user", "group", "processes", "memory_mb", "tmp_mb")
REQUIRED = ("read", "write", "user", "group")

_MEGABYTE = 1024 * 1024
_STOP_SECONDS = 30.0
_YOUNG_SECONDS = 60.0
"""Directories younger than this may belong to a process that has not locked them yet."""
_SHOWN_CHARACTERS = 300
_SEPARATORS = ":,"
_OF_ENGINES = ("PATH", "HOME", "USER", "LOGNAME", "TMPDIR", "LANG", "KUBECONFIG",
               "DBUS_SESSION_BUS_ADDRESS", "REGISTRY_AUTH_FILE")  # fmt: skip
_PREFIXES_OF_ENGINES = ("XDG_", "DOCKER_", "CONTAINER_", "CONTAINERS_", "CELERIAC_JOB_",
                        "KUBERNETES_")  # fmt: skip
"""Variables of the worker that the engine's commands get; none holds a secret of Celeriac's."""

_log = logging.getLogger(__name__)


def placeholders(argument: str) -> set[str]:
    """Return the placeholders in an argument. Raises ValueError for a malformed or unknown one."""
    found = set()
    try:
        parts = list(string.Formatter().parse(argument))
    except ValueError as error:
        raise ValueError(f"has a single brace in {argument!r}: double it") from error
    for _, name, format_spec, conversion in parts:
        if name is None:
            continue
        if name not in (*PATHS, *VALUES) or format_spec or conversion:
            known = ", ".join(f"{{{each}}}" for each in (*VALUES, *PATHS))
            raise ValueError(
                f"has the unknown placeholder {{{name}}} in {argument!r}: use {known}, and double "
                "braces for a brace"
            )
        found.add(name)
    return found


def checked_command(command: Sequence[str]) -> tuple[str, ...]:
    """Return a template that starts containers. Raises ValueError with the cure."""
    found = _found(command)
    missing = [f"{{{each}}}" for each in REQUIRED if each not in found]
    if command and missing:
        raise ValueError(
            f"must use {' and '.join(missing)}, as in --volume={{read}}:{{read}}:ro, "
            "--volume={write}:{write} and --user={user}:{group}"
        )
    return tuple(command)


def checked_stop(command: Sequence[str]) -> tuple[str, ...]:
    """Return a template that removes a container. Raises ValueError with the cure."""
    found = _found(command)
    if command and found != {"name"}:
        raise ValueError(
            'must use {name} and no other placeholder, as in ["podman", "rm", "--force", '
            '"--ignore", "--time=0", "{name}"]'
        )
    return tuple(command)


def _found(command: Sequence[str]) -> set[str]:
    found: set[str] = set()
    for each in command:
        used = placeholders(each)
        if len(used & {*PATHS}) > 1:
            raise ValueError(f"names two kinds of paths in {each!r}: one argument, one kind")
        found |= used
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """Commands of a container engine, with placeholders (`checked_command`, `checked_stop`).

    `python` runs the first process inside `image`, which must have connected after `seconds`.
    `root` has a directory for each container.
    """

    start: tuple[str, ...]
    stop: tuple[str, ...] = ()
    image: str = ""
    python: str = "python3"
    seconds: float = 60.0
    root: Path

    def environment(self) -> dict[str, str]:
        """Return the environment of the engine's commands."""
        return {
            name: value
            for name, value in os.environ.items()
            if name in _OF_ENGINES or name.startswith(_PREFIXES_OF_ENGINES)
        }

    def remove(self, name: str) -> None:
        """Remove the container `name`, if it still exists, and its directory; blocks."""
        if self.stop:
            try:
                done = subprocess.run(
                    [each.format(name=name) for each in self.stop],
                    env=self.environment(), stdin=subprocess.DEVNULL, capture_output=True,
                    check=False, timeout=_STOP_SECONDS, text=True, errors="replace",
                )  # fmt: skip
                fault = done.stderr.strip()[-_SHOWN_CHARACTERS:] if done.returncode else ""
            except (OSError, subprocess.TimeoutExpired) as error:
                fault = str(error)
            if fault:
                _log.warning("container_not_removed: %s: %s", name, fault)
        shutil.rmtree(self.root / name, ignore_errors=True)

    def remove_left(self) -> None:
        """Remove the containers of processes of this machine that were killed; blocks."""
        for place in self.root.glob(f"{PREFIX}*"):
            with contextlib.suppress(OSError):
                if time.time() - place.stat().st_mtime > _YOUNG_SECONDS and _is_free(place):
                    self.remove(place.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerSandbox(Sandbox):
    """A sandbox that an engine makes; `inside` is the user of its processes.

    `name` is the container of one process (`named`).
    """

    driver: ClassVar[str] = "container"
    asked: ClassVar[Asked] = Asked.LEADER

    engine: Engine
    inside: UserIds
    name: str = ""
    memory: int | None = None

    @property
    def start_seconds(self) -> float:
        """How long a container may take to start."""
        return self.engine.seconds

    @property
    def outside_user(self) -> ChildUser:
        """The engine's command runs as the worker."""
        return OURSELVES

    def named(self, memory: int | None = None) -> Self:
        """Return the sandbox of one process, with a name and a directory of its own."""
        name = f"{PREFIX}{uuid4().hex}"
        place = self.engine.root / name
        self.engine.root.mkdir(mode=0o711, parents=True, exist_ok=True)
        place.mkdir(mode=0o711)
        variables = place / container_client.ENVIRONMENT
        variables.touch(mode=0o600)
        variables.write_text(json.dumps(self.engine.environment()))
        return replace(self, name=name, memory=memory)

    def clean(self) -> None:
        """Remove the container, unless it ended in order."""
        if (self.engine.root / self.name).exists():
            self.engine.remove(self.name)

    def limits(self, memory: int | None) -> ResourceLimits:  # noqa: ARG002
        """Return none: they hold inside."""
        return NO_LIMITS

    def namespace(self, channel: int | None = None, ports: tuple[int, ...] = ()) -> Namespace:
        """Return that the namespace is made elsewhere."""
        return Namespace(alone=True, channel=channel, ports=ports, elsewhere=True)

    def command(
        self,
        arguments: Sequence[str],
        *,
        workdir: Path,
        shows: Iterable[Path] = (),
        writes: Iterable[Path] = (),
    ) -> list[str]:
        """Return the command that runs `arguments` in the container `name`.

        As with other sandboxes; the system's directories are those of the image. Raises OSError
        for a path that the template can't show.
        """
        work = workdir.absolute()
        place = self.engine.root / self.name
        ours = Path(container_entry.__file__).parent
        paths = [path.absolute() for path in (*self.reads, *shows)]
        view = View.of((*paths, ours, place), self.hidden)
        shown = [each for each in (*view.wide, *view.inner) if each.exists()]
        written = uncovered_as_named((work, *(path.absolute() for path in writes)))
        given = {
            "start": [
                *self._started(work, shown, written, view.covered),
                *(self.engine.python, "-I", "-S", container_entry.__file__, str(place)),
            ],
            "directory": str(place),
            "seconds": self.engine.seconds,
            "plan": {
                "workdir": str(work),
                "limits": asdict(Sandbox.limits(self, self.memory)),
                "filter": (seccomp.program(refuses_clones=True) or b"").hex(),
            },
        }
        return [
            *(sys.executable, "-I", "-S", container_client.__file__),
            *(json.dumps(given), *arguments),
        ]

    def _started(
        self,
        work: Path,
        shown: Sequence[Path],
        written: Sequence[Path],
        covered: Sequence[Path],
    ) -> Iterator[str]:
        """Fill in the template."""
        values = {
            "name": self.name,
            "image": self.engine.image,
            "workdir": str(work),
            "user": str(self.inside.user),
            "group": str(self.inside.group),
            "processes": str(self.processes),
            "tmp_mb": str(self.tmp_bytes // _MEGABYTE),
            "memory_mb": str(max(1, (self.memory or 0) // _MEGABYTE)),
        }
        groups = {"read": shown, "write": written, "hidden": covered}
        _check(groups, self.engine.start)
        for argument in self.engine.start:
            used = placeholders(argument)
            if "memory_mb" in used and self.memory is None:
                continue
            for kind in used & {*PATHS}:
                yield from (argument.format(**values, **{kind: path}) for path in groups[kind])
            if not used & {*PATHS}:
                yield argument.format(**values)


def _check(groups: Mapping[str, Sequence[Path]], template: Sequence[str]) -> None:
    for path in (each for paths in groups.values() for each in paths):
        if set(str(path)) & set(_SEPARATORS):
            raise OSError(
                f"{str(path)!r} can't be shown in a container: engines separate paths by colons "
                "and commas. Rename it"
            )
    if groups["hidden"] and not any("hidden" in placeholders(each) for each in template):
        raise OSError(
            f"{groups['hidden'][0]} would be seen inside: it lies in a directory that is shown. "
            "Add --tmpfs={hidden} to CELERIAC_CONFINEMENT_CONTAINER_COMMAND, or show less with "
            "CELERIAC_CONFINEMENT_READS"
        )


def _is_free(place: Path) -> bool:
    """Whether no process holds the directory of a container."""
    handle = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(handle)
    return True
