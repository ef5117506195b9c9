"""URLs of Redis: `redis://…`, and `sentinel://…` for a primary that Sentinel names."""

from dataclasses import dataclass, field
from typing import Self
from urllib.parse import parse_qsl, quote, unquote, urlsplit, urlunsplit

from celeriac.kit.urls import split_hosts

_PORT = 26379
_PARAMETERS = frozenset({"master", "sentinel_username", "sentinel_password"})


def with_database(redis_url: str, number: int) -> str:
    """Return `redis_url` with its database number replaced."""
    return urlunsplit(urlsplit(redis_url)._replace(path=f"/{number}"))


@dataclass(frozen=True, slots=True, kw_only=True)
class SentinelUrl:
    """`sentinel://[user:password@]host[:port][,host[:port]…]/database?master=NAME`.

    User and password are those of the server. `sentinel_username` and `sentinel_password` are
    further parameters.
    """

    sentinels: tuple[tuple[str, int], ...]
    master: str
    database: int = 0
    login: dict[str, str] = field(default_factory=dict, repr=False)
    """`username` and `password` of the server, where they are needed."""
    sentinel_login: dict[str, str] = field(default_factory=dict, repr=False)

    @classmethod
    def read(cls, url: str) -> Self | None:
        """Read `url`; None for another scheme. Raises ValueError, without the URL's values."""
        parts = split_hosts(url)
        if parts.scheme != "sentinel":
            return None
        parameters = dict(parse_qsl(parts.query))
        unknown = sorted(parameters.keys() - _PARAMETERS)
        if unknown:
            raise ValueError(f"has the unknown parameter {unknown[0]}")
        if "master" not in parameters:
            raise ValueError("needs the name of the primary: sentinel://host:26379/0?master=NAME")
        database = parts.path.strip("/") or "0"
        if not (database.isascii() and database.isdigit()):
            raise ValueError("must name its database by a number: sentinel://host:26379/0?master=…")
        login, _, hosts = parts.netloc.rpartition("@")
        user, _, password = login.partition(":")
        given = {"username": unquote(user), "password": unquote(password)}
        sentinel_given = {
            name: parameters.get(f"sentinel_{name}", "") for name in ("username", "password")
        }
        return cls(
            sentinels=tuple(_address(host) for host in hosts.split(",")),
            master=parameters["master"],
            database=int(database),
            login={name: value for name, value in given.items() if value},
            sentinel_login={name: value for name, value in sentinel_given.items() if value},
        )

    def for_celery(self) -> str:
        """Return the URL in the form of kombu and Celery.

        They take the name of the primary and the login of Sentinel as options.
        """
        user, password = (quote(self.login.get(each, ""), safe="") for each in _LOGIN)
        login = f"{user}:{password}@" if self.login else ""
        return ";".join(
            f"sentinel://{login}{_bracketed(host)}:{port}/{self.database}"
            for host, port in self.sentinels
        )


_LOGIN = ("username", "password")


def _address(host: str) -> tuple[str, int]:
    parts = urlsplit(f"//{host}")
    if not parts.hostname:
        raise ValueError("names a host that is empty")
    return parts.hostname, parts.port or _PORT


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
