"""Tokens of signed links, without a server."""

from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celeriac.domain.errors import LinkInvalidError
from celeriac.services.approvals.answer import ApprovalLinks, Link

LINKS = ApprovalLinks("a key of tests alone: 0123456789abcdef")
SOON = datetime.now(UTC) + timedelta(days=1)


def link() -> Link:
    return Link(uuid4(), uuid4(), links_revoked=3)


def test_a_token_names_its_question_and_no_two_are_alike() -> None:
    one = link()
    tokens = {LINKS.token(one, SOON) for _ in range(10)}

    assert len(tokens) == 10
    assert {LINKS.read(token) for token in tokens} == {one}
    assert all(len(token) < 120 for token in tokens)


def test_it_ends_with_its_question() -> None:
    with pytest.raises(LinkInvalidError):
        LINKS.read(LINKS.token(link(), datetime.now(UTC) - timedelta(seconds=1)))


def test_it_ends_by_the_clock_that_its_question_ends_by() -> None:
    clock = [SOON.timestamp() - 1]
    links = ApprovalLinks("a key of tests alone: 0123456789abcdef", lambda: clock[0])
    one = link()
    token = links.token(one, SOON)
    assert links.read(token) == one
    clock[0] = SOON.timestamp()
    with pytest.raises(LinkInvalidError):
        links.read(token)


@given(st.text(max_size=140))
def test_nothing_made_up_is_read(token: str) -> None:
    with pytest.raises(LinkInvalidError):
        LINKS.read(token)


@given(place=st.integers(0, 83), bit=st.integers(0, 7))
def test_no_bit_of_a_token_can_be_changed(place: int, bit: int) -> None:
    from base64 import urlsafe_b64decode, urlsafe_b64encode

    token = LINKS.token(link(), SOON)
    raw = bytearray(urlsafe_b64decode(token + "=" * (-len(token) % 4)))
    raw[place] ^= 1 << bit
    with pytest.raises(LinkInvalidError):
        LINKS.read(urlsafe_b64encode(bytes(raw)).rstrip(b"=").decode())


def test_the_bits_that_decoding_ignores_can_not_be_changed_either() -> None:
    token = LINKS.token(link(), SOON)
    digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    others = [token[:-1] + digit for digit in digits if digit != token[-1]]
    for other in others:
        with pytest.raises(LinkInvalidError):
            LINKS.read(other)


def test_another_installations_token_is_not_read() -> None:
    other = ApprovalLinks("another key of tests alone: 0123456789")
    with pytest.raises(LinkInvalidError):
        LINKS.read(other.token(link(), SOON))
