"""What a request may cost: the key first, bounded parsing, bounded answers."""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

import pytest
from fastapi.testclient import TestClient
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from celeriac.api.app import describe
from celeriac.domain.accounts import Role
from tests.support.api import AGENT, EXECUTE, TASK, Asker, assert_problem

_SMALL_ANSWER = 40_000
_KEYLESS = {"show_linked_approval", "answer_linked_approval", "accept_invitation", "call_hook"}
_ID = "0199f3a2-1c5e-7d30-9a64-0b8f6b1d2c11"


def _operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, operations in describe()["paths"].items():
        for method, operation in operations.items():
            yield method.upper(), path, operation


_WITH_KEY = [
    (method, path)
    for method, path, operation in _operations()
    if path.startswith("/api/") and operation["operationId"] not in _KEYLESS
]
_WITH_BODY = [
    (method, path)
    for method, path, operation in _operations()
    if "requestBody" in operation and operation["operationId"] not in _KEYLESS
]


async def _called(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    await app(scope, receive, send)


def _asked(client: TestClient, method: str, path: str, token: str | None) -> tuple[int, bool]:
    """Ask with a body that never comes; return the status, and whether the body was asked for."""
    asked = False
    status = 0

    async def receive() -> Message:
        nonlocal asked
        asked = True
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        nonlocal status
        status = message.get("status", status)

    headers = [(b"content-type", b"application/json"), (b"content-length", b"6800000")]
    if token is not None:
        headers.append((b"authorization", f"Bearer {token}".encode()))
    filled = path
    while "{" in filled:
        filled = filled.replace(filled[filled.index("{") : filled.index("}") + 1], _ID)
    scope: Scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method,
        "scheme": "http", "path": filled, "raw_path": filled.encode(), "query_string": b"",
        "root_path": "", "headers": [(b"host", b"testserver"), *headers],
        "client": ("127.0.0.1", 1), "server": ("testserver", 80),
    }  # fmt: skip
    asyncio.run(_called(client.app, scope, receive, send))
    return status, asked


def test_a_large_body_is_not_read_where_no_key_is_needed(app_client: TestClient) -> None:
    found = _asked(app_client, "POST", "/api/v1/invitations/accept", None)
    assert found == (413, False)


@pytest.mark.parametrize("token", [None, "cel_000000000000_" + "0" * 48])
def test_without_a_good_key_no_body_is_read(app_client: TestClient, token: str | None) -> None:
    wrong = {
        (method, path): found
        # wrong keys are counted: of an address only so many a minute are looked up
        for method, path in _WITH_KEY[:: 1 if token is None else 8]
        if (found := _asked(app_client, method, path, token)) != (401, False)
    }
    assert not wrong
    assert len(_WITH_KEY) > 45


def test_without_the_role_no_body_is_read(
    app_client: TestClient, person: Callable[..., Asker]
) -> None:
    viewer = person("vera", Role.VIEWER)
    found = {path: _asked(app_client, method, path, viewer.token) for method, path in _WITH_BODY}
    allowed = {"/api/v1/api-keys"}
    assert {path for path, (status, _) in found.items() if status != 403} == allowed
    assert {path for path, (_, asked) in found.items() if asked} == allowed


def test_without_a_good_link_no_body_is_read(app_client: TestClient) -> None:
    path = "/api/v1/approvals/links/x"
    assert _asked(app_client, "POST", path, None) == (404, False)


