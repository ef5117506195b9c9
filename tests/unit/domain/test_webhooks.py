"""Signatures of webhooks, and when they are sent again."""

import base64
from uuid import uuid4

import pytest

from celeriac.domain.webhooks import (
    RETRY_SECONDS,
    Reception,
    SigningKeys,
    next_pause,
    signature,
    signed_headers,
)

pytestmark = pytest.mark.requirement("F18")

VECTORS = [
    # published with the specification's reference libraries
    (
        "whsec_plJ3nmyCDGBKInavdOK15jsl",
        "msg_loFOjxBNrRLzqYUf",
        1731705121,
        b'{"event_type":"ping","data":{"success":true}}',
        "v1,rAvfW3dJ/X/qxhsaXPOyyCGmRKsaKWcsNccKXlIktD0=",
    ),
]


@pytest.mark.parametrize(("secret", "message", "at", "body", "wanted"), VECTORS)
def test_signatures_are_those_of_the_specification(
    secret: str, message: str, at: int, body: bytes, wanted: str
) -> None:
    assert signature(secret, message, at, body) == wanted
    assert signature(secret.removeprefix("whsec_"), message, at, body) == wanted


@pytest.mark.failure("H1")
def test_h1_the_timestamp_and_the_id_are_signed() -> None:
    secret, message, at, body, wanted = VECTORS[0]
    assert signature(secret, message, at + 1, body) != wanted
    assert signature(secret, message + "x", at, body) != wanted


@pytest.mark.failure("H2")
@pytest.mark.parametrize(
    "body", [b'{"a": 1}', b'{"a":1}', '{"a":"\u2028é"}'.encode(), rb'{"a":"\u2028"}', b""]
)
def test_h2_the_bytes_are_signed_as_they_are(body: bytes) -> None:
    secret = VECTORS[0][0]
    others = {signature(secret, "m", 1, each) for each in (body + b" ", b" " + body)}
    assert signature(secret, "m", 1, body) not in others


def test_the_headers_are_those_of_the_specification() -> None:
    secret, message, at, body, wanted = VECTORS[0]
    assert signed_headers([secret], message, at, body) == {
        "content-type": "application/json",
        "webhook-id": message,
        "webhook-timestamp": str(at),
        "webhook-signature": wanted,
    }


def test_a_secret_that_is_not_base64_is_refused() -> None:
    with pytest.raises(ValueError, match=r"base64|padding|character"):
        signature("whsec_not base64!", "m", 1, b"")


def test_each_endpoint_and_installation_has_its_own_secret() -> None:
    one, two = uuid4(), uuid4()
    keys, others = SigningKeys("k" * 32), SigningKeys("l" * 32)
    assert keys.secret(one) == SigningKeys("k" * 32).secret(one)
    assert len({keys.secret(one), keys.secret(two), others.secret(one)}) == 3
    assert len(base64.b64decode(keys.secret(one).removeprefix("whsec_"))) == 32


@pytest.mark.failure("H3")
@pytest.mark.parametrize("status", [None, 301, 400, 401, 404, 408, 425, 429, 500, 503])
def test_h3_what_may_pass_is_tried_over_three_days(status: int | None) -> None:
    failed = Reception(status, "It failed.")
    pauses = [next_pause(tries, failed) for tries in range(1, len(RETRY_SECONDS) + 2)]
    assert pauses == [5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400, None]


@pytest.mark.failure("H3")
@pytest.mark.parametrize(
    "reception", [Reception(410, "Gone."), Reception(None, "Refused.", refused=True)]
)
def test_h3_what_is_final_is_not_tried_again(reception: Reception) -> None:
    assert next_pause(1, reception) is None
