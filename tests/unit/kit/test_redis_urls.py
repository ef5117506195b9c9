"""URLs of Redis behind Sentinel, and URLs in messages."""

import pytest

from celeriac.kit.outbound import without_password
from celeriac.kit.redis_urls import SentinelUrl, with_database

URL = "sentinel://ada:p%40ss@s1:26380,[::1]/3?master=main&sentinel_password=word"


def test_a_sentinel_url_is_read() -> None:
    found = SentinelUrl.read(URL)
    assert found == SentinelUrl(
        sentinels=(("s1", 26380), ("::1", 26379)),
        master="main",
        database=3,
        login={"username": "ada", "password": "p@ss"},
        sentinel_login={"password": "word"},
    )
    assert "p@ss" not in repr(found)
    assert "word" not in repr(found).replace("password", "")


def test_kombu_gets_a_list() -> None:
    found = SentinelUrl.read(URL)
    assert found is not None
    assert found.for_celery() == (
        "sentinel://ada:p%40ss@s1:26380/3;sentinel://ada:p%40ss@[::1]:26379/3"
    )


def test_the_database_is_replaced_and_the_rest_stays() -> None:
    assert with_database("sentinel://s1,s2/0?master=main", 2) == "sentinel://s1,s2/2?master=main"


def test_another_scheme_is_none() -> None:
    assert SentinelUrl.read("redis://localhost/0") is None


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("sentinel://s1", "master=NAME"),
        ("sentinel://s1/x?master=m", "database by a number"),
        ("sentinel://s1,/0?master=m", "a host that is empty"),
        ("sentinel://s1/0?master=m&db=1", "unknown parameter db"),
    ],
)
def test_a_malformed_url_is_refused(url: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        SentinelUrl.read(url)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://h/1", "redis://h/1"),
        ("redis://:secret@h/1", "redis://***@h/1"),
        ("amqp://u:secret@a//;amqp://u:secret@b//", "amqp://***@a//;amqp://***@b//"),
        (URL, "sentinel://***@s1:26380,[::1]/3?***"),
        ("postgresql://h/d?user=u&password=secret", "postgresql://h/d?***"),
    ],
)
def test_no_password_is_shown(url: str, shown: str) -> None:
    assert without_password(url) == shown
