"""`Client.from_env` finds the server that commands in the same directory find."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from celeriac.cli.core.server import find_server, key_file
from celeriac.client import Client, ClientError
from celeriac.embedded.endpoints import Endpoints, RunningStack, publish_stack
from celeriac.embedded.home import Home, holding_lock, write_private
from celeriac.kit.processes import identify

URL = "http://127.0.0.1:45678"


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("CELERIAC_API_URL", "CELERIAC_API_KEY", "CELERIAC_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Home]:
    """The home of the current directory, in which this very process runs the stack."""
    home = Home.open(tmp_path / ".celeriac")
    me = identify(os.getpid())
    assert me is not None
    endpoints = Endpoints(
        database_url="postgresql://d", redis_url="redis://r", broker_url="b", result_backend="c"
    )
    with holding_lock(home):
        publish_stack(home, RunningStack(endpoints=endpoints, supervisor=me, pids={}, api_url=URL))
        write_private(key_file(home), "cel_own_key\n")
        yield home


def asked(client: Client) -> tuple[str, str]:
    """Return the address and the key that a client uses."""
    with client:
        request = client._http.build_request("GET", "/")
        return client.base_url, request.headers["Authorization"].removeprefix("Bearer ")


def test_the_stack_of_the_current_directory_is_found_with_its_key(running: Home) -> None:
    assert asked(Client.from_env()) == (URL, "cel_own_key")
    server = find_server(None, None, None)
    assert (server.url, server.api_key) == (URL, "cel_own_key"), "as commands find it"


def test_another_home_is_named_by_the_environment_or_by_hand(
    running: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert asked(Client.from_env(home=running.root)) == (URL, "cel_own_key")
    monkeypatch.setenv("CELERIAC_HOME", str(running.root))
    assert asked(Client.from_env()) == (URL, "cel_own_key")


def test_the_environment_goes_before_the_home(
    running: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CELERIAC_API_KEY", "cel_given")
    assert asked(Client.from_env()) == (URL, "cel_given")
    monkeypatch.setenv("CELERIAC_API_URL", "http://other:1")
    assert asked(Client.from_env()) == ("http://other:1", "cel_given")


def test_the_home_s_key_is_sent_to_its_own_server_only(
    running: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CELERIAC_API_URL", f"{URL}/")
    assert asked(Client.from_env())[1] == "cel_own_key"
    monkeypatch.setenv("CELERIAC_API_URL", "http://other:1")
    with pytest.raises(ClientError, match="No API key for http://other:1") as caught:
        Client.from_env()
    assert caught.value.code == "no_api_key"
    assert "CELERIAC_API_KEY" in caught.value.message


def test_where_nothing_runs_it_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ClientError, match=r"no stack runs in .*/\.celeriac") as caught:
        Client.from_env()
    assert caught.value.code == "no_server"
    assert "celeriac up" in caught.value.message
    assert "CELERIAC_API_URL" in caught.value.message
    assert not (tmp_path / ".celeriac").exists(), "looking makes nothing"


def test_what_a_killed_stack_left_behind_counts_as_nothing(running: Home) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    stored = json.loads(running.stack_file.read_text())
    stored["supervisor"]["pid"] = ended.pid
    running.stack_file.write_text(json.dumps(stored))
    with pytest.raises(ClientError, match="no stack runs in"):
        Client.from_env()


@pytest.mark.parametrize("text", ["{", "[]", '{"supervisor": 1}', "null", '{"supervisor": {}}'])
def test_a_broken_connection_file_is_named(running: Home, text: str) -> None:
    running.stack_file.write_text(text)
    with pytest.raises(ClientError, match=r"stack\.json can't be understood") as caught:
        Client.from_env()
    assert caught.value.code == "no_server"


def test_a_key_that_is_not_there_is_named(running: Home) -> None:
    key_file(running).unlink()
    with pytest.raises(ClientError, match=f"No API key for {URL}"):
        Client.from_env()
