"""Names become one segment of a path, whatever they hold."""

import httpx
import pytest

from celeriac.client import Client, ClientError


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("summarise", b"/api/v1/tasks/summarise"),
        ("a/b", b"/api/v1/tasks/a%2Fb"),
        ("../agents", b"/api/v1/tasks/..%2Fagents"),
        ("a?b=c", b"/api/v1/tasks/a%3Fb%3Dc"),
        ("a#b", b"/api/v1/tasks/a%23b"),
        ("grün", b"/api/v1/tasks/gr%C3%BCn"),
    ],
)
def test_a_name_can_not_lead_elsewhere(name: str, path: bytes) -> None:
    asked: list[bytes] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.raw_path)
        return httpx.Response(404, json={})

    with (
        Client("http://api", api_key="k", transport=httpx.MockTransport(answer)) as client,
        pytest.raises(ClientError),
    ):
        client.tasks.get(name)
    assert asked == [path]
