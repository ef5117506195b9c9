"""Notifications of questions to a real webhook: signed, guarded, sent again, given up."""

import hashlib
import hmac
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import pytest
from sqlalchemy import text
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route
from structlog.testing import capture_logs

from celeriac.adapters.webhook import DELIVERY, SIGNATURE, Webhook
from celeriac.kit.outbound import OutboundGuard
from celeriac.services.approvals.answer import ApprovalLinks
from celeriac.services.approvals.notify import Notifications
from tests.support.asking import Asking, a_question
from tests.support.core import Core
from tests.support.http_server import serving

HERE = OutboundGuard(hosts=frozenset({"127.0.0.1"}))
SECRET = "shared with the receiver"
LINKS = ApprovalLinks("a key of tests alone: 0123456789abcdef")


@dataclass
class Receiver:
    """A webhook that keeps what it gets."""

    status: int = 204
    got: list[Request] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    url: str = ""

    def app(self) -> Starlette:
        async def take(request: Request) -> Response:
            self.bodies.append(await request.body())
            self.got.append(request)
            return Response(status_code=self.status)

        async def away(_: Request) -> Response:
            return RedirectResponse("/hook", status_code=307)

        return Starlette(
            routes=[
                Route("/hook", take, methods=["POST"]),
                Route("/away", away, methods=["POST"]),
            ]
        )


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    with serving(receiver.app()) as url:
        receiver.url = url
        yield receiver


@pytest.fixture
def asking(core: Core) -> Asking:
    return Asking(core)


def _notifications(asking: Asking, url: str, guard: OutboundGuard = HERE) -> Notifications:
    webhook = Webhook(url, SECRET, guard)
    return Notifications(asking.database, LINKS, webhook, public_url="https://celeriac.example")


def _row(asking: Asking) -> Any:
    with asking.database.autocommit() as connection:
        query = text("SELECT notified_at, notify_at, notify_count FROM approvals")
        return connection.execute(query).one()


def test_a_question_is_told_once_signed_and_with_a_link(asking: Asking, receiver: Receiver) -> None:
    approval = asking.only(asking.parked(a_question(title="May I?\x00")))
    notifications = _notifications(asking, f"{receiver.url}/hook")

    with capture_logs() as lines:
        assert notifications.send_due() == 1
    assert notifications.send_due() == 0

    (request,), (body,) = receiver.got, receiver.bodies
    sent = json.loads(body)
    assert sent["type"] == "approval.asked"
    assert sent["approval"]["id"] == request.headers[DELIVERY] == str(approval.id)
    assert sent["approval"]["title"] == "May I?\ufffd"
    address = urlsplit(sent["links"]["answer"])
    assert (address.scheme, address.netloc) == ("https", "celeriac.example")
    assert LINKS.read(address.path.rpartition("/")[2]).approval_id == approval.id
    at, _, digest = request.headers[SIGNATURE].removeprefix("t=").partition(",v1=")
    signed = hmac.new(SECRET.encode(), f"{at}.".encode() + body, hashlib.sha256)
    assert digest == signed.hexdigest()
    assert address.path not in str(lines), "a link is a secret"
    assert _row(asking).notified_at is not None


@pytest.mark.parametrize("path", ["/hook", "/away", "/nowhere"])
def test_what_is_not_taken_is_sent_again_later_and_given_up_in_the_end(
    asking: Asking, receiver: Receiver, path: str
) -> None:
    receiver.status = 500
    asking.parked()
    notifications = _notifications(asking, f"{receiver.url}{path}")

    assert notifications.send_due() == 0
    assert notifications.send_due() == 0, "not at once"
    row = _row(asking)
    assert (row.notified_at, row.notify_count) == (None, 1)
    with capture_logs() as lines:
        for _ in range(7):
            asking.core.execute("UPDATE approvals SET notify_at = now()")
            notifications.send_due()

    assert (_row(asking).notify_count, _row(asking).notify_at) == (8, None)
    assert [line["event"] for line in lines][-1] == "approval.not_notified"
    assert len(receiver.got) == (8 if path == "/hook" else 0)


def test_an_address_inside_is_refused_unless_allowed(asking: Asking, receiver: Receiver) -> None:
    asking.parked()

    assert _notifications(asking, f"{receiver.url}/hook", OutboundGuard()).send_due() == 0

    assert receiver.got == []


def test_what_is_answered_before_is_not_told(asking: Asking, receiver: Receiver) -> None:
    asking.answer(asking.parked())

    assert _notifications(asking, f"{receiver.url}/hook").send_due() == 0
