"""Whatever a provider sends is classified: each scripted answer has one right outcome."""

from collections.abc import Iterator

import pytest

from celeriac.agents.llm.runner import LlmRunner
from celeriac.agents.llm.silence import SilenceLimits
from celeriac.domain.errors import ExecutionError, ProviderError
from celeriac.domain.executions.model import Completed, Parked
from tests.support.llm_jobs import TICKET_SCHEMA, llm_job
from tests.support.model_scenes import SCENES
from tests.support.model_server import Exchange, ModelServer
from tests.support.run_context import RecordingContext
from tests.support.wire_answers import PASSING, REFUSALS, STREAMS, WHOLES, Due, Row, body, whole

pytestmark = pytest.mark.anyio

ROWS = {row.name: row for row in (*STREAMS, *WHOLES, *REFUSALS, *PASSING)}


def play(exchange: Exchange) -> None:
    """Send the answer that the prompt names behind its first word."""
    sent = ROWS[exchange.received.prompt.removeprefix("play ")].sent
    exchange.verbatim(sent.status, sent.now(), sent.body, dropped=sent.dropped)


def blank(exchange: Exchange) -> None:
    """Call a tool without arguments; answer once it was refused."""
    if exchange.received.answered:
        exchange.answer("Asked badly.")
    else:
        exchange.calls(("ask_person", ""))


def fenced(exchange: Exchange) -> None:
    """Answer with JSON whose thoughts come first."""
    exchange.answer('<think>A ticket.</think>{"category": "billing", ', '"summary": "Twice."}')


def busy(exchange: Exchange) -> None:
    """Refuse the first request, with a wait that passes soon."""
    if exchange.tries == 1:
        exchange.error(503, {"message": "Busy"}, retry_after="1")
    else:
        exchange.answer_with(whole())


@pytest.fixture(scope="session")
def scripted_server() -> Iterator[ModelServer]:
    own = {"play": play, "blank": blank, "fenced": fenced, "busy": busy}
    with ModelServer({**SCENES, **own}).running() as server:
        yield server


def test_the_table_is_long_enough() -> None:
    rows = (*STREAMS, *WHOLES, *REFUSALS, *PASSING)
    assert len(ROWS) == len(rows), "each row has a name of its own"
    assert len(rows) >= 60


@pytest.mark.requirement("E5")
@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
async def test_what_a_provider_sends_has_one_outcome(
    runner: LlmRunner, context: RecordingContext, model_server: ModelServer, row: Row
) -> None:
    job = llm_job(f"play {row.name}", may_ask=bool(row.due.asked), max_output_tokens=50)
    ended: Completed | Parked | ExecutionError
    try:
        ended = await runner.run(job, context)
    except ExecutionError as error:
        ended = error

    check_end(ended, row.due)
    check_calls(context, row.due)
    assert len(model_server.received) == row.due.requests
    thoughts = "".join(str(delta.get("thinking", "")) for delta in context.deltas)
    assert thoughts == row.due.thought


def check_end(ended: Completed | Parked | ExecutionError, due: Due) -> None:
    if due.code is not None:
        assert isinstance(ended, ExecutionError), f"half an answer is none: {ended}"
        assert (ended.code, ended.retryable) == (due.code, due.retryable), ended
        assert due.words in ended.message
        if due.wait is not None:
            assert isinstance(ended, ProviderError)
            assert ended.retry_after is not None, "the next try must wait"
            assert due.wait - 5 <= ended.retry_after <= due.wait
    elif due.asked:
        assert isinstance(ended, Parked), ended
        assert tuple(each.title for each in ended.questions) == due.asked
        assert len({each.key for each in ended.questions}) == len(due.asked)
    else:
        assert isinstance(ended, Completed), ended
        assert (ended.result, ended.truncated) == (due.result, due.truncated)


def check_calls(context: RecordingContext, due: Due) -> None:
    reasons = [call.finish_reason for call in context.calls]
    assert reasons == ([] if due.finish is None else [due.finish] * due.requests)
    for call in context.calls:
        measured = (call.input_tokens, call.output_tokens, call.cached_tokens)
        assert measured == due.tokens
        assert (call.booked is not None) == (measured == (0, 0, 0)), "an estimate stands in"


async def test_a_call_without_arguments_is_one_with_none(
    runner: LlmRunner, context: RecordingContext, model_server: ModelServer
) -> None:
    outcome = await runner.run(llm_job("blank", may_ask=True), context)

    assert outcome == Completed("Asked badly.")
    (call,) = model_server.received[1].body["messages"][1]["tool_calls"]
    assert call["function"]["arguments"] == "{}", "providers refuse what is no JSON"


async def test_thoughts_before_json_are_no_part_of_it(
    runner: LlmRunner, context: RecordingContext
) -> None:
    outcome = await runner.run(llm_job("fenced", schema=TICKET_SCHEMA), context)

    assert outcome == Completed({"category": "billing", "summary": "Twice."})


async def test_a_structured_answer_that_is_cut_off_is_none(
    runner: LlmRunner, context: RecordingContext
) -> None:
    ROWS["cut"] = Row(name="cut", sent=body(whole("length", content='{"cat')), due=Due())

    with pytest.raises(ExecutionError) as raised:
        await runner.run(llm_job("play cut", schema=TICKET_SCHEMA), context)

    assert raised.value.code == "output_invalid"


async def test_the_pauses_of_the_client_are_no_silence_of_the_model(
    model_server: ModelServer, runner: LlmRunner, context: RecordingContext
) -> None:
    """The pause is longer than the model may be silent, which it is not."""
    runner._patience = SilenceLimits(first=0.8, between=0.8)

    assert await runner.run(llm_job("busy"), context) == Completed("AB")
    assert len(model_server.received) == 2
