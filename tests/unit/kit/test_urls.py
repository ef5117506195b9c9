"""Server addresses as people write them."""

import pytest
from sqlalchemy import create_engine, make_url

from celeriac.kit.outbound import psycopg_url


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgresql://u:p@h/db", {"host": "h", "user": "u", "password": "p", "dbname": "db"}),
        ("postgres://u:p%2C@h:5/db", {"host": "h", "port": 5, "password": "p,"}),
        (
            "postgresql://u:p@h1:5432,h2:5433/db?target_session_attrs=read-write",
            {
                "host": "h1,h2",
                "port": "5432,5433",
                "target_session_attrs": "read-write",
                "user": "u",
                "password": "p",
                "dbname": "db",
            },
        ),
        ("postgresql+psycopg://h1,h2/db", {"host": "h1,h2", "dbname": "db"}),
        (
            "postgresql://u:p@/db?host=/a,/b&port=1,2&target_session_attrs=read-write",
            {"host": "/a,/b", "port": "1,2", "target_session_attrs": "read-write"},
        ),
    ],
)
def test_every_spelling_of_an_address_reaches_the_driver(
    url: str, expected: dict[str, object]
) -> None:
    made = make_url(psycopg_url(url))
    given = create_engine(made).dialect.create_connect_args(made)[1]
    assert {name: given.get(name) for name in expected} == expected