_LONG = "x" * 3_000_000
BOMBS: dict[str, tuple[str, bytes, int]] = {
    "small lists": (EXECUTE, b'{"variables":{"a":[' + b"[1]," * 1_700_000 + b"[]]}}", 413),
    "empty lists": (EXECUTE, b'{"variables":{"a":[' + b"[]," * 2_500_000 + b"[]]}}", 413),
    "names": (EXECUTE, b'{"variables":{"a":1' + b',"":1' * 1_500_000 + b"}}", 413),
    "nested": (EXECUTE, b"[" * 4_000_000 + b"]" * 4_000_000, 413),
    "unknown fields": (
        EXECUTE, b"{" + b",".join(b'"k%d":1' % n for n in range(90_000)) + b"}", 422),
    "unknown fields of a specification": (
        "/api/v1/agents", b'{"name":"a","spec":{"runner":"llm","model":"a/b",'
        + b",".join(b'"k%d":1' % n for n in range(4_900)) + b"}}", 422),
    "unknown fields with long names": (
        EXECUTE, b"{" + b",".join(b'"%d%s":1' % (n, b"k" * 70_000) for n in range(100)) + b"}",
        422),
    "wrong items": (
        "/api/v1/tasks/summarise/execute-batch", b'{"items":[' + b"1," * 190_000 + b"1]}", 422),
    "NUL at the end": (
        EXECUTE, b'{"variables":{"a":[' + b'"\\\\u0000",' * 90_000 + b'"\\u0000"]}}', 422),
    "NUL in a long path": (
        EXECUTE, b'{"variables":{"' + b"k" * 7_000_000 + b'":"\\u0000"}}', 422),
    "integer of a million digits": (
        EXECUTE, b'{"variables":{"text":' + b"1" * 300 + b"0" * 1_000_000 + b"}}", 400),
    "digits": (EXECUTE, b'{"variables":{"text":["' + (b"1" * 18 + b" ") * 400_000
               + b'",99999999999999999999]}}', 422),
    "no JSON": (EXECUTE, b'{"variables":{"text":"' + b"\\" * 7_900_001 + b'"}}', 400),
    "a long value": ("/api/v1/tasks", f'{{"name":"{_LONG}","agent":"a"}}'.encode(), 422),
    "a long queue": (EXECUTE, f'{{"queue":"{_LONG}"}}'.encode(), 422),
    "a long time": (EXECUTE, f'{{"available_at":"{_LONG}"}}'.encode(), 422),
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_a_body_that_costs_more_than_its_size_is_answered_shortly(ada: Asker, name: str) -> None:
    path, body, status = BOMBS[name]
    response = ada.post(path, content=body, headers={"Content-Type": "application/json"})
    assert response.status_code == status, response.text[:500]
    assert response.headers["content-type"] == "application/problem+json"
    assert len(response.content) < _SMALL_ANSWER
    assert _LONG not in response.text


def test_only_so_many_faults_are_told(ada: Asker) -> None:
    body: dict[str, Any] = {"variables": {}} | {f"k{number}": 1 for number in range(90)}
    problem = assert_problem(ada.post(EXECUTE, json=body), 422, "invalid_input")
    assert len(problem["fields"]) == 50
    assert problem["details"] == {"faults": 90}
    assert "and 85 more" in problem["detail"]


def test_long_parameters_are_not_sent_back(ada: Asker) -> None:
    for path in (
        f"/api/v1/tasks?{'x' * 30_000}=1",
        f"/api/v1/tasks?cursor={'x' * 30_000}",
        f"/api/v1/tasks/{'x' * 30_000}",
        f"/api/v1/{'x' * 30_000}",
        f"/api/v1/cassettes/{quote('é' * 10_000)}",
    ):
        response = ada.get(path)
        assert response.status_code in {404, 422}
        assert len(response.content) < 8_000, path[:50]
    response = ada.post(EXECUTE, json={}, headers={"Idempotency-Key": "x" * 30_000})
    assert assert_problem(response, 422, "invalid_input")["field"] == "Idempotency-Key"
    assert len(response.content) < 8_000


def test_what_is_large_and_right_is_taken(ada: Asker) -> None:
    """Many values, a long text with many commas, a batch of full length."""
    task = TASK | {"name": "any", "spec": {"prompt": "Hello."}}
    assert ada.post("/api/v1/tasks", json=task).status_code == 201
    for variables in (
        {"text": "a,b:[{" * 500_000},
        {"text": "a", "rows": [[number, {"a": None}] for number in range(20_000)]},
    ):
        response = ada.post("/api/v1/tasks/any/execute", json={"variables": variables})
        assert response.status_code == 202, response.text[:500]
        execution = ada.get(response.json()["_links"]["self"]).json()
        assert execution["variables"] == variables
    items = [{"text": "a", "b": number, "c": True, "d": []} for number in range(10_000)]
    response = ada.post("/api/v1/tasks/any/execute-batch", json={"items": items})
    assert response.status_code == 202, response.text[:500]


_CONTROLS = {"NUL": "a\0b", "CRLF": "a\r\nb", "ESC": "a\x1b[31mb", "DEL": "a\x7fb", "NEL": "a\x85b"}


def _filled(path: str) -> str:
    while "{" in path:
        path = path.replace(path[path.index("{") : path.index("}") + 1], _ID)
    return path


@pytest.mark.requirement("A6")
@pytest.mark.parametrize("control", _CONTROLS)
def test_no_query_parameter_takes_control_characters(admin: Asker, control: str) -> None:
    """Every one of every operation; file names alone may have them."""
    wrong = {}
    count = 0
    for method, path, operation in _operations():
        for parameter in operation.get("parameters", []):
            if parameter["in"] != "query":
                continue
            count += 1
            value = quote(_CONTROLS[control])
            address = f"{_filled(path)}?{parameter['name']}={value}"
            response = admin.request(method, address, content=b"{}", headers={
                "Content-Type": "application/json"})  # fmt: skip
            names_files = path.endswith("/files") and parameter["name"] == "after"
            if response.status_code != 422 and not (names_files and response.status_code == 404):
                wrong[f"{method} {address}"] = response.status_code
    assert not wrong
    assert count > 50


@pytest.mark.parametrize("control", _CONTROLS)
def test_no_name_takes_control_characters(ada: Asker, admin: Asker, control: str) -> None:
    name = _CONTROLS[control]
    for asker, path, body in (
        (ada, "/api/v1/agents", AGENT | {"name": name}),
        (ada, "/api/v1/tasks", TASK | {"name": name}),
        (ada, "/api/v1/api-keys", {"name": name}),
        (admin, "/api/v1/users", {"name": name}),
        (ada, EXECUTE, {"queue": name}),
        (ada, "/api/v1/celery-tasks", {"name": name}),
    ):
        response = asker.post(path, json=body)
        assert assert_problem(response, 422, "invalid_input")["field"] in {"name", "queue"}, path


def test_labels_are_for_people(ada: Asker) -> None:
    response = ada.post("/api/v1/api-keys", json={"name": "Łukasz: key №1 (日本)"})
    assert response.json()["name"] == "Łukasz: key №1 (日本)"


def test_headers_with_control_characters_are_refused(ada: Asker) -> None:
    for header, path in (("Idempotency-Key", EXECUTE), ("X-Request-ID", EXECUTE)):
        response = ada.post(path, json={"variables": {"text": "a"}}, headers={header: "a\x1bb"})
        assert response.status_code == (422 if header == "Idempotency-Key" else 202)
        assert "\x1b" not in response.headers["x-request-id"]


def test_a_parameter_with_one_value_is_given_once(ada: Asker) -> None:
    for path in ("audit-logs?action=a&action=b", "task-executions?task=a&task=b"):
        name = path.partition("?")[2].partition("=")[0]
        problem = assert_problem(ada.get(f"/api/v1/{path}"), 422, "invalid_input")
        assert (problem["field"], "give it once" in problem["detail"]) == (name, True)
    several = "status=failed&status=completed&id=" + "&id=".join([_ID] * 2)
    assert ada.get(f"/api/v1/task-executions?{several}").status_code == 200
