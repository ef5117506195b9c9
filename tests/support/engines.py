"""Container engines for tests: podman where it works, and a small one that uses bubblewrap."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
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
IMAGE = "localhost/celeriac-tests:programs"

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
_PROGRAMS = ("sh", "sleep", "id", "setsid", "tail", "cat", "true")
_ANY_ENGINE = """
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=4096:4096"]
[engine]
cgroup_manager = "cgroupfs"
"""
"""Without these, podman asks for more open files than root may have here, and for systemd."""


@cache
def podman() -> tuple[str, ...]:
    """Return the beginning of commands of podman that work here; skips where there are none."""
    if shutil.which("podman") is None:
        pytest.skip("podman is not installed: apt install podman crun")
    configuration = Path(f"/tmp/celeriac-podman-{os.getuid()}.conf")
    configuration.write_text(_ANY_ENGINE)
    plain = ("env", f"CONTAINERS_CONF={configuration}", "podman")
    # crun refuses to start where both versions of control groups have controllers
    alone = ("unshare", "-m", "sh", "-c", 'umount /sys/fs/cgroup/unified; exec "$@"', "sh")
    limits = ("--pids-limit=20", "--memory=100m")
    faults = []
    for begin in (plain, (*alone, *plain)):
        _import_image(begin)
        tried = subprocess.run(
            [*begin, "run", "--rm", "--network=none", *limits, IMAGE, "/bin/true"],
            capture_output=True, check=False, text=True, timeout=60,
        )  # fmt: skip
        if tried.returncode == 0:
            return begin
        faults.append(tried.stderr.strip()[-200:])
    pytest.skip(f"podman does not work on this machine: {faults}")


def documented(variable: str) -> tuple[str, ...]:
    """Return the command of podman that docs/confinement.md sets as `variable`."""
    guide = (REPOSITORY / "docs" / "confinement.md").read_text()
    [text] = re.findall(rf"^export {variable}='(\[.*?\])'$", guide, re.DOTALL | re.MULTILINE)
    engine, *arguments = json.loads(text)
    assert engine == "podman"
    return (*podman(), *arguments)


def podman_command() -> tuple[str, ...]:
    """Return the documented template of podman."""
    return documented("CELERIAC_CONFINEMENT_CONTAINER_COMMAND")


def podman_stop() -> tuple[str, ...]:
    """Return the documented command that removes a container of podman."""
    return documented("CELERIAC_CONFINEMENT_CONTAINER_STOP")


def _import_image(begin: tuple[str, ...]) -> None:
    """Make an image of a few programs of this machine, and what this Python loads."""
    found = subprocess.run([*begin, "image", "exists", IMAGE], check=False, timeout=60)
    if found.returncode == 0:
        return
    with tempfile.TemporaryDirectory(prefix="celeriac-image-") as name:
        tree = Path(name)
        for each in ("usr", "etc", "tmp", "proc", "dev", "sys", "var", "run"):
            (tree / each).mkdir()
        shutil.copy("/etc/passwd", tree / "etc")
        for each in _SYSTEM:
            if Path("/", each).is_symlink():
                (tree / "usr" / each).mkdir(parents=True)
                (tree / each).symlink_to(f"usr/{each}")
        for path in _loaded():
            copy = tree / path.relative_to("/")
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, copy)
        packed = subprocess.run(["tar", "-C", tree, "-c", "."], capture_output=True, check=True)
        subprocess.run(
            [*begin, "import", "-", IMAGE], input=packed.stdout, capture_output=True, check=True
        )


def _loaded() -> set[Path]:
    """Return the programs, and the libraries of the system that they and this Python load."""
    programs = {Path(found) for each in _PROGRAMS if (found := shutil.which(each))}
    python = Path(sys.executable).resolve()
    modules = (
        *Path(sys.base_prefix, "lib").glob("python3*/lib-dynload/*.so"),
        *packages().glob("*/*.so"),
    )
    listed = subprocess.run(
        ["ldd", *programs, python, *modules], capture_output=True, check=False, text=True
    )
    libraries = {Path(each) for each in re.findall(r"(/\S+) \(0x", listed.stdout)}
    shown = (Path(sys.base_prefix), packages())
    return programs | {each for each in libraries if not any(map(each.is_relative_to, shown))}


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
