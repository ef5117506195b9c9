"""The servers answer as their users need them to."""

import psycopg
import redis
import sqlalchemy

from tests.support.servers import PostgresServer, ValkeyServer


def test_postgres_serves_sqlalchemy_with_version_18(postgres_server: PostgresServer) -> None:
    engine = sqlalchemy.create_engine(postgres_server.url("celeriac"))
    with engine.connect() as connection:
        version = connection.execute(sqlalchemy.text("SHOW server_version_num")).scalar_one()
    engine.dispose()
    assert version.startswith("18"), "the product is built for PostgreSQL 18"


def test_a_fresh_database_is_a_copy_of_its_template(postgres_server: PostgresServer) -> None:
    template = postgres_server.fresh_database()
    with psycopg.connect(_libpq(postgres_server.url(template))) as connection:
        connection.execute("CREATE TABLE kept (id int)")
    copy = postgres_server.fresh_database(template)
    with psycopg.connect(_libpq(postgres_server.url(copy))) as connection:
        connection.execute("SELECT id FROM kept")
    postgres_server.drop_database(copy)
    postgres_server.drop_database(template)


def test_valkey_keeps_its_data_in_an_append_only_file(valkey_server: ValkeyServer) -> None:
    with redis.Redis.from_url(valkey_server.url(2)) as client:
        info = client.info()
        assert info["aof_enabled"] == 1, "accepted work must survive a crash of Valkey"
        assert info["server_name"] == "valkey"


def _libpq(url: str) -> str:
    return url.replace("postgresql+psycopg://", "postgresql://", 1)
