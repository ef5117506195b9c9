"""Valkey keeps its data and its address, and is closed to others."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import pytest
import redis

from celeriac.embedded.errors import ServerFailedError
from celeriac.embedded.home import LOOPBACK, Home
from tests.support.servers import ValkeyServer
from tests.support.waiting import wait_until


@contextmanager
def serving(home: Home) -> Iterator[ValkeyServer]:
    server = ValkeyServer(home)
    try:
        server.start()
        yield server
    finally:
        server.kill()


def test_a_clean_stop_keeps_everything(home: Home) -> None:
    with serving(home) as server:
        with redis.Redis.from_url(server.url(1)) as client:
            client.rpush("queue", "message")
        server.stop()
        assert server.exit_code == 0
    with serving(home) as server, redis.Redis.from_url(server.url(1)) as client:
        assert client.lrange("queue", 0, -1) == [b"message"]


def test_a_kill_keeps_what_was_synced_and_the_address(home: Home) -> None:
    with serving(home) as server, redis.Redis.from_url(server.url(1)) as client:
        client.rpush("queue", "message")
        wait_until(lambda: client.info("persistence")["aof_buffer_length"] == 0, "it is written")
        server.kill()
        assert server.exit_code == -signal.SIGKILL
        server.start()
        assert client.lrange("queue", 0, -1) == [b"message"], "the client finds it where it was"


def test_it_listens_on_the_loopback_alone_and_wants_its_password(home: Home) -> None:
    with serving(home) as server:
        listening = {
            each.laddr.ip
            for each in psutil.Process(server.pid).net_connections(kind="tcp")
            if each.status == psutil.CONN_LISTEN
        }
        assert listening == {LOOPBACK}
        without = server.url(0).replace(f":{home.secret('valkey')}@", "")
        with (
            redis.Redis.from_url(without) as client,
            pytest.raises(redis.AuthenticationError),
        ):
            client.ping()


def test_no_command_line_shows_the_password(home: Home) -> None:
    with serving(home) as server:
        assert home.secret("valkey") not in " ".join(psutil.Process(server.pid).cmdline())
        mode = (home.valkey / "valkey.conf").stat().st_mode
        assert mode & 0o077 == 0


def test_a_damaged_append_only_file_fails_with_the_servers_own_words(home: Home) -> None:
    with serving(home) as server:
        with redis.Redis.from_url(server.url(1)) as client:
            client.set("key", "value")
        server.stop()
    (base,) = (home.valkey / "appendonlydir").glob("*.incr.aof")
    base.write_bytes(b"garbage\r\n" + base.read_bytes())
    server = ValkeyServer(home)
    with pytest.raises(ServerFailedError, match="Bad file format reading the append only file"):
        server.start()
    server.kill()
