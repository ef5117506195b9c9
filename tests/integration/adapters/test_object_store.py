"""Object stores: a directory and an S3-compatible server keep the same promises."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from celeriac.adapters.object_store import ObstoreObjects, S3Options, open_store
from celeriac.domain.errors import ConfigurationError, ObjectMissingError, ObjectStoreError
from tests.support.object_server import BUCKET, running_object_server

_PART = 8 << 20


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Options]:
    with running_object_server(tmp_path_factory.mktemp("s3") / "data") as options:
        yield options


@pytest.fixture(scope="module", params=["directory", "s3"])
def store(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> ObstoreObjects:
    if request.param == "directory":
        place = tmp_path_factory.mktemp("objects") / "new" / "store"
        return open_store(place.as_uri(), S3Options())
    return open_store(f"s3://{BUCKET}/pre/fix", request.getfixturevalue("server"))


def read(store: ObstoreObjects, key: str, *span: int) -> bytes:
    return b"".join(store.read(key, *span))


@pytest.mark.parametrize("content", [b"", b"some bytes", bytes(range(256)) * (_PART // 100)])
def test_what_is_put_is_read(store: ObstoreObjects, content: bytes) -> None:
    store.put("w/whole", content)
    assert read(store, "w/whole") == content
    store.put("w/parts", (content[at : at + 300_000] for at in range(0, len(content), 300_000)))
    assert read(store, "w/parts") == content
    assert not content or read(store, "w/parts", 3, 7) == content[3:7]
    assert not content or read(store, "w/parts", 3) == content[3:]


def test_an_upload_that_ends_early_stores_nothing(store: ObstoreObjects) -> None:
    def broken() -> Iterator[bytes]:
        yield bytes(_PART)
        yield bytes(_PART)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        store.put("w/broken", broken())
    with pytest.raises(ObjectMissingError):
        store.read("w/broken")


def test_what_is_deleted_is_gone_and_what_is_missing_no_error(store: ObstoreObjects) -> None:
    for key in ("d/1", "d/2", "d/3"):
        store.put(key, b"x")
    store.delete(["d/1", "d/missing", "d/3"])
    assert read(store, "d/2") == b"x"
    for key in ("d/1", "d/3"):
        with pytest.raises(ObjectMissingError):
            store.read(key)


def test_a_link_is_for_whoever_has_it_and_for_one_object(server: S3Options, tmp_path: Path) -> None:
    store = open_store(f"s3://{BUCKET}/links", server)
    store.put("one", b"1")
    store.put("two", b"2")
    link = store.link("one", 60)
    assert link is not None
    assert httpx.get(link).content == b"1"
    assert httpx.get(link.replace("/one?", "/two?")).status_code == 403
    assert open_store(tmp_path.as_uri(), S3Options()).link("one", 60) is None


def test_a_store_that_is_away_or_refuses_says_so(server: S3Options, tmp_path: Path) -> None:
    wrong = S3Options(server.endpoint, server.region, server.access_key_id, "wrong")
    with pytest.raises(ObjectStoreError, match=f"s3://{BUCKET}"):
        open_store(f"s3://{BUCKET}", wrong).put("key", b"x")
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match="CELERIAC_OBJECT_STORE"):
        open_store((tmp_path / "file" / "store").as_uri(), S3Options())
