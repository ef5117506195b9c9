"""A small container engine for tests: `run OPTIONS COMMAND` and `rm NAME`, made of bubblewrap.

What an option of a real engine forbids is allowed without the option. Each container has a file in
`ENGINE_STATE`, by its name, until it ends in order or is removed.
"""

import argparse
import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib64")


def run(given: argparse.Namespace) -> int:
    """Run a container to its end; return its exit code."""
    state = Path(given.state) / given.name
    become = {}
    if given.user:
        user, _, group = given.user.partition(":")
        become = {"user": int(user), "group": int(group), "extra_groups": ()}
    process = subprocess.Popen([*_line(given), *given.command], **become)  # type: ignore[call-overload]
    state.write_text(str(process.pid))
    code = int(process.wait())
    state.unlink(missing_ok=True)
    return code if code >= 0 else 128 - code


def _line(given: argparse.Namespace) -> list[str]:
    line = ["bwrap", "--unshare-user", "--unshare-ipc", "--proc", "/proc", "--dev", "/dev"]
    for is_given, *options in (
        (not given.host_pids, "--unshare-pid", "--as-pid-1"),
        (given.network == "none", "--unshare-net"),
        (given.no_userns, "--disable-userns"),
        (not given.cap_drop, "--cap-add", "ALL"),
        (given.shm_size, "--size", given.shm_size, "--tmpfs", "/dev/shm"),
        (given.read_only, "--remount-ro", "/dev"),
    ):
        line += options if is_given else ()
    for path in map(Path, _SYSTEM):
        if path.is_symlink():
            line += ["--symlink", str(path.readlink()), str(path)]
        elif path.is_dir():
            line += ["--ro-bind", str(path), str(path)]
    volumes = [volume.split(":") for volume in given.volume]
    mounts = [(target, source, mode) for source, target, *mode in volumes]
    sizes = dict(each.split(":size=") for each in given.tmpfs)
    mounts += [(each, "", ["tmpfs"]) for each in sizes]
    for target, source, mode in sorted(mounts):
        if mode == ["tmpfs"]:
            line += ["--size", sizes[target], "--tmpfs", target]
        else:
            line += ["--ro-bind" if mode == ["ro"] else "--bind", source, target]
    if given.read_only:
        line += ["--remount-ro", "/"]
    return [*line, "--chdir", given.workdir, "--"]


def remove(state: Path, name: str) -> int:
    """End a container, if it is there."""
    path = state / name
    if path.exists():
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(path.read_text()), signal.SIGKILL)
        path.unlink()
    with (state / "removed").open("a") as file:
        file.write(f"{name}\n")
    return 0


def main() -> int:
    """Run a command of this engine."""
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(dest="verb", required=True)
    runs = commands.add_parser("run")
    for name in (
        "--state",
        "--name",
        "--user",
        "--workdir",
        "--network",
        "--cap-drop",
        "--shm-size",
    ):
        runs.add_argument(name, default="")
    for name in ("--volume", "--tmpfs"):
        runs.add_argument(name, action="append", default=[])
    for name in ("--read-only", "--host-pids", "--no-userns"):
        runs.add_argument(name, action="store_true")
    runs.add_argument("command", nargs=argparse.REMAINDER)
    removes = commands.add_parser("rm")
    removes.add_argument("--state")
    removes.add_argument("name")
    given = parser.parse_args()
    return run(given) if given.verb == "run" else remove(Path(given.state), given.name)


if __name__ == "__main__":
    sys.exit(main())
