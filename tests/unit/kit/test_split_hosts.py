"""URLs that may name several hosts."""

from urllib.parse import urlsplit

import pytest

from celeriac.kit.outbound import psycopg_url, without_password
from celeriac.kit.urls import split_hosts


@pytest.mark.parametrize(
    "url",
    [
        "http://ada:word@example.com:8080/a/b?c=d#e",
        "postgresql:///celeriac?host=/run/postgresql",
        "redis://[::1]:6379/0",
        "//host",
        "",
        "no url",
    ],
)
def test_with_one_host_it_is_as_the_standard_library(url: str) -> None:
    assert split_hosts(url) == urlsplit(url)


def test_an_address_in_brackets_may_follow_another_host() -> None:
    parts = split_hosts("postgresql://ada:word@db1:5432,[::1]:5433/celeriac?sslmode=require")
    assert parts.netloc == "ada:word@db1:5432,[::1]:5433"
    assert (parts.path, parts.query) == ("/celeriac", "sslmode=require")


def test_urls_of_several_servers_are_read() -> None:
    url = "postgresql://ada:word@db1:5432,[::1]:5433/celeriac"
    assert without_password(url) == "postgresql://***@db1:5432,[::1]:5433/celeriac"
    assert psycopg_url(url) == (
        "postgresql+psycopg://ada:word@/celeriac?host=db1:5432&host=[::1]:5433"
    )
