"""Users' plain tasks beside workers of ours that don't know them (A8 of the worker's side)."""

import json

import pytest
import redis
from sqlalchemy import text

from celeriac.domain.executions.states import Status
from tests.support import plain_tasks
from tests.support.broken_messages import envelope
from tests.support.celery_commands import library_user, run_python
from tests.support.fleet import Fleet
from tests.support.programs import REPOSITORY, Program
from tests.support.servers import ValkeyServer
from tests.support.waiting import wait_until

_SEND_MANY = """
import json
from celery import chain, group
from celeriac.celery import app
echo = lambda value: app.signature("plain.echo", args=[value], immutable=True)
alone = [app.send_task("plain.echo", args=[number]) for number in range(40)]
values = [result.get(timeout=60) for result in alone]
chained = chain(echo(1), echo(2), echo(3)).apply_async().get(timeout=60)
grouped = sorted(group(echo(number) for number in range(8)).apply_async().get(timeout=60))
print(json.dumps({"values": values, "chained": chained, "grouped": grouped}))
"""


def _own_worker(fleet: Fleet) -> Program:
    """Start a worker as README says, which knows the user's tasks."""
    program = fleet.program(
        "own", ["-m", "celery", "-A", "celeriac", "worker", "-I", plain_tasks.MODULE, "-c", "2",
                "-P", "threads", "-n", "own@fleet", "--loglevel=INFO"],
    )  # fmt: skip
    fleet.wait_ready(program)
    return program


def _waiting(valkey: ValkeyServer, queue: str) -> int:
    with redis.Redis.from_url(valkey.url(1)) as broker:
        return int(broker.llen(queue)) + int(broker.hlen("unacked"))


def test_each_is_run_by_the_worker_that_knows_it(fleet: Fleet) -> None:
    fleet.worker()
    _own_worker(fleet)
    assert library_user(fleet, _SEND_MANY) == {
        "values": list(range(40)),
        "chained": 3,
        "grouped": list(range(8)),
    }


def test_modules_that_a_variable_names_are_loaded(fleet: Fleet) -> None:
    fleet.worker(CELERIAC_CELERY_INCLUDE=plain_tasks.MODULE)
    sent = fleet.celery.send_task("plain.echo", args=[7])
    assert sent.get(timeout=60) == 7


def test_the_readme_on_plain_celery_works_beside_our_worker(fleet: Fleet) -> None:
    section = (REPOSITORY / "README.md").read_text().split("## Plain Celery")[1].split("\n## ")[0]
    program = section.split("```python\n")[1].split("```")[0]
    command = next(part for part in section.split("`") if " -I warehouse" in part)
    (fleet.home / "warehouse.py").write_text(
        "from pathlib import Path\n\nfrom celery import shared_task\n\n\n"
        "@shared_task\ndef restock(number):\n    Path('restocked').write_text(str(number))\n"
    )
    fleet.worker()
    fleet.program("warehouse", ["-m", *command.split()])
    run_python(fleet, "-c", program)
    stock = fleet.home / "restocked"
    wait_until(lambda: stock.exists() and stock.read_text() == "7", "the task has run")


def test_one_that_nobody_knows_waits_for_who_does(fleet: Fleet, valkey: ValkeyServer) -> None:
    """It is named in the worker's row, and what the worker knows is done meanwhile."""
    worker = fleet.worker()
    sent = fleet.celery.send_task("plain.echo", args=[7])
    wait_until(lambda: worker.logged("task.unknown"), "the worker has met it")
    query = text("SELECT unknown_tasks FROM workers")
    wait_until(lambda: fleet.scalar(query) == ["plain.echo"], "the worker's row names it")
    ages = fleet.scalar(text("SELECT unknown_tasks_ages FROM workers"))
    assert len(ages) == 1
    assert 0 <= ages[0] < 300
    task = fleet.task("noop")
    done = [fleet.submit(task) for _ in range(20)]
    fleet.wait_terminal(done)
    assert _waiting(valkey, "default") == 1, "the message is lost or was doubled"
    assert len(worker.logged("task.unknown")) == 1

    _own_worker(fleet)
    assert sent.get(timeout=60) == 7


def test_a_flood_of_them_costs_a_worker_little(fleet: Fleet, valkey: ValkeyServer) -> None:
    worker = fleet.worker()
    with redis.Redis.from_url(valkey.url(1)) as broker:
        for _ in range(500):
            broker.lpush("default", _unknown("default"))
        wait_until(lambda: worker.logged("task.unknown"), "the worker has met one")
        before = broker.info("commandstats")["cmdstat_lpush"]["calls"]
        task = fleet.task("noop")
        count = 50
        for _ in range(count):
            fleet.wait_status(fleet.submit(task), Status.COMPLETED)
        after = broker.info("commandstats")["cmdstat_lpush"]["calls"]
    assert after - before - count < 50, "it takes messages and puts them back all the time"
    assert _waiting(valkey, "default") == 500


def test_a_known_one_behind_many_of_them_is_reached_at_once(
    fleet: Fleet, valkey: ValkeyServer
) -> None:
    """Pauses for each message would add up to a minute after a dozen of them."""
    with redis.Redis.from_url(valkey.url(1)) as broker:
        for _ in range(200):
            broker.lpush("default", _unknown("default"))
    ids = [
        fleet.submit(fleet.task("noop", queue="default", priority=priority))
        for priority in ("normal", "low")
    ]
    sent = fleet.celery.send_task("plain.echo", args=[7])
    fleet.worker(options=("-I", plain_tasks.MODULE))
    for execution in ids:
        fleet.wait_status(execution, Status.COMPLETED, within=20)
    assert sent.get(timeout=20) == 7
    wait_until(lambda: _waiting(valkey, "default") == 200, "each unknown one is there once")


def test_one_behind_more_than_a_search_looks_at_is_reached(
    fleet: Fleet, valkey: ValkeyServer
) -> None:
    with redis.Redis.from_url(valkey.url(1)) as broker, broker.pipeline() as pipe:
        for _ in range(3_000):
            pipe.lpush("default", _unknown("default"))
        pipe.execute()
    execution = fleet.submit(fleet.task("noop", queue="default"))
    fleet.worker()
    fleet.wait_status(execution, Status.COMPLETED, within=20)
    wait_until(lambda: _waiting(valkey, "default") == 3_000, "each unknown one is there once")


@pytest.mark.parametrize("pool", ["threads", "prefork"])
def test_in_a_queue_of_ours_executions_go_on(fleet: Fleet, valkey: ValkeyServer, pool: str) -> None:
    """More of them than may be set aside: the rest is dropped, and counted."""
    worker = fleet.worker(pool=pool, slots=2)
    with redis.Redis.from_url(valkey.url(1)) as broker:
        for _ in range(130):
            broker.lpush("task_execution", _unknown("task_execution"))
    task = fleet.task("noop")
    fleet.wait_terminal([fleet.submit(task) for _ in range(20)])
    wait_until(lambda: len(worker.logged("message.dropped")) == 30, "what is too many is dropped")
    assert _waiting(valkey, "task_execution") == 100, "what is set aside is lost"
    fleet.wait_terminal([fleet.submit(task) for _ in range(20)])


def _unknown(queue: str) -> bytes:
    info = {"exchange": "", "routing_key": queue}
    properties = {"delivery_info": info, "priority": 0}
    return json.dumps(envelope(task="shop.unheard", properties=properties)).encode()
