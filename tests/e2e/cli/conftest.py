"""One running system for the tests that only use it."""

import json
from collections.abc import Iterator

import pytest

from tests.support.command_line import CommandLine, RunningUp, running_up
from tests.support.model_scenes import KEY, SCENES
from tests.support.model_server import ModelServer
from tests.support.places import temporary_directory

AGENTS = "tests.support.fleet_agents"


@pytest.fixture(scope="package")
def scripted() -> Iterator[ModelServer]:
    """The model provider `scripted` of the system."""
    with ModelServer(SCENES).running() as server:
        yield server


@pytest.fixture(scope="package")
def commands(scripted: ModelServer) -> Iterator[CommandLine]:
    """A command line whose home runs the system `up`."""
    provider = {"base_url": scripted.base_url, "api_key": KEY}
    with temporary_directory() as directory:
        yield CommandLine(
            directory,
            CELERIAC_AGENT_MODULES=f'["{AGENTS}"]',
            CELERIAC_PROVIDERS=json.dumps({"scripted": provider}),
        )


@pytest.fixture(scope="package")
def up(commands: CommandLine) -> Iterator[RunningUp]:
    """The system, with tasks of functions: `noop`, `nap`, `refuse`, `hold`."""
    with running_up(commands) as running:
        for name in ("noop", "nap", "refuse", "hold"):
            commands.ask("agents", "create", name, "--function", f"{AGENTS}:{name}")
            commands.ask("tasks", "create", name, "--agent", name)
        yield running
