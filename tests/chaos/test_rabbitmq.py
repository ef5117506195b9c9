"""RabbitMQ as the broker: quorum queues, confirmed messages, and a node that is killed."""

from collections.abc import Iterator

import amqp
import pytest

from celeriac.domain.executions.states import Status
from tests.support.command_line import CommandLine
from tests.support.fleet import UNHURRIED, Fleet, nap, naps_under_way
from tests.support.rabbitmq import RabbitMQ, running_rabbitmq
from tests.support.servers import ValkeyServer

pytestmark = pytest.mark.requirement("F10")

QUEUE = "task_execution"
COUNT = 200


@pytest.fixture(scope="module")
def rabbitmq() -> Iterator[RabbitMQ]:
    with running_rabbitmq() as server:
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
    broker = next(each for each in findings if each["subject"] == "broker")
    assert broker["level"] == "ok"
    assert f"{QUEUE} 5" in broker["message"]

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
