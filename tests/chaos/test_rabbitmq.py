"""RabbitMQ as the broker: quorum queues, confirmed messages, and a node that is killed."""

from collections.abc import Iterator

import amqp
import pytest

from celeriac.domain.executions.states import Status
from tests.support.command_line import CommandLine
from tests.support.fleet import UNHURRIED, Fleet, nap, naps_under_way
from tests.support.rabbitmq import RabbitMQ, running_rabbitmq
from tests.support.servers import ValkeyServer
from tests.support.waiting import wait_until

pytestmark = pytest.mark.requirement("F10")

QUEUE = "task_execution"
COUNT = 200
CONSUMER_TIMEOUT = 6.0
"""Seconds until RabbitMQ closes the channel of an unacknowledged message; longer than most wait."""


@pytest.fixture(scope="module")
def rabbitmq() -> Iterator[RabbitMQ]:
    with running_rabbitmq(consumer_timeout=CONSUMER_TIMEOUT) as server:
        yield server


@pytest.fixture
def servers(valkey: ValkeyServer, rabbitmq: RabbitMQ) -> dict[str, str]:
    """The broker is RabbitMQ; live events stay in Valkey."""
    return {"redis_url": valkey.url(), "broker_url": rabbitmq.url}


def test_messages_wait_in_quorum_queues_and_are_sent_again_if_purged(
    fleet: Fleet, rabbitmq: RabbitMQ
) -> None:
    note = fleet.task("note")
    ids = [fleet.submit(note, diary=str(fleet.diary)) for _ in range(5)]
    assert fleet.container.queue.depth(QUEUE) == 5
    assert fleet.container.queue.depth("nobody has made this") == 0
    with rabbitmq.connection() as connection:
        for arguments, wrong in (({}, "x-queue-type"), ({"x-queue-type": "quorum"}, "limit")):
            with pytest.raises(amqp.PreconditionFailed, match=wrong):
                connection.channel().queue_declare(
                    QUEUE, durable=True, auto_delete=False, arguments=arguments
                )

    environment = fleet.environment()
    commands = CommandLine(fleet.home, **environment)
    findings = commands.run("doctor", "--json").value["findings"]
    broker, *others = [each for each in findings if each["subject"] == "broker"]
    assert broker["level"] == "ok"
    assert f"{QUEUE} 5" in broker["message"]
    with rabbitmq.connection() as connection:
        version = connection.server_properties["version"]
    old = tuple(map(int, version.split(".")[:2])) < (3, 12)
    assert [each["level"] for each in others] == ["warning"] * old
    assert all(f"RabbitMQ {version}" in each["message"] for each in others)

    purged = fleet.program("purge", ["-m", "celery", "-A", "celeriac", "purge", "-f", "-Q", QUEUE])
    assert purged.wait_end() == 0, purged.output()
    assert fleet.container.queue.depth(QUEUE) == 0
    fleet.beat(**UNHURRIED)
    fleet.worker(slots=4, **UNHURRIED)
    done = fleet.wait_terminal(ids)
    assert {(each.status, each.attempt) for each in done} == {(Status.COMPLETED, 1)}


def test_killed_amid_the_work(fleet: Fleet, rabbitmq: RabbitMQ) -> None:
    ids = naps_under_way(fleet, COUNT)
    rabbitmq.kill()
    accepted = nap(fleet)
    fleet.wait_status(accepted, Status.PENDING)
    rabbitmq.start()
    done = fleet.wait_terminal([*ids, accepted], within=90)
    assert {(each.status, each.attempt) for each in done} == {(Status.COMPLETED, 1)}
    assert len(fleet.diary_lines()) == COUNT + 1, "work was done twice"


@pytest.mark.requirement("B2")
def test_runs_longer_than_the_consumer_timeout_run_once(fleet: Fleet, rabbitmq: RabbitMQ) -> None:
    """An agent with a slot of its own loses its worker the channel before RabbitMQ 3.12: ADR 38."""
    fleet.beat(**UNHURRIED)
    worker = fleet.worker(slots=2, **UNHURRIED)
    known = timed_out(rabbitmq)
    values = {"diary": str(fleet.diary), "seconds": 1.3 * CONSUMER_TIMEOUT}
    waits = fleet.submit(fleet.task("nap"), **values)
    assert fleet.wait_terminal([waits])[0].status is Status.COMPLETED
    assert timed_out(rabbitmq) == known, "what only waits has no unacknowledged message"
    with_slot = fleet.submit(fleet.task("plain_nap"), **values)
    done = fleet.wait_terminal([waits, with_slot])
    assert {(each.status, each.attempt, each.crash_count) for each in done} == {
        (Status.COMPLETED, 1, 0)
    }
    assert len(fleet.diary_lines()) == 2, "an attempt was made twice"
    if timed_out(rabbitmq) > known:
        wait_until(lambda: fleet.dropped(worker, with_slot), "the second delivery is thrown away")
    after = nap(fleet)
    assert fleet.wait_terminal([after])[0].status is Status.COMPLETED, "it consumes again"


def timed_out(rabbitmq: RabbitMQ) -> int:
    """How many channels RabbitMQ has closed because a message was not acknowledged in time."""
    return rabbitmq.log.read_text(errors="replace").count("delivery acknowledgement on channel")
