"""Whatever a provider answers to a crew has the outcome that it has for other agents."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from celeriac.agents.crewai.program.failures import CrewStopError
from tests.integration.crewai.test_client import Reserving, ask, client
from tests.support.attempt_gateway import gateway_to
from tests.support.model_server import Exchange, ModelServer
from tests.support.wire_answers import PASSING, REFUSALS, WHOLES, Due, Row

pytestmark = pytest.mark.anyio

ROWS = {row.name: row for row in (*WHOLES, *REFUSALS, *PASSING)}


def play(exchange: Exchange) -> None:
    sent = ROWS[exchange.received.prompt.removeprefix("play ")].sent
    exchange.verbatim(sent.status, sent.now(), sent.body, dropped=sent.dropped)


@pytest.fixture(scope="module")
def server() -> Iterator[ModelServer]:
    with ModelServer({"play": play}).running() as server:
        yield server


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
async def test_what_a_provider_sends_has_one_outcome(
    server: ModelServer, row: Row, tmp_path: Path
) -> None:
    context = Reserving(tmp_path)
    ended: httpx.Response | CrewStopError
    async with gateway_to(server.base_url, context) as gateway:
        with client(gateway) as crew:
            try:
                ended = await ask(crew, gateway, f"play {row.name}")
            except CrewStopError as error:
                ended = error

    check_end(ended, row.due)
    assert context.settled == 1, "the reservation is charged or released, once"
    assert bool(context.calls) == (row.due.finish is not None)
    for used in context.calls:
        assert (used.input_tokens, used.output_tokens, used.cached_tokens) == row.due.tokens
        assert used.finish_reason == row.due.finish


def check_end(ended: httpx.Response | CrewStopError, due: Due) -> None:
    if due.code is None:
        assert isinstance(ended, httpx.Response), ended
        (choice,) = ended.json()["choices"]
        assert choice["message"]["content"] == due.result
        assert choice["finish_reason"] == due.finish
        return
    assert isinstance(ended, CrewStopError), ended.text
    assert (ended.code, ended.retryable) == (due.code, due.retryable)
    assert due.words in ended.message
    if due.wait is not None:
        assert ended.retry_after is not None, "the next try must wait"
        assert due.wait - 5 <= ended.retry_after <= due.wait
