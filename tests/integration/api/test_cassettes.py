"""Cassettes over HTTP: stored, found, refused, and what runs may wish for."""

import asyncio
import gzip
import zlib
from collections.abc import Callable
from uuid import UUID, uuid4

import pytest

from celeriac.client import Client, ClientError
from celeriac.domain.cassettes import MAX_BYTES, dump, parse
from celeriac.domain.executions.model import Lease
from celeriac.services.cassettes import CassetteStore
from celeriac.wiring.core import CoreServices
from tests.support.api import EXECUTE, Asker, assert_problem
from tests.support.cassettes import cassette, recorded
from tests.support.core import Core
from tests.support.spending import job_of

PATH = "/api/v1/cassettes"
TEXT = dump(cassette(recorded("One?", "1"), recorded("Two?", "2")))


def _upload(asker: Asker, text: str = TEXT, **params: str) -> str:
    response = asker.post(PATH, content=text.encode(), params=params)
    assert response.status_code == 201, response.text
    return str(response.json()["id"])


def test_a_cassette_is_uploaded_listed_downloaded_and_deleted(ada: Asker) -> None:
    cassette_id = _upload(ada, name="qualify")
    found = ada.get(f"{PATH}/{cassette_id}").json()
    assert found["name"] == "qualify"
    assert (found["interactions"], found["size"], found["complete"]) == (2, len(TEXT), True)
    assert found["execution_id"] is None
    assert [each["id"] for each in ada.get(PATH).json()["items"]] == [cassette_id]
    content = ada.get(found["_links"]["content"])
    assert content.text == TEXT
    assert content.headers["content-type"].startswith("application/jsonl")
    assert "attachment" in content.headers["content-disposition"]
    assert ada.delete(f"{PATH}/{cassette_id}").status_code == 204
    assert_problem(ada.get(f"{PATH}/{cassette_id}"), 404, "not_found")
    assert_problem(ada.delete(f"{PATH}/{cassette_id}"), 404, "not_found")


def test_the_same_text_is_stored_once_for_each_user(
    ada: Asker, person: Callable[..., Asker]
) -> None:
    first = _upload(ada, name="first")
    assert _upload(ada, name="second") == first
    # spaces and the order of keys are no difference
    assert _upload(ada, TEXT.replace('":', '": ')) == first
    assert _upload(person("bob")) != first


def test_cassettes_of_others_are_not_there(
    ada: Asker, admin: Asker, person: Callable[..., Asker]
) -> None:
    cassette_id = _upload(ada)
    for other in (person("bob"), admin):
        for response in (
            other.get(f"{PATH}/{cassette_id}"),
            other.get(f"{PATH}/{cassette_id}/content"),
            other.delete(f"{PATH}/{cassette_id}"),
        ):
            assert_problem(response, 404, "not_found")
        assert other.get(PATH).json()["items"] == []


@pytest.mark.parametrize(
    ("body", "headers", "status", "code"),
    [
        (b"", {}, 422, "cassette_invalid"),
        (b"hello", {}, 422, "cassette_invalid"),
        (b"\xff\x00", {}, 422, "cassette_invalid"),
        (TEXT.encode()[:-5], {}, 422, "cassette_invalid"),
        (TEXT.encode(), {"Content-Encoding": "gzip"}, 422, "cassette_invalid"),
        (gzip.compress(TEXT.encode())[:-20], {"Content-Encoding": "gzip"}, 422, "cassette_invalid"),
        (gzip.compress(bytes(MAX_BYTES + 1)), {"Content-Encoding": "gzip"}, 413, "too_large"),
        (zlib.compress(TEXT.encode()), {"Content-Encoding": "br"}, 422, "invalid_input"),
    ],
    ids="empty words bytes cut plain-as-gzip cut-gzip bomb brotli".split(),
)
def test_hostile_uploads_are_refused(
    ada: Asker, body: bytes, headers: dict[str, str], status: int, code: str
) -> None:
    problem = assert_problem(ada.post(PATH, content=body, headers=headers), status, code)
    assert problem["field"]
    assert ada.get(PATH).json()["items"] == []


def test_a_run_names_a_cassette_of_its_caller(ada: Asker, person: Callable[..., Asker]) -> None:
    variables = {"variables": {"text": "x"}}
    cassette_id = _upload(ada)
    accepted = ada.post(EXECUTE, json={**variables, "cassette_id": cassette_id})
    assert accepted.status_code == 202
    run = ada.get(accepted.json()["_links"]["self"]).json()
    assert run["options"]["cassette_id"] == cassette_id
    assert "cassette" not in run["_links"]
    others = _upload(person("bob"))
    for strange in (others, str(uuid4())):
        response = ada.post(EXECUTE, json={**variables, "cassette_id": strange})
        assert_problem(response, 404, "not_found")


