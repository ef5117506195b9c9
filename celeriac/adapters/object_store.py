"""The object store: a directory, or a bucket of an S3-compatible server, both by `obstore`."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import obstore
from obstore import exceptions
from obstore.store import LocalStore, S3Store

from celeriac.domain.errors import ConfigurationError, ObjectMissingError, ObjectStoreError

if TYPE_CHECKING:
    from obstore import GetOptions
    from obstore.store import ClientConfig

_CHUNK = 1 << 20
_PART = 8 << 20
"""Bytes of one part of an upload in parts."""

_PARALLEL = 4
_RETRIES = 5
_RETRY = timedelta(seconds=30)
_CONNECT = timedelta(seconds=5)
_READ = timedelta(seconds=30)
_LONGEST_TRANSFER = timedelta(hours=1)
_PRIVATE = 0o700


@dataclass(frozen=True, slots=True)
class S3Options:
    """What an S3-compatible server needs; None leaves it to the `AWS_…` variables."""

    endpoint: str | None = None
    """Its address, unless it is Amazon's."""
    region: str | None = None
    access_key_id: str | None = None
    secret_access_key: str | None = None


class ObstoreObjects:
    """The objects of one store; see `celeriac.services.files.objects.ObjectStore`."""

    def __init__(self, store: LocalStore | S3Store, address: str) -> None:
        self._store = store
        self.address = address

    def put(self, key: str, body: bytes | Iterator[bytes]) -> None:
        """Store an object."""
        many: dict[str, Any] = {"use_multipart": False}
        if not isinstance(body, bytes):
            many = {"chunk_size": _PART, "max_concurrency": _PARALLEL}
        with self._explained(key):
            obstore.put(self._store, key, body, **many)

    def read(self, key: str, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        """Yield the bytes of an object."""
        if end is not None and end <= start:
            return iter(())
        options: GetOptions = {}
        if start or end is not None:
            options["range"] = {"offset": start} if end is None else (start, end)
        with self._explained(key):
            found = obstore.get(self._store, key, options=options)
        return self._chunks(key, iter(found.stream(min_chunk_size=_CHUNK)))

    def delete(self, keys: Sequence[str]) -> None:
        """Delete objects."""
        if isinstance(self._store, S3Store):
            with self._explained(""):
                obstore.delete(self._store, list(keys))
            return
        for key in keys:  # a directory refuses a missing one, and with it the rest
            try:
                with self._explained(key):
                    obstore.delete(self._store, key)
            except ObjectMissingError:
                continue

    def link(self, key: str, seconds: float) -> str | None:
        """Return an address for downloads."""
        if not isinstance(self._store, S3Store):
            return None
        with self._explained(key):
            return obstore.sign(self._store, "GET", key, timedelta(seconds=seconds))

    def _chunks(self, key: str, stream: Iterator[bytes]) -> Iterator[bytes]:
        with self._explained(key):
            yield from stream

    @contextmanager
    def _explained(self, key: str) -> Iterator[None]:
        try:
            yield
        except (exceptions.NotFoundError, FileNotFoundError) as error:
            raise ObjectMissingError(f"{self.address} has no object {key}.") from error
        except (exceptions.BaseError, OSError) as error:
            raise ObjectStoreError(
                f"The object store {self.address} does not do what it is asked: "
                f"{_first_line(error)}"
            ) from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def open_store(url: str, options: S3Options) -> ObstoreObjects:
    """Return the store at a URL: `file:///directory` or `s3://bucket/prefix`.

    A directory is made; a server is not asked. Raises ConfigurationError.
    """
    parts = urlsplit(url)
    if parts.scheme == "file":
        return ObstoreObjects(_directory(Path(unquote(parts.path))), url)
    config: dict[str, Any] = {
        "endpoint": options.endpoint,
        "region": options.region,
        "access_key_id": options.access_key_id,
        "secret_access_key": options.secret_access_key,
    }
    try:
        store = S3Store.from_url(
            url,
            config={name: value for name, value in config.items() if value is not None},  # type: ignore[arg-type]
            client_options={
                **_plain_http(options.endpoint or os.environ.get("AWS_ENDPOINT_URL", "")),
                "connect_timeout": _CONNECT,
                "read_timeout": _READ,
                "timeout": _LONGEST_TRANSFER,
            },
            retry_config={"max_retries": _RETRIES, "retry_timeout": _RETRY},
        )
    except (exceptions.BaseError, ValueError, TypeError) as error:
        raise ConfigurationError(
            f"CELERIAC_OBJECT_STORE can't be used: {_first_line(error)}. See the page on "
            "configuration for what an S3-compatible server needs."
        ) from error
    return ObstoreObjects(store, url)


def _plain_http(endpoint: str) -> "ClientConfig":
    return {"allow_http": True} if endpoint.startswith("http://") else {}


def _directory(path: Path) -> LocalStore:
    try:
        path.mkdir(mode=_PRIVATE, parents=True, exist_ok=True)
        return LocalStore(path)
    except (exceptions.BaseError, OSError) as error:
        raise ConfigurationError(
            f"The object store {path} can't be used: {_first_line(error)}. Name a directory that "
            "the worker, the API and beat may write to in CELERIAC_OBJECT_STORE."
        ) from error
