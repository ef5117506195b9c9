"""A node of RabbitMQ, as Debian packages it, with an epmd of its own, on the loopback."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import amqp

from celeriac.embedded.home import LOOPBACK, reserve_port
from celeriac.embedded.process import ManagedProcess, ProcessSpec
from celeriac.embedded.service_user import find_service_user, give_directory
from tests.support.places import temporary_directory
from tests.support.processes import start_and_wait
from tests.support.servers import RunningServer, packaged_program

_PACKAGE = "rabbitmq-server"
_START_SECONDS = 90.0
_TICK_MS = 500
"""How often a channel looks at its time-out; every minute if not set."""


class RabbitMQ(RunningServer):
    """A node that keeps its data and its address when it is started again."""

    def __init__(self, directory: Path, *, consumer_timeout: float) -> None:
        # not the packaged wrapper, which becomes another user and writes to its directories
        program = packaged_program("rabbitmq-server", _PACKAGE)
        user = find_service_user()
        self._port = reserve_port()
        epmd_port = str(reserve_port())
        environment = _environment(directory, epmd_port, self._port, consumer_timeout)
        (directory / "plugins").write_text("[].")
        (directory / "rabbitmq.conf").write_text(f"listeners.tcp.local = {LOOPBACK}:{self._port}\n")
        give_directory(directory, user)
        epmd = ProcessSpec(
            name="epmd",
            argv=(packaged_program("epmd", _PACKAGE), "-port", epmd_port, "-address", LOOPBACK),
            env=environment,
            cwd=directory,
            become=user,
        )
        self._epmd = ManagedProcess(epmd, directory.with_suffix(".epmd"))
        spec = ProcessSpec(
            name="rabbitmq",
            argv=(program,),
            env=environment,
            cwd=directory,
            become=user,
            ready=self._fault,
            ready_within=_START_SECONDS,
        )
        super().__init__(spec, directory.with_suffix(".log"))

    @property
    def url(self) -> str:
        """The URL of the broker."""
        return f"amqp://guest:guest@{LOOPBACK}:{self._port}//"

    def start(self) -> None:
        """Start the node, and before it the epmd that it registers with."""
        if self._epmd.pid is None:
            start_and_wait(self._epmd)
        super().start()

    def close(self) -> None:
        """End both."""
        self.kill()
        self._epmd.kill()

    def _fault(self) -> str | None:
        try:
            with self.connection():
                return None
        except (OSError, amqp.AMQPError) as error:
            return str(error) or type(error).__name__

    @contextmanager
    def connection(self) -> Iterator[amqp.Connection]:
        """Yield a connection that only this test uses."""
        with amqp.Connection(f"{LOOPBACK}:{self._port}", connect_timeout=2) as connection:
            yield connection


def _environment(
    directory: Path, epmd_port: str, port: int, consumer_timeout: float
) -> Mapping[str, str]:
    arguments = {
        "kernel inet_dist_use_interface": "{127,0,0,1}",
        "rabbit consumer_timeout": round(consumer_timeout * 1000),
        "rabbit channel_tick_interval": _TICK_MS,
    }
    return {
        "PATH": "/usr/bin:/bin",
        "LC_ALL": "C.UTF-8",
        "HOME": str(directory),
        "ERL_EPMD_PORT": epmd_port,
        "ERL_EPMD_ADDRESS": LOOPBACK,
        "RABBITMQ_CONF_ENV_FILE": "/dev/null",
        "RABBITMQ_CONFIG_FILE": str(directory / "rabbitmq"),
        "RABBITMQ_ADVANCED_CONFIG_FILE": str(directory / "advanced"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(directory / "plugins"),
        "RABBITMQ_NODENAME": f"test-{uuid4().hex}@localhost",
        "RABBITMQ_NODE_PORT": str(port),
        "RABBITMQ_NODE_IP_ADDRESS": LOOPBACK,
        "RABBITMQ_DIST_PORT": str(reserve_port()),
        "RABBITMQ_MNESIA_BASE": str(directory / "data"),
        "RABBITMQ_LOG_BASE": str(directory / "logs"),
        "RABBITMQ_LOGS": "-",
        "RABBITMQ_GENERATED_CONFIG_DIR": str(directory / "generated"),
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": " ".join(
            f"-{name} {value}" for name, value in arguments.items()
        ),
    }


@contextmanager
def running_rabbitmq(*, consumer_timeout: float) -> Iterator[RabbitMQ]:
    """Run a node in a temporary directory, and remove both at the end.

    It closes a channel whose message is not acknowledged within `consumer_timeout` seconds.
    """
    with temporary_directory() as directory:
        place = directory / "rabbitmq"
        place.mkdir()
        server = RabbitMQ(place, consumer_timeout=consumer_timeout)
        try:
            server.start()
            yield server
        finally:
            server.close()
