"""The containers of a worker's agents, tried before the worker takes any work."""

import contextlib
import json
import os
import socket
import subprocess
import tempfile
from dataclasses import fields
from pathlib import Path
from uuid import uuid4

from celeriac.agents.child.process import received_listeners
from celeriac.kit import container_entry, container_probe, seccomp
from celeriac.kit.containers import ContainerSandbox, Engine
from celeriac.kit.processes import UserIds, guarded_command
from celeriac.kit.sandbox import Sandbox, WholeLimits
from celeriac.kit.users import ChildUser
from celeriac.settings import Settings

COMMAND = "CELERIAC_CONFINEMENT_CONTAINER_COMMAND"
_SHOWN_CHARACTERS = 600
_ENVIRONMENT = {"PATH": os.defpath}
_RUN_SECONDS = 30.0


class RefusedError(Exception):
    """Why agents can't be confined, with the cure."""


def checked_container(
    settings: Settings, common: Sandbox, user: ChildUser, workdir: Path
) -> ContainerSandbox:
    """Return the sandbox of the settings, after a program of `user` has run in it, in `workdir`.

    `common` is the sandbox of bubblewrap with the same paths and limits. Containers of workers that
    were killed are removed. Raises RefusedError.
    """
    asked = settings.confinement
    if not asked.container_command:
        raise RefusedError(f"{COMMAND} is not set: it is the command that starts a container")
    if asked.network == "host":
        raise RefusedError("CELERIAC_CONFINEMENT_NETWORK=host can't be combined with containers")
    if common.whole != WholeLimits():
        raise RefusedError(
            "CELERIAC_CONFINEMENT_MEMORY_MB, _DISK_MB and _FILES can't be measured in containers. "
            "Leave them out, and limit memory with options of the engine"
        )
    engine = Engine(
        start=asked.container_command,
        stop=asked.container_stop,
        image=asked.container_image,
        python=asked.container_python,
        seconds=asked.container_start_seconds,
        root=settings.home.absolute() / "containers",
    )
    ids = user.ids or UserIds(os.geteuid(), os.getegid())
    shared = {each.name: getattr(common, each.name) for each in fields(Sandbox)}
    sandbox = ContainerSandbox(**shared, engine=engine, inside=ids)
    engine.remove_left()
    _try(sandbox, workdir)
    return sandbox


def _try(sandbox: ContainerSandbox, workdir: Path) -> None:
    named = sandbox.named()
    try:
        with (
            tempfile.NamedTemporaryFile(prefix="celeriac-probe-") as file,
            socket.create_server(("", 0)) as outside,
            socket.socket(socket.AF_UNIX) as abstract,
        ):
            name = f"celeriac-probe-{uuid4().hex}"
            abstract.bind(f"\0{name}")
            abstract.listen()
            word, served = uuid4().hex, _free_port()
            facts = {
                "absent": [*(str(each / "secrets") for each in sandbox.hidden), file.name],
                "hidden": [[str(each), *_identity(each)] for each in sandbox.hidden],
                "tmp_bytes": sandbox.tmp_bytes,
                "read": [str(Path(container_entry.__file__).parent), *map(str, sandbox.reads)],
                "filtered": seccomp.program() is not None,
                "ids": [sandbox.inside.user, sandbox.inside.group],
                "environment": list(_ENVIRONMENT),
                "word": word,
                "addresses": _addresses(),
                "port": outside.getsockname()[1],
                "abstract": name,
                "served": served,
            }
            _look_around(named, workdir, facts, served)
    finally:
        named.clean()


def _look_around(
    sandbox: ContainerSandbox, workdir: Path, facts: dict[str, object], served: int
) -> None:
    """Run the probe in a container, on whose loopback the worker serves the port `served`."""
    inside = (sandbox.engine.python, "-I", "-S", container_probe.__file__, json.dumps(facts))
    ours, theirs = socket.socketpair()
    try:
        with ours, theirs:
            process = subprocess.Popen(
                guarded_command(
                    sandbox.command(inside, workdir=workdir),
                    namespace=sandbox.namespace(theirs.fileno(), (served,)),
                ),
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                env=_ENVIRONMENT, cwd=workdir, text=True, errors="replace",
                pass_fds=(theirs.fileno(),), start_new_session=True,
            )  # fmt: skip
            with process:
                theirs.close()
                listeners = received_listeners(ours, 1, sandbox.start_seconds)
                try:
                    said, complaint = process.communicate(timeout=_RUN_SECONDS)
                finally:
                    process.kill()
                    for each in listeners:
                        each.close()
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RefusedError(f"a container can't be started: {error}") from error
    *faults, last = said.splitlines() or [""]
    if last != container_probe.SOUND:
        words = complaint.strip()[-_SHOWN_CHARACTERS:] or f"it exited with {process.returncode}"
        raise RefusedError(f"the command of {COMMAND} makes no container: {words.rstrip('.')}")
    written = workdir / "probe"
    if not written.is_file() or written.read_text() != facts["word"]:
        faults.append("what it writes to its working directory does not arrive ({write})")
    if faults:
        raise RefusedError(
            f"a container of {COMMAND} does not confine them: {'; '.join(faults)}. Correct the "
            "command; docs/confinement.md has complete ones"
        )


def _identity(path: Path) -> tuple[int, ...]:
    """Return the device and the number of a directory; nothing of one that does not exist."""
    if not path.exists():
        return ()
    status = path.stat()
    return status.st_dev, status.st_ino


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def _addresses() -> list[str]:
    """Return addresses under which this machine answers."""
    found = ["127.0.0.1"]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, contextlib.suppress(OSError):
        probe.connect(("192.0.2.1", 9))
        found.append(str(probe.getsockname()[0]))
    return found
