"""What the attempts of `tests.support.escapes` are after, and whether one has got it."""

import ctypes
import json
import os
import secrets
import shlex
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from celeriac.agents.child.confinement import Confinement
from celeriac.agents.network.rules import NetworkBounds
from celeriac.domain.confinement import AgentConfinement
from celeriac.domain.environment import EnvironmentRule
from celeriac.domain.executions.events import EventType
from celeriac.kit import seccomp
from celeriac.kit.outbound import OutboundGuard
from celeriac.kit.sandbox import Sandbox
from celeriac.kit.users import ChildUser
from celeriac.services.ports import Job
from tests.support.places import temporary_directory
from tests.support.programs import REPOSITORY
from tests.support.run_context import RecordingContext
from tests.support.sandboxes import FILE_MB, PROCESSES, TMP_MB, confined_user, sandbox_for

PROGRAM = REPOSITORY / "tests" / "support" / "escapes"
LEAST_ATTEMPTS = 500
RESULTS = "results-of-attempts.json"
SERVICES = ("PostgreSQL", "Valkey", "the API", "the models of another attempt")
NAME = "api.example.com"

NAMES = {
    NAME: "127.0.0.1",
    "inside.example.com": "10.0.0.8",
    "metadata.example.com": "169.254.169.254",
    "metadata.google.internal": "169.254.169.254",
    "127.0.0.1.nip.io": "127.0.0.1",
    "localtest.me": "127.0.0.1",
}
"""The only names of others that the worker resolves."""


_OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Server:
    """Accepts connections and keeps what is sent; answers as a lenient server of HTTP, or echoes.

    `echoes` says that it sends back what it gets.
    """

    def __init__(self, family: int, address: object, *, echoes: bool = False) -> None:
        self._echoes = echoes
        self.received: list[bytes] = []
        self._socket = socket.socket(family)
        self._socket.bind(address)  # type: ignore[arg-type]
        self._socket.listen()
        self.address = self._socket.getsockname()
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def port(self) -> int:
        """Its port."""
        return int(self.address[1])

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        place = len(self.received)
        self.received.append(b"")
        with connection:
            connection.settimeout(5)
            try:
                while chunk := connection.recv(65_536):
                    self.received[place] += chunk
                    connection.sendall(chunk if self._echoes else _OK)
            except OSError:
                return

    def close(self) -> None:
        """Accept no more."""
        self._socket.close()


