"""The secret of an endpoint is rotated: requests have two signatures meanwhile."""

import time
from collections.abc import Iterator
from typing import Any

import pytest

from celeriac.db.webhooks import endpoints
from celeriac.domain.hooks.model import Verification
from celeriac.domain.hooks.signatures import SignatureError, verify
from tests.support.core import Core
from tests.support.ends import rows
from tests.support.webhooks import (
    KEYS,
    Got,
    Receiver,
    add_deliveries,
    add_endpoint,
    receiving,
    sending,
)

pytestmark = pytest.mark.requirement("F18")


@pytest.fixture(scope="module")
def server() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


@pytest.fixture
def receiver(server: Receiver) -> Receiver:
    server.got.clear()
    server.most.clear()
    server.status, server.text = 204, ""
    server.release.clear()
    return server


def _one(core: Core, columns: str = "*") -> Any:
    (row,) = rows(core, f"SELECT {columns} FROM deliveries")
    return row


def _pass(core: Core, seconds: float) -> None:
    """Let time pass for deliveries."""
    core.execute(
        "UPDATE deliveries SET available_at = available_at - make_interval(secs => :seconds),"
        " lease_until = lease_until - make_interval(secs => :seconds)",
        seconds=seconds,
    )


def test_two_secrets_sign_while_one_is_rotated(core: Core, receiver: Receiver) -> None:
    endpoint = add_endpoint(core, f"{receiver.url}/ok")
    other = add_endpoint(core, f"{receiver.url}/ok")
    one, two, three, four = secrets = [KEYS.secret(endpoint, number) for number in range(1, 5)]

    def signing() -> set[str]:
        receiver.got.clear()
        add_deliveries(core, endpoint, 1)
        with sending(core.database) as sender:
            assert sender.send_due() == 1
        (got,) = receiver.got
        return {secret for secret in secrets if _accepts(got, secret)}

    def rotate(hours: float) -> None:
        with core.database.transaction() as connection:
            endpoints.rotate(connection, endpoint, hours=hours)

    assert signing() == {one}
    rotate(1)
    assert signing() == {one, two}
    core.execute("UPDATE webhook_endpoints SET previous_until = now() - interval '1 second'")
    assert signing() == {two}
    rotate(1)
    rotate(1)
    assert signing() == {three, four}
    core.execute("UPDATE webhook_endpoints SET secret_number = 2 WHERE id = :id", id=endpoint)
    rotate(0)
    assert signing() == {three}, "one that has leaked"
    add_deliveries(core, other, 1)
    with sending(core.database) as sender:
        assert sender.send_due() == 1
    receiver.got[-1].verify(KEYS.secret(other))


def _accepts(got: Got, secret: str) -> bool:
    """Whether a receiver that knows only `secret` takes a request."""
    try:
        verify(Verification.STANDARD, [secret], got.headers, got.body, now=time.time())
    except SignatureError:
        return False
    return True
