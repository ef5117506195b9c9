"""Every command that deploy/ names, as it is named there: until it is healthy, then SIGTERM."""

import os
import shlex
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import redis

from celeriac.client import Client
from celeriac.embedded.home import reserve_port
from celeriac.kit.processes import launch
from tests.support import deployment
from tests.support.places import temporary_directory
from tests.support.programs import Program, scrubbed_environment
from tests.support.servers import PostgresServer, ValkeyServer
from tests.support.waiting import wait_until

pytestmark = pytest.mark.requirement("B14", "B8")

_API = ("celeriac", "api", "--workers", "2")
_WORKER = ("celeriac", "worker", "-n", "worker@%h")
_BEAT = ("celeriac", "beat")
_POD_COSTS = ("celeriac", "pod-costs", "--selector", "app=celeriac-worker")
"""Needs the API server of a cluster: tests/integration/test_scaler.py has one."""
_FLOWER = ("celery", "-A", "celeriac", "flower")
_SCHEMA = (
    ("celeriac", "db", "upgrade", "--phase", "pre"),
    ("celeriac", "db", "upgrade"),
    ("celeriac", "db", "upgrade", "--phase", "post"),
)
_SHOP = """
import asyncio
import celeriac


@celeriac.agent("greet")
async def greet(ctx: celeriac.AgentContext, name: str) -> str:
    return f"Hello {name}"


@celeriac.agent("wait")
async def wait(ctx: celeriac.AgentContext) -> None:
    await asyncio.sleep(3600)
"""


