"""Settings of the sandboxes of agents."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_settings import NoDecode

from celeriac.kit.containers import checked_command, checked_stop, placeholders
from celeriac.kit.destinations import checked, first_uncovered
from celeriac.kit.outbound import OutboundGuard
from celeriac.settings.sections import Group, Names, read_names

Destinations = Annotated[
    tuple[Annotated[str, AfterValidator(checked)], ...], NoDecode, BeforeValidator(read_names)
]
"""Patterns of hosts and ports, separated by commas in a variable."""

_UNSHOWN = ("/proc", "/sys", "/dev")


def _may_be_shown(path: Path) -> Path:
    if not path.is_absolute() or path == Path("/"):
        raise ValueError(f"{str(path)!r} must be an absolute path below /")
    if any(path.is_relative_to(each) for each in _UNSHOWN):
        raise ValueError(f"{str(path)!r} is a directory of the kernel, which agents don't see")
    return path


class ConfinementSettings(Group, env_prefix="CELERIAC_CONFINEMENT_"):
    """What the processes of agents see and may use; `CELERIAC_CONFINEMENT_…`."""

    driver: Literal["none", "bubblewrap", "container"] = "none"
    """`bubblewrap` runs each of them in a sandbox, `container` in a container of
    `CELERIAC_CONFINEMENT_CONTAINER_COMMAND`; `none` as it is."""
    network: Literal["none", "host"] = "none"
    """`none` leaves them only the worker's model gateway, `host` the network of the machine."""
    reads: Annotated[
        tuple[Annotated[Path, AfterValidator(_may_be_shown)], ...],
        NoDecode,
        BeforeValidator(read_names),
    ] = ()
    """Files and directories that they may read besides the system's programs and libraries;
    absolute paths, separated by commas."""
    processes: int = Field(default=256, ge=8, le=100_000)
    """Processes and threads of one attempt."""
    cpu_seconds: int | None = Field(default=None, ge=1)
    """Processor time of one process; without it the time limits of tasks are the limit."""
    file_mb: int = Field(default=1_024, ge=1)
    """Size of one file that is written."""
    tmp_mb: int = Field(default=256, ge=1)
    """Size of /tmp and of /dev/shm. Both are memory."""
    memory_mb: int | None = Field(default=None, ge=64)
    """Memory of all processes of a sandbox together, with what /tmp and /dev/shm hold."""
    disk_mb: int | None = Field(default=None, ge=1)
    """Disk space of the directories that a sandbox writes to."""
    files: int | None = Field(default=None, ge=100)
    """Files and directories in them, in /tmp and in /dev/shm."""
    hosts: Destinations = ()
    """Destinations that agents may name at most, through the proxy of their attempt; patterns,
    separated by commas. Without any, agents reach no network, unless the worker's agents share
    that of the machine."""
    default_hosts: Destinations = ()
    """Those of them that agents reach which name none."""
    private_hosts: Names = ()
    """Names, addresses and networks (CIDR) that agents may reach although they are not on the
    public internet, where a pattern allows it; separated by commas."""

    container_command: tuple[str, ...] = ()
    """The command that starts a container, with placeholders; JSON: ["podman", "run", …]."""
    container_stop: tuple[str, ...] = ()
    """The command that removes a container that did not end by itself, with `{name}`; JSON:
    ["podman", "rm", "--force", "--ignore", "--time=0", "{name}"]."""
    container_image: str = Field(default="", max_length=500)
    """The `{image}` of the command. For Python functions and crews it has the worker's Python, at
    the same path."""
    container_python: str = Field(default="python3", min_length=1)
    """The program in the image that runs the first process; Python 3.11 or later."""
    container_start_seconds: float = Field(default=60.0, gt=0, le=3_600)
    """How long a container may take to start."""

    @property
    def described(self) -> str:
        """The driver, and the limits of an attempt as a whole where there are any."""
        named = (
            (self.memory_mb, "MB of memory"),
            (self.disk_mb, "MB of disk"),
            (self.files, "files"),
        )
        limits = ", ".join(f"{each:,} {of}" for each, of in named if each is not None)
        if self.driver == "none" or not limits:
            return self.driver
        return f"{self.driver}; at most {limits} for each sandbox, measured"

    @field_validator("container_command", "container_stop")
    @classmethod
    def _is_template(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        check = checked_command if info.field_name == "container_command" else checked_stop
        try:
            return check(value)
        except ValueError as error:
            variable = f"CELERIAC_CONFINEMENT_{str(info.field_name).upper()}"
            raise ValueError(f"{variable} {error}") from error

    @field_validator("private_hosts")
    @classmethod
    def _are_hosts(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        OutboundGuard.of(allow_private=False, allowed=value)
        return value

    @model_validator(mode="after")
    def _container_is_described(self) -> Self:
        if self.driver == "container" and not self.container_command:
            raise ValueError(
                "CELERIAC_CONFINEMENT_DRIVER=container needs "
                "CELERIAC_CONFINEMENT_CONTAINER_COMMAND: the command "
                "that starts a container, as in docs/confinement.md"
            )
        if self.driver == "container" and self.network == "host":
            raise ValueError(
                "CELERIAC_CONFINEMENT_NETWORK=host can't be combined with "
                "CELERIAC_CONFINEMENT_DRIVER=container, whose agents have no network: leave it "
                "out, and name what they may reach in CELERIAC_CONFINEMENT_HOSTS"
            )
        uses_image = any("image" in placeholders(each) for each in self.container_command)
        if uses_image and not self.container_image:
            raise ValueError(
                "CELERIAC_CONFINEMENT_CONTAINER_COMMAND uses {image}: set "
                "CELERIAC_CONFINEMENT_CONTAINER_IMAGE"
            )
        return self

    @model_validator(mode="after")
    def _default_is_allowed(self) -> Self:
        place = first_uncovered(self.default_hosts, self.hosts)
        if place is not None:
            raise ValueError(
                f"CELERIAC_CONFINEMENT_DEFAULT_HOSTS has {self.default_hosts[place]!r}, which "
                "CELERIAC_CONFINEMENT_HOSTS does not allow; add it there too"
            )
        return self
