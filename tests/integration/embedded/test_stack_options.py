"""What is given from outside is used, and only the rest is started."""

import io
import json
import os
import signal
import threading

import pytest
from rich.console import Console

from celeriac.embedded.endpoints import find_running_stack
from celeriac.embedded.errors import HomeUnusableError, ServerNotInstalledError
from celeriac.embedded.home import Home
from celeriac.embedded.output import Terminal
from celeriac.embedded.process import ProcessSpec
from celeriac.embedded.stack import Stack, StackOptions
from tests.support.waiting import wait_until

DATABASE = "postgresql://user:word@db.example/app"
REDIS = "redis://:word@cache.example:6380/0"


@pytest.fixture
def shown() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def terminal(shown: io.StringIO) -> Terminal:
    return Terminal(Console(file=shown))


def test_with_everything_given_nothing_is_started(home: Home, terminal: Terminal) -> None:
    options = StackOptions(
        home=home.root,
        database_url=DATABASE,
        redis_url=REDIS,
        broker_url="amqp://broker.example",
        result_backend="redis://results.example/5",
        model_base_url="http://models.example/v1",
    )
    with Stack(options, terminal) as stack:
        endpoints = stack.start()
        assert not stack.supervisor.processes
    assert endpoints.environment() == {
        "DATABASE_URL": DATABASE,
        "REDIS_URL": REDIS,
        "CELERY_BROKER_URL": "amqp://broker.example",
        "CELERY_RESULT_BACKEND": "redis://results.example/5",
        "CELERIAC_LOCAL_MODEL_URL": "http://models.example/v1",
    }
    assert not home.postgres.exists()
    assert not home.valkey.exists()


def test_broker_and_results_default_to_databases_of_the_given_redis(
    home: Home, terminal: Terminal
) -> None:
    options = StackOptions(
        home=home.root, database_url=DATABASE, redis_url=REDIS, local_model=False
    )
    with Stack(options, terminal) as stack:
        endpoints = stack.start()
    assert endpoints.broker_url == "redis://:word@cache.example:6380/1"
    assert endpoints.result_backend == "redis://:word@cache.example:6380/2"
    assert "CELERIAC_LOCAL_MODEL_URL" not in endpoints.environment()


def test_only_what_is_missing_is_started(home: Home, terminal: Terminal) -> None:
    options = StackOptions(home=home.root, database_url=DATABASE, local_model=False)
    with Stack(options, terminal) as stack:
        stack.start()
        assert [each.spec.name for each in stack.supervisor.processes] == ["valkey"]


def test_the_connection_file_carries_the_api_and_hides_passwords_from_logs(
    home: Home, terminal: Terminal
) -> None:
    options = StackOptions(
        home=home.root, database_url=DATABASE, redis_url=REDIS, local_model=False
    )
    with Stack(options, terminal) as stack:
        stack.publish(stack.start(), api_url="http://127.0.0.1:8321")
        found = find_running_stack(home)
        assert found is not None
        assert found.api_url == "http://127.0.0.1:8321"
        assert "word" not in repr(found)
        stored = home.stack_file.read_text()
        home.stack_file.write_text(json.dumps({"endpoints": {}}))
        with pytest.raises(HomeUnusableError, match="is malformed"):
            find_running_stack(home)
        home.stack_file.write_text(stored)
    assert find_running_stack(home) is None


def test_a_local_model_that_is_demanded_must_be_there(
    home: Home, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    given = {"home": home.root, "database_url": DATABASE, "redis_url": REDIS}
    demanding = StackOptions(**given, local_model=True)  # type: ignore[arg-type]
    with Stack(demanding, terminal) as stack, pytest.raises(ServerNotInstalledError):
        stack.start()
    with Stack(StackOptions(**given), terminal) as stack:  # type: ignore[arg-type]
        assert stack.start().model_base_url is None, "without a wish it is done without"


def test_one_more_ctrl_c_kills_what_is_still_stopping(
    home: Home, terminal: Terminal, shown: io.StringIO
) -> None:
    options = StackOptions(
        home=home.root, database_url=DATABASE, redis_url=REDIS, local_model=False
    )
    stubborn = ProcessSpec(
        name="worker",
        argv=("sh", "-c", "trap '' TERM; echo up; while :; do sleep 0.05; done"),
        env={"PATH": "/usr/bin:/bin"},
        ready=lambda: None if "up" in home.log_file("worker").read_text() else "not up",
        stop_grace=600,
    )

    def press_ctrl_c_twice() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        wait_until(lambda: "stopping worker" in shown.getvalue(), "it is stopping the worker")
        os.kill(os.getpid(), signal.SIGINT)

    person = threading.Thread(target=press_ctrl_c_twice)
    with Stack(options, terminal) as stack:
        stack.supervisor.start([stubborn])
        person.start()
        stack.supervisor.run()
    person.join()
    assert "killing worker" in shown.getvalue()
