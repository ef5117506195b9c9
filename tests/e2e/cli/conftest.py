"""One running system for the tests that only use it."""

import json
from collections.abc import Iterator

import pytest

from celeriac.client import Client
from tests.support.command_line import CommandLine, RunningUp, running_up
from tests.support.crew_scenes import CREW_SCENES
from tests.support.crews import VENV as CREWAI
from tests.support.local_model import IS_INSTALLED, running_local_model
from tests.support.model_scenes import KEY, SCENES
from tests.support.model_server import ModelServer
from tests.support.places import temporary_directory

AGENTS = "tests.support.fleet_agents"


@pytest.fixture(scope="package")
def scripted() -> Iterator[ModelServer]:
    """The model provider `scripted` of the system."""
    with ModelServer({**SCENES, **CREW_SCENES}).running() as server:
        yield server


@pytest.fixture(scope="package")
def local_model_url() -> Iterator[str | None]:
    """The address of the small real model; None where its package isn't installed."""
    if not IS_INSTALLED:
        yield None
        return
    with running_local_model() as model:
        yield model.base_url


@pytest.fixture(scope="package")
def commands(scripted: ModelServer, local_model_url: str | None) -> Iterator[CommandLine]:
    """A command line whose home runs the system `up`."""
    providers = {"scripted": {"base_url": scripted.base_url, "api_key": KEY}}
    if local_model_url:
        providers["local"] = {"base_url": local_model_url, "api_key": "none"}
    with temporary_directory() as directory:
        yield CommandLine(
            directory,
            CELERIAC_AGENT_MODULES=f'["{AGENTS}", "applied_shop"]',
            CELERIAC_CREWAI_VENV=str(CREWAI.root),
            CELERIAC_PROVIDERS=json.dumps(providers),
        )


@pytest.fixture(scope="package")
def up(commands: CommandLine) -> Iterator[RunningUp]:
    """The system, with tasks of functions: `noop`, `nap`, `refuse`, `hold`, `form`."""
    with running_up(commands) as running:
        for name in ("noop", "nap", "refuse", "hold", "form"):
            running.add_function(name, AGENTS)
        yield running


@pytest.fixture(scope="package")
def client(up: RunningUp) -> Iterator[Client]:
    """The administrator's client, to prepare and to look at what a command is about.

    A command costs a second of imports: run those that the test is about.
    """
    with up.client() as made:
        yield made
