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
    """Return `database_url` with SQLAlchemy's psycopg 3 driver named in its scheme.

    Several hosts, separated by commas as libpq has them, become parameters as SQLAlchemy has them.
    """
    for scheme in ("postgresql://", "postgres://"):
        if database_url.startswith(scheme):
            database_url = "postgresql+psycopg://" + database_url.removeprefix(scheme)
    parts = urlsplit(database_url)
    user, at, hosts = parts.netloc.rpartition("@")
    if "," not in hosts:
        return database_url
    query = "&".join([f"host={host}" for host in hosts.split(",")] + parts.query.split("&"))
    return f"{parts.scheme}://{user}{at}{parts.path}?{query.rstrip('&')}"
