"""What counts as served by the local server, whichever server that is."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from celeriac.agents.gateway.http_server import HttpRequest, LoopbackServer, ResponseWriter
from celeriac.agents.gateway.served_models import ServedModels
from celeriac.agents.models import ModelRef, Provider
from celeriac.domain.errors import AgentMisconfiguredError
from celeriac.embedded.home import reserve_port
from celeriac.kit.json_types import dumps

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def serving(body: str, status: int = 200) -> AsyncIterator[tuple[str, list[str]]]:
    """Serve a list of models; give its address and the list of what is asked."""
    asked: list[str] = []

    async def answer(incoming: HttpRequest, answer: ResponseWriter) -> None:
        asked.append(incoming.target)
        await answer.begin(status, [("content-length", str(len(body)))])
        await answer.piece(body.encode())
        await answer.end()

    async with LoopbackServer(answer) as server:
        yield f"http://127.0.0.1:{server.port}/v1", asked


def choice(address: str, model: str, provider: str = "local") -> ModelRef:
    return ModelRef(Provider(name=provider, base_url=address), model)


async def test_names_tags_and_aliases_are_served_and_asked_for_once() -> None:
    models = [
        {"id": "smollm2", "aliases": 3},
        {"id": "llama3:latest"},
        {"id": "a", "aliases": ["b", 4]},
        {"id": 7},
    ]
    served = ServedModels()
    async with serving(dumps({"data": models})) as (address, asked):
        for name in ("smollm2", "llama3", "llama3:latest", "a", "b"):
            await served.check(choice(address, name))
        assert asked == ["/v1/models"]

        with pytest.raises(AgentMisconfiguredError, match="local/smollm2"):
            await served.check(choice(address, "nosuch"))
        await served.check(choice(address, "nosuch", provider="vllm"))
        assert len(asked) == 2, "a name that is new may have come since"


@pytest.mark.parametrize(
    ("body", "status"), [("", 404), ("<html>", 200), ("[]", 200), ('{"data": []}', 200)]
)
async def test_a_server_that_does_not_tell_is_taken_at_its_word(body: str, status: int) -> None:
    async with serving(body, status) as (address, _):
        await ServedModels().check(choice(address, "any"))


async def test_a_server_that_is_away_is_for_the_request_to_report() -> None:
    await ServedModels().check(choice(f"http://127.0.0.1:{reserve_port()}/v1", "any"))
