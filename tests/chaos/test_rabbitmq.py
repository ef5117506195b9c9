"""RabbitMQ as the broker: quorum queues, confirmed messages, and a node that is killed."""

from collections.abc import Iterator

import amqp
import pytest

from celeriac.domain.executions.states import Status
from tests.support.command_line import CommandLine
from tests.support.fleet import UNHURRIED, Fleet, running_fleet
from tests.support.places import temporary_directory
from tests.support.rabbitmq import RabbitMQ, running_rabbitmq
from tests.support.servers import PostgresServer, ValkeyServer
from tests.support.waiting import wait_until

pytestmark = pytest.mark.requirement("F10")

QUEUE = "task_execution"
COUNT = 200


@pytest.fixture(scope="module")
def rabbitmq() -> Iterator[RabbitMQ]:
    with running_rabbitmq() as server:
        yield server


@pytest.fixture
def fleet(
    postgres_server: PostgresServer, migrated: str, valkey: ValkeyServer, rabbitmq: RabbitMQ
) -> Iterator[Fleet]:
    """A fleet whose broker is RabbitMQ; live events stay in Valkey."""
    database = postgres_server.fresh_database(migrated)
    with temporary_directory() as home:
        urls = {"database_url": postgres_server.url(database), "redis_url": valkey.url()}
        with running_fleet(home, **urls, broker_url=rabbitmq.url) as made:
            yield made
    postgres_server.drop_database(database)


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
    fleet.beat(**UNHURRIED)
    fleet.worker(slots=8, **UNHURRIED)
    task = fleet.task("nap")
    variables = {"seconds": 0.05, "diary": str(fleet.diary)}
    ids = list(fleet.batch(task, [variables] * COUNT))
    wait_until(lambda: fleet.ended(ids) > COUNT / 5, "the work is under way")
    rabbitmq.kill()
    accepted = fleet.submit(task, **variables)
    fleet.wait_status(accepted, Status.PENDING)
    rabbitmq.start()
    done = fleet.wait_terminal([*ids, accepted], within=90)
    assert {(each.status, each.attempt) for each in done} == {(Status.COMPLETED, 1)}
    assert len(fleet.diary_lines()) == COUNT + 1, "work was done twice"
