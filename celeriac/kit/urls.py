"""Small transformations of server addresses."""

from urllib.parse import urlsplit, urlunsplit


def with_database(redis_url: str, number: int) -> str:
    """Return `redis_url` with its database number replaced."""
    return urlunsplit(urlsplit(redis_url)._replace(path=f"/{number}"))


def without_password(url: str) -> str:
    """Return `url` fit for logs and messages: user and password are cut out."""
    parts = urlsplit(url)
    if "@" not in parts.netloc:
        return url
    return urlunsplit(parts._replace(netloc="***@" + parts.netloc.rsplit("@", 1)[1]))


def psycopg_url(database_url: str) -> str:
    """Return `database_url` with SQLAlchemy's psycopg 3 driver named in its scheme."""
    for scheme in ("postgresql://", "postgres://"):
        if database_url.startswith(scheme):
            return "postgresql+psycopg://" + database_url.removeprefix(scheme)
    return database_url