@dataclass
class Outside:
    """A machine with a worker, seen from the outside. `home` belongs to the worker."""

    base: Path
    home: Path
    user: ChildUser
    sandbox: Sandbox
    servers: dict[str, Server]
    allowed: Server
    datagrams: socket.socket
    sibling: subprocess.Popen[bytes]
    mark: str
    files: Mapping[str, Path]
    before: Mapping[Path, bytes] = field(default_factory=dict)

    @property
    def workdir(self) -> Path:
        """The working directory of a confined agent."""
        return self.home / "work" / "mine"

    @property
    def caught(self) -> Path:
        """A file that is there once something of the agent has run outside."""
        return self.base / "caught" / "mark"

    @property
    def network(self) -> tuple[str, ...]:
        """The hosts that agents name, most of which the worker refuses by their addresses."""
        ports = self.servers["a server"].port
        inside = ("inside.example.com:443", "metadata.example.com:80", "*.internal:80")
        return (f"{NAME}:{self.allowed.port}", f"*:{ports}", *inside)

    def confinement(self, environment: Mapping[str, str]) -> Confinement:
        """Return the bounds of agents."""
        guard = OutboundGuard.of(allow_private=False, allowed=[NAME])
        bounds = NetworkBounds(hosts=None, guard=guard)
        rule = EnvironmentRule()
        return Confinement(environment, rule, self.user, self.sandbox, bounds)

    def job(self, job: Job) -> Job:
        """Return `job` with an agent that names the hosts."""
        asked = AgentConfinement(network=self.network)
        return replace(job, agent=job.agent.model_copy(update={"confinement": asked}))

    def targets(
        self, *shown: Path, memory_mb: int | None, only: Sequence[str] = ()
    ) -> dict[str, Any]:
        """Return the variables of the attempts; `shown` are places that they may see and write."""
        named = {name: str(path) for name, path in self.files.items()}
        reads = [*map(str, self.sandbox.reads), *map(str, shown or (self.workdir,))]
        return {
            **named,
            "worker": os.getpid(), "sibling": self.sibling.pid, "mark": self.mark,
            "port": self.servers["a server"].port, "port_6": self.servers["IPv6"].port,
            "services": {each: self.servers[each].port for each in SERVICES},
            "udp": self.datagrams.getsockname()[1],
            "abstract": self.servers["abstract"].address[1:].decode(),
            "socket": self.servers["path"].address,
            "address": own_address(), "host": socket.gethostname(),
            "allowed": f"{NAME}:{self.allowed.port}", "smuggled": f"x{self.mark}",
            "caught": str(self.caught), "numbers": seccomp.numbers(os.uname().machine),
            "tmp_mb": TMP_MB, "file_mb": FILE_MB, "processes": PROCESSES, "memory_mb": memory_mb,
            "shown": reads, "writes": [str(each) for each in shown], "only": list(only),
        }  # fmt: skip

    def command(self, *shown: Path, memory_mb: int | None) -> str:
        """Return a line of the shell that makes the attempts, and leaves their results."""
        targets = json.dumps(self.targets(*shown, memory_mb=memory_mb))
        return shlex.join([sys.executable, "-P", str(PROGRAM), targets, RESULTS])

    def served(self, memory_mb: int | None) -> str:
        """Return a script that makes the attempts, and then serves tools by MCP."""
        server = shlex.join([sys.executable, "-P", "-m", "tests.support.mcp_tools"])
        return f"#!/bin/sh\n{self.command(memory_mb=memory_mb)}\nexec {server}\n"

    def check(self, results: Mapping[str, str], context: RecordingContext) -> None:
        """Check that nothing was got: by what was said inside, and by what is seen outside."""
        assert len(results) >= LEAST_ATTEMPTS
        got = {name: text for name, text in results.items() if not text.startswith("refused: ")}
        assert not got, "\n".join(f"{name}: {text[:500]}" for name, text in got.items())
        self.check_outside()
        refused = [data for kind, data in context.events if kind is EventType.NETWORK_REFUSED]
        (used,) = [data for kind, data in context.events if kind is EventType.NETWORK_USED]
        reported = {
            (each["host"], each["port"], each["rule"]) for each in (*refused, *used["refused"])
        }
        port, mine = self.servers["a server"].port, self.allowed.port
        assert reported >= {
            ("127.0.0.1", port, "not_allowed"),
            ("localhost", port, "private_address"),
            ("127.0.0.1.nip.io", port, "private_address"),
            ("169.254.169.254", 80, "not_allowed"),
            ("metadata.example.com", 80, "private_address"),
            ("inside.example.com", 443, "private_address"),
            ("evil.example.com", 80, "not_allowed"),
            (NAME, mine, "tls_name"),
            (NAME, mine, "plain_http"),
            *((NAME, self.servers[each].port, "not_allowed") for each in SERVICES),
        }
        assert {each["host"] for each in used["reached"]} == {NAME}

    def check_outside(self) -> None:
        """Check that files, servers and processes are as they were."""
        assert {name: each.received for name, each in self.servers.items() if each.received} == {}
        self.datagrams.setblocking(False)
        with pytest.raises(BlockingIOError):
            self.datagrams.recv(1)
        assert self.allowed.received, "the host that is allowed was reached"
        arrived = b"\n".join(self.allowed.received)
        assert self.mark.encode() not in arrived, arrived[:2_000]
        assert self.content() == self.before
        assert self.sibling.poll() is None
        assert os.getpriority(os.PRIO_PROCESS, self.sibling.pid) == 0
        assert not self.caught.exists()

    def content(self) -> dict[Path, bytes]:
        """Return all files but those of the confined agent."""
        files = [path for path in self.home.rglob("*") if path.is_file() and not path.is_symlink()]
        files += [path for name, path in self.files.items() if name in {"temporary", "shared"}]
        ours = (self.home / "work" / "mine", self.home / "sessions")
        return {each: each.read_bytes() for each in files
                if not any(each.is_relative_to(one) for one in ours)}  # fmt: skip