class Installation:
    """A place with the image's environment, the test's servers, and ports of its own."""

    def __init__(self, directory: Path, database_url: str, redis_url: str) -> None:
        self.directory = directory
        self.api_port, self.flower_port = reserve_port(), reserve_port()
        self.password = "ops:a password of tests"
        image = deployment.image_environment()
        del image["PATH"]
        self.environment = scrubbed_environment(
            directory,
            **{
                **image,
                "CELERIAC_HOME": str(directory / "home"),
                "DATABASE_URL": database_url,
                "REDIS_URL": redis_url,
                "CELERIAC_SECRET_KEY": "a key of tests alone: 0123456789abcdef",
                "CELERIAC_API_HOST": "127.0.0.1",  # in a test nothing listens elsewhere
                "CELERIAC_API_PORT": str(self.api_port),
                "CELERIAC_AGENT_MODULES": "shop",
                "CELERIAC_CELERY_WORKER_SOFT_SHUTDOWN_TIMEOUT": "1",
                "FLOWER_ADDRESS": "127.0.0.1",
                "FLOWER_PORT": str(self.flower_port),
                "FLOWER_BASIC_AUTH": self.password,
            },
        )
        self.programs: list[Program] = []

    def run(self, *command: str) -> str:
        """Run a command to its end, which must be a good one; return what it printed."""
        done = subprocess.run(
            [deployment.tool(command[0]), *command[1:]],
            cwd=self.directory,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def start(self, *command: str) -> Program:
        """Start a command in the background."""
        name = command[1] if command[0] == "celeriac" else command[-1]
        program = Program(
            name,
            [deployment.tool(command[0]), *command[1:]],
            self.environment,
            self.directory / f"{name}.txt",
        )
        self.programs.append(program)
        return program

    def healthy(self, check: list[str]) -> bool:
        """Whether a health check of the image or of compose passes, with the ports of the test."""
        kind, *words = check
        assert kind in {"CMD", "CMD-SHELL"}
        text = [
            word.replace("8321", str(self.api_port)).replace("5555", str(self.flower_port))
            for word in words
        ]
        command = ["/bin/sh", "-c", text[0].replace("$$", "$")] if kind == "CMD-SHELL" else text
        if command[0] == "python":
            command[0] = deployment.tool("python")
        done = subprocess.run(
            command,
            cwd=self.directory,
            env=self.environment,
            capture_output=True,
            timeout=60,
            check=False,
        )
        return done.returncode == 0


@pytest.fixture
def installation(
    postgres_server: PostgresServer, valkey_server: ValkeyServer
) -> Iterator[Installation]:
    """An empty database and a home."""
    name = postgres_server.fresh_database()
    with temporary_directory() as directory:
        (directory / "shop.py").write_text(_SHOP)
        made = Installation(directory, postgres_server.url(name), valkey_server.url())
        made.environment["PYTHONPATH"] += os.pathsep + str(directory)
        try:
            yield made
        finally:
            for program in made.programs:
                program.close()
    postgres_server.drop_database(name)


def test_the_commands_are_these() -> None:
    """The test below runs all of them, but for the one of the cluster."""
    assert set(deployment.commands()) == {_API, _WORKER, _BEAT, _FLOWER, _POD_COSTS, *_SCHEMA}


def test_all_programs_start_work_and_end(installation: Installation) -> None:
    for command in _SCHEMA:
        installation.run(*command)
    key = installation.run("celeriac", "db", "admin-key").strip()
    api, worker, beat, flower = (
        installation.start(*each) for each in (_API, _WORKER, _BEAT, _FLOWER)
    )

    def alive() -> None:
        for program in installation.programs:
            assert program.exit_code is None, f"{program.name} has ended:\n{program.output()}"

    def checked(check: list[str], name: str) -> None:
        def passes() -> bool:
            alive()
            return installation.healthy(check)

        wait_until(passes, f"{name} is healthy", within=90)

    services = deployment.services()
    probe = deployment.image()["HEALTHCHECK"]
    checked(["CMD", *probe.words()], "api")
    checked(services["worker"]["healthcheck"]["test"], "worker")
    checked(services["flower"]["healthcheck"]["test"], "flower")
    address = f"http://127.0.0.1:{installation.api_port}"
    [pod] = dict(deployment.pods())["celeriac-api"]["containers"]
    for name in ("startupProbe", "livenessProbe", "readinessProbe"):
        path = pod[name]["httpGet"]["path"]
        assert httpx.get(f"{address}{path}", trust_env=False, timeout=60).status_code == 200

    with Client(address, key) as client:
        installation.environment |= {"CELERIAC_API_URL": address, "CELERIAC_API_KEY": key}
        installation.run("celeriac", "apply", "--module", "shop")
        # delayed: beat alone makes it due
        accepted = client.executions.execute("greet", {"name": "Ada"}, delay_seconds=0.5)
        done = client.executions.wait(accepted.execution_id, timeout=60)
        assert done.result == "Hello Ada"
        held = client.executions.execute("wait").execution_id
        wait_until(lambda: client.executions.get(held).status == "running", "the long one runs")
        worker.terminate()
        assert worker.wait_end(within=45) == 0, worker.output()
        handed = client.executions.get(held)
        assert handed.status in {"pending", "queued"}  # for another worker
        assert handed.error_code is None
    for program in (beat, flower, api):
        program.terminate()
        assert program.wait_end(within=30) == 0, f"{program.name}: {program.output()}"


def test_the_worker_of_a_container_has_the_name_of_its_check() -> None:
    """`%h` of the worker's name is what `hostname` prints in its health check."""
    [check] = deployment.services()["worker"]["healthcheck"]["test"][1:]
    words = shlex.split(check)
    assert words[words.index("--destination") + 1] == "worker@$$(hostname)"
    printed = subprocess.run(["hostname"], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == socket.gethostname()


def test_the_valkey_of_compose_keeps_what_it_has(valkey_server: ValkeyServer) -> None:
    """Its configuration, on standard input, asks for the password and writes a file."""
    [shell, option, script] = deployment.services()["valkey"]["command"]
    with temporary_directory() as directory:
        (directory / "valkey_password").write_text("a-password-of-tests")
        port, program = reserve_port(), valkey_server.program
        script = script.replace("$$", "$").replace("/run/secrets", str(directory))
        script = script.replace("dir /data", f"dir {directory}")
        script = script.replace("END\nd", f"END\nport {port}\nbind 127.0.0.1\nd")
        script = script.replace("exec valkey-server", f"exec {program}")
        with (directory / "log").open("wb") as log:
            server = launch([shell, option, script], cwd=directory, stdout=log, stderr=log)
        try:
            with redis.Redis(
                port=port, password="a-password-of-tests", decode_responses=True
            ) as client:
                wait_until(lambda: _answers(client), "it serves", within=30)
                assert client.config_get("appendonly") == {"appendonly": "yes"}
                assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
            with redis.Redis(port=port) as stranger, pytest.raises(redis.AuthenticationError):
                stranger.ping()
        finally:
            server.terminate()
            assert server.wait(30) == 0, (directory / "log").read_text()
        assert (directory / "appendonlydir").is_dir()


def _answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False
