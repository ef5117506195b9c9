"""What doctor says of versions of servers."""

import pytest

from celeriac.domain.doctor import BrokerServer, Level
from celeriac.services.doctor.servers import judge_rabbitmq


@pytest.mark.parametrize("version", ["3.11.28", "3.8.9", "2.0.0"])
def test_an_old_rabbitmq_has_a_cure(version: str) -> None:
    (finding,) = judge_rabbitmq(BrokerServer("RabbitMQ", version))
    assert finding.level is Level.WARNING
    assert version in finding.message
    assert "3.12" in str(finding.cure)


@pytest.mark.parametrize(
    ("product", "version"),
    [("RabbitMQ", "3.12.0"), ("RabbitMQ", "4.0.2"), ("LavinMQ", "2.0.1"), ("RabbitMQ", "None")],
)
def test_others_are_not_named(product: str, version: str) -> None:
    assert list(judge_rabbitmq(BrokerServer(product, version))) == []
