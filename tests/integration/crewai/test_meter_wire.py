"""Whatever a provider answers to a crew has the outcome that it has for other agents."""

from collections.abc import Iterator

import httpx
import pytest

from celeriac.agents.crewai.program.failures import CrewStopError
from tests.integration.crewai.test_meter import Kept, ask, client
from tests.support.model_server import Exchange, ModelServer
from tests.support.wire_answers import PASSING, REFUSALS, WHOLES, Due, Row

ROWS = {row.name: row for row in (*WHOLES, *REFUSALS, *PASSING)}


def play(exchange: Exchange) -> None:
    sent = ROWS[exchange.received.prompt.removeprefix("play ")].sent
    exchange.verbatim(sent.status, sent.now(), sent.body, dropped=sent.dropped)


@pytest.fixture(scope="module")
def server() -> Iterator[ModelServer]:
    with ModelServer({"play": play}).running() as running:
        yield running


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_what_a_provider_sends_has_one_outcome(server: ModelServer, row: Row) -> None:
    channel = Kept()
    ended: httpx.Response | CrewStopError
    with client(server.base_url, channel) as metered:
        try:
            ended = ask(metered, server.base_url, f"play {row.name}")
        except CrewStopError as error:
            ended = error

    check_end(ended, row.due)
    settled = [*channel.of("release"), *channel.of("usage")]
    assert len(settled) == 1, "leave is used or given back, once"
    for used in channel.of("usage"):
        names = ("input_tokens", "output_tokens", "cached_tokens")
        assert tuple(used[name] for name in names) == row.due.tokens
        assert used["finish_reason"] == row.due.finish


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
