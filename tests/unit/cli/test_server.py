"""Which server a command talks to, and with which key."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from celeriac.cli.core.context import refused_key_cure
from celeriac.cli.core.output import CommandError, ExitCode
from celeriac.cli.core.server import find_server, key_file
from celeriac.client import ClientError
from celeriac.client.server import Server
from celeriac.embedded.endpoints import Endpoints, RunningStack, publish_stack
from celeriac.embedded.home import Home, holding_lock, write_private
from celeriac.kit.processes import identify

URL = "http://127.0.0.1:8321"


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home.open(tmp_path / "home")


@pytest.fixture
def running(home: Home) -> Iterator[Home]:
    """A home in which this very process runs the stack."""
    me = identify(os.getpid())
    assert me is not None
    endpoints = Endpoints(
        database_url="postgresql://d", redis_url="redis://r", broker_url="b", result_backend="c"
    )
    with holding_lock(home):
        publish_stack(home, RunningStack(endpoints=endpoints, supervisor=me, pids={}, api_url=URL))
        write_private(key_file(home), "cel_own_key\n")
        yield home


def test_the_running_stack_of_the_home_is_found_with_its_key(running: Home) -> None:
    assert find_server(running.root, None, None) == Server(URL, "cel_own_key")


def test_what_is_given_goes_before_what_is_found(running: Home) -> None:
    assert find_server(running.root, "http://other", "k") == Server("http://other", "k")
    assert find_server(running.root, None, "k") == Server(URL, "k")


def test_the_homes_key_is_given_to_its_own_server_only(running: Home) -> None:
    assert find_server(running.root, f"{URL}/", None).api_key == "cel_own_key"
    with pytest.raises(CommandError, match="No API key for http://other is known") as caught:
        find_server(running.root, "http://other", None)
    assert caught.value.exit_code is ExitCode.DENIED


def test_without_a_server_it_says_how_to_get_one(home: Home) -> None:
    with pytest.raises(CommandError, match="No server is known") as caught:
        find_server(home.root, None, "k")
    assert caught.value.exit_code is ExitCode.UNAVAILABLE
    assert "celeriac up" in caught.value.message


def test_keys_show_in_no_representation() -> None:
    assert "secret" not in repr(Server(URL, "secret"))


def test_a_refused_key_of_the_environment_is_named_where_it_hides_the_homes_own(
    running: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CELERIAC_API_KEY", "cel_of_an_earlier_home")
    refused = ClientError("The API key is unknown.", code="unauthenticated", status=401)
    gone = ClientError("There is no such task.", code="not_found", status=404)

    cure = refused_key_cure(refused, running.root, "cel_of_an_earlier_home")
    assert cure is not None
    assert "unset CELERIAC_API_KEY" in cure
    assert refused_key_cure(refused, running.root, "cel_given_as_an_option") is None
    assert refused_key_cure(gone, running.root, "cel_of_an_earlier_home") is None
    key_file(running).unlink()
    assert refused_key_cure(refused, running.root, "cel_of_an_earlier_home") is None