def results_in(workdir: Path) -> dict[str, str]:
    """Return the results that the attempts have left."""
    results: dict[str, str] = json.loads((workdir / RESULTS).read_text())
    return results


def own_address() -> str:
    """Return the machine's address, or its loopback if it has no other."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return "127.0.0.2"
        return str(probe.getsockname()[0])


@contextmanager
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Outside]:
    """Give the block a machine to attack."""
    with ExitStack() as stack:
        base = stack.enter_context(temporary_directory())
        shared = stack.enter_context(tempfile.NamedTemporaryFile(dir="/dev/shm"))
        temporary = stack.enter_context(tempfile.NamedTemporaryFile(dir="/tmp"))
        mark, user = f"m{secrets.token_hex(6)}", confined_user()
        home = base / "home"
        files = {
            "secret": home / "secrets" / "postgres",
            "other": home / "work" / "other" / "notes",
            "archive": home / "objects" / "sessions" / "other.tar.zst",
            "object": home / "objects" / "results" / "1",
            "log": home / "logs" / "worker.log",
            "temporary": Path(temporary.name),
            "shared": Path(shared.name),
        }
        for name, path in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{name} {mark}")
        (base / "caught").mkdir()
        # what a user could read and write is out of reach all the same
        for path in (base, *base.rglob("*"), *files.values()):
            path.chmod(0o777 if path.is_dir() else 0o666)
        servers = {
            "a server": Server(socket.AF_INET, ("0.0.0.0", 0)),
            "IPv6": Server(socket.AF_INET6, ("::1", 0)),
            "abstract": Server(socket.AF_UNIX, f"\0celeriac-test-{mark}"),
            "path": Server(socket.AF_UNIX, str(base / "socket")),
            **{each: Server(socket.AF_INET, ("127.0.0.1", 0)) for each in SERVICES},
        }
        (base / "socket").chmod(0o777)
        allowed = Server(socket.AF_INET, ("127.0.0.1", 0))
        for each in (*servers.values(), allowed):
            stack.callback(each.close)
        datagrams = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        datagrams.bind(("0.0.0.0", 0))
        sibling = stack.enter_context(_sibling(user, mark))
        keep_key()
        monkeypatch.setattr(socket, "getaddrinfo", _resolver(socket.getaddrinfo))
        found = Outside(
            base, home, user, sandbox_for(home), servers, allowed, datagrams, sibling, mark, files
        )
        yield replace(found, before=found.content())


def keep_key() -> None:
    """Put a key into the session keyring of this process, where there are keyrings."""
    keyctl, add_key = {"x86_64": (250, 248), "aarch64": (219, 217)}[os.uname().machine]
    libc = ctypes.CDLL(None)
    join, session = 1, -3
    if libc.syscall(keyctl, join, None) < 0:
        return  # a container without keys
    assert libc.syscall(add_key, b"user", b"celeriac-test", b"s3cret", 6, session) > 0


@contextmanager
def _sibling(user: ChildUser, mark: str) -> Iterator[subprocess.Popen[bytes]]:
    """Give the block a process of the agents' user, with a secret in its environment."""
    ids = user.ids
    with subprocess.Popen(
        ["/bin/sh", "-c", "read line", f"{mark}-arg"],
        stdin=subprocess.PIPE,
        env={"TOKEN": f"{mark}-env"},
        cwd="/",
        user=None if ids is None else ids.user,
        group=None if ids is None else ids.group,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def _resolver(real: Any) -> Any:
    """Return a resolver of the names here, of addresses, and of the machine's own names."""

    def look_up(host: Any, port: Any, *others: Any, **options: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else host
        if name in NAMES:
            return real(NAMES[name], port, *others, **options)
        own = {None, "", "localhost", socket.gethostname()}
        if name in own or not any(each.isalpha() for each in name) or ":" in name:
            return real(host, port, *others, **options)
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    return look_up
