"""Container engines for tests: podman where it works, and a small one that uses bubblewrap."""

import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from celeriac.kit.containers import ContainerSandbox
from celeriac.kit.sandbox import PROGRAM
from celeriac.settings import Settings
from celeriac.wiring.confinement import checked_sandbox
from tests.support.programs import REPOSITORY
from tests.support.sandboxes import FILE_MB, PROCESSES, TMP_MB, confined_user, packages

ENGINE = REPOSITORY / "tests" / "support" / "engine.py"
IMAGE = "localhost/celeriac-tests:empty"

_OPTIONS = (
    "--name={name}", "--user={user}:{group}", "--volume={read}:{read}:ro",
    "--volume={write}:{write}", "--tmpfs={hidden}:size=1000000", "--workdir={workdir}",
    "--network=none", "--read-only", "--cap-drop=all",
)  # fmt: skip


def small_command(state: Path, *added: str, without: str = "") -> tuple[str, ...]:
    """Return a template of the small engine, whose containers have files in `state`.

    `without` leaves options out that begin so.
    """
    if shutil.which(PROGRAM) is None:
        pytest.skip("bubblewrap is not installed: apt install bubblewrap")
    options = (each for each in _OPTIONS if not (without and each.startswith(without)))
    sizes = (f"--tmpfs=/tmp:size={TMP_MB << 20}", f"--shm-size={TMP_MB << 20}")
    return (sys.executable, str(ENGINE), "run", f"--state={state}", *options, *sizes, *added)


def small_stop(state: Path) -> tuple[str, ...]:
    """Return the command that removes a container of the small engine."""
    return (sys.executable, str(ENGINE), "rm", f"--state={state}", "{name}")


_SYSTEM = ("bin", "sbin", "lib", "lib64")


@cache
def podman() -> tuple[str, ...]:
    """Return the beginning of commands of podman that work here; skips where there are none."""
    if shutil.which("podman") is None:
        pytest.skip("podman is not installed: apt install podman crun")
    plain = ("podman", "--cgroup-manager=cgroupfs")
    # crun refuses to start where both versions of control groups have controllers
    alone = ("unshare", "-m", "sh", "-c", 'umount /sys/fs/cgroup/unified; exec "$@"', "sh")
    faults = []
    for begin in (plain, (*alone, *plain)):
        _import_image(begin)
        tried = subprocess.run(
            [*begin, "run", "--rm", "--network=none", *_HOST, IMAGE, "/bin/true"],
            capture_output=True, check=False, text=True, timeout=60,
        )  # fmt: skip
        if tried.returncode == 0:
            return begin
        faults.append(tried.stderr.strip()[-200:])
    pytest.skip(f"podman does not work on this machine: {faults}")


_HOST = (
    "--cgroups=disabled",
    "--ulimit=nofile=1024:1024", "--ulimit=nproc=4096:4096",
    "--volume=/usr:/usr:ro", "--volume=/etc/passwd:/etc/passwd:ro",
)  # fmt: skip
"""The image is empty: it has the machine's programs, and so this Python."""


def podman_command() -> tuple[str, ...]:
    """Return a template of podman."""
    return (
        *podman(), "run", "--rm", "--interactive", *_OPTIONS, *_HOST,
        "--tmpfs=/tmp:rw,nosuid,nodev,size={tmp_mb}m", "--shm-size={tmp_mb}m",
        "--read-only-tmpfs=false",
        "--tmpfs=/sys/fs/cgroup:ro,size=4k",
        "--security-opt=no-new-privileges",
        "{image}",
    )  # fmt: skip


def podman_stop() -> tuple[str, ...]:
    """Return the command that removes a container of podman."""
    return (*podman(), "rm", "--force", "--ignore", "--time=0", "{name}")


def _import_image(begin: tuple[str, ...]) -> None:
    found = subprocess.run([*begin, "image", "exists", IMAGE], check=False, timeout=60)
    if found.returncode == 0:
        return
    tree = Path(f"/tmp/celeriac-image-{os.getpid()}")
    for name in ("usr", "etc", "tmp", "proc", "dev", "sys", "var"):
        (tree / name).mkdir(parents=True, exist_ok=True)
    for name in _SYSTEM:
        if Path("/", name).is_symlink():
            (tree / name).symlink_to(f"usr/{name}")
    packed = subprocess.run(["tar", "-C", tree, "-c", "."], capture_output=True, check=True)
    subprocess.run(
        [*begin, "import", "-", IMAGE], input=packed.stdout, capture_output=True, check=True
    )
    shutil.rmtree(tree)


def settings_for(
    home: Path, command: tuple[str, ...], stop: tuple[str, ...] = (), **changed: object
) -> Settings:
    """Return settings whose agents run in containers of `command`."""
    return Settings.load(
        home=home,
        DATABASE_URL=None,
        confinement={
            "driver": "container", "tmp_mb": TMP_MB, "file_mb": FILE_MB, "processes": PROCESSES,
            "reads": [sys.prefix, sys.base_prefix, str(packages()), str(REPOSITORY / "tests")],
            "container_command": command, "container_stop": stop, "container_image": IMAGE,
            "container_python": sys.executable,
            **changed,
        },
    )  # fmt: skip


def container_for(
    home: Path, command: tuple[str, ...], stop: tuple[str, ...] = (), **changed: object
) -> ContainerSandbox:
    """Return a tried sandbox for programs of this Python that hides `home`."""
    settings = settings_for(home, command, stop, **changed)
    sandbox = checked_sandbox(settings, confined_user(), home / "work")
    assert isinstance(sandbox, ContainerSandbox)
    return sandbox