def test_what_is_played_is_not_recorded_and_functions_have_no_traffic(ada: Asker) -> None:
    body = {"variables": {"text": "x"}, "record": True, "cassette_id": _upload(ada)}
    assert assert_problem(ada.post(EXECUTE, json=body), 422, "invalid_input")["field"] == "record"
    ada.post("/api/v1/agents", json={"name": "f", "spec": {"runner": "python", "function": "a:b"}})
    ada.post("/api/v1/tasks", json={"name": "f", "agent": "f"})
    problem = assert_problem(
        ada.post("/api/v1/tasks/f/execute", json={"record": True}), 422, "invalid_input"
    )
    assert problem["field"] == "record"


def test_an_execution_that_records_links_to_its_cassette(ada: Asker) -> None:
    body = {"variables": {"text": "x"}, "record": True}
    run = ada.get(ada.post(EXECUTE, json=body).json()["_links"]["self"]).json()
    assert run["_links"]["cassette"] == f"{PATH}/{run['id']}"
    assert_problem(ada.get(run["_links"]["cassette"]), 404, "not_found")


def test_the_client_knows_cassettes(client: Client) -> None:
    stored = client.cassettes.upload(TEXT, name="mine")
    assert client.cassettes.get(stored.id) == stored
    assert list(client.cassettes.list()) == [stored]
    assert client.cassettes.content(stored.id) == TEXT
    client.cassettes.delete(stored.id)
    with pytest.raises(ClientError, match="There is no cassette"):
        client.cassettes.get(stored.id)


def test_attempts_add_to_one_cassette_while_they_hold_the_lease(container: CoreServices) -> None:
    core, tapes = Core(container.database), CassetteStore(container.database)
    claim = core.running()
    job = job_of(claim)
    one, two = recorded("a", "1"), recorded("a", "2", attempt=2)
    assert asyncio.run(tapes.add(claim.lease, job, [one], complete=True))
    stolen = Lease(claim.lease.execution_id, claim.lease.attempt, uuid4())
    with pytest.raises(Exception, match="no longer owns"):
        asyncio.run(tapes.add(stolen, job, [two], complete=True))
    assert asyncio.run(tapes.add(claim.lease, job, [two], complete=True))
    kept = asyncio.run(tapes.load(UUID(str(claim.lease.execution_id))))
    assert kept.interactions == (one, two)
    assert kept.header.execution_id == claim.lease.execution_id
    assert parse(dump(kept)) == kept


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (b"\n" * 33_000_000, "too_large"),
        (TEXT.encode() + b"\n" * 25_000, "too_large"),
        (TEXT.encode() + b"[" + b"[]," * 5_000_000 + b"[]]", "too_large"),
        (TEXT.encode() + b'{"provider":"a","request":{"method":"GET","path":"/","stream":['
         + b"1," * 190_000 + b"1]}}", "cassette_invalid"),
        (TEXT.encode() + b"{" + b",".join(b'"k%d":1' % n for n in range(90_000)) + b"}",
         "cassette_invalid"),
    ],
    ids=["empty lines", "more empty lines", "values", "wrong events", "fields"],
)  # fmt: skip
def test_small_bodies_that_unpack_to_much_are_refused(ada: Asker, text: bytes, code: str) -> None:
    body = gzip.compress(text)
    assert len(body) < 1_000_000
    response = ada.post(PATH, content=body, headers={"Content-Encoding": "gzip"})
    assert_problem(response, 413 if code == "too_large" else 422, code)
    assert len(response.content) < 10_000


def test_what_was_sent_is_not_sent_back(ada: Asker) -> None:
    secret = "HUNTERSECRET" * 10_000
    for line in (
        f'{{"provider":"{secret}","request":{{"method":"GET","path":"/"}}}}',
        f'{{"provider":"a","request":{{"method":"{secret}","path":"/"}}}}',
        f'{{"provider":"a","request":{{"method":"GET","path":"{secret}"}}}}',
    ):
        response = ada.post(PATH, content=(TEXT + line).encode())
        assert_problem(response, 422, "cassette_invalid")
        assert "HUNTERSECRET" not in response.text


def test_an_empty_line_behind_each_other_is_no_fault(ada: Asker) -> None:
    assert _upload(ada, TEXT.replace("\n", "\n\n"))
