"""Which recorded answer a request gets."""

from uuid import uuid4

import pytest

from celeriac.domain.cassettes import Request
from celeriac.domain.errors import CassetteMismatchError
from celeriac.domain.replay import Replayer
from tests.support.cassettes import asked, cassette, recorded


def _said(player: Replayer, request: Request, *, provider: str = "test") -> str:
    return str(player.answer(provider, request).response.body["said"])


def test_alike_requests_get_their_answers_in_order_and_others_in_any() -> None:
    player = Replayer(
        cassette(recorded("a", "1"), recorded("b", "2"), recorded("a", "3")), attempt=1
    )
    said = [_said(player, asked(prompt)) for prompt in ("b", "a", "a")]
    assert said == ["2", "1", "3"]


def test_an_answer_says_whether_the_same_attempt_asked_again() -> None:
    tape = cassette(recorded("a", "1"), recorded("a", "2"), recorded("a", "3", attempt=2))
    player = Replayer(tape, attempt=1)
    assert [player.answer("test", asked("a")).again for _ in range(3)] == [True, False, False]


def test_an_answer_is_given_once() -> None:
    player = Replayer(cassette(recorded("a", "1")), attempt=1)
    _said(player, asked("a"))
    with pytest.raises(CassetteMismatchError, match=r"more often than .* 1 answer"):
        player.answer("test", asked("a"))


def test_a_retry_meets_what_the_retry_met() -> None:
    tape = cassette(recorded("a", "failed"), recorded("a", "went well", attempt=2))
    assert _said(Replayer(tape, attempt=1), asked("a")) == "failed"
    assert _said(Replayer(tape, attempt=2), asked("a")) == "went well"


def test_what_an_attempt_lacks_it_finds_among_the_others() -> None:
    """A worker that was lost, when it was recorded or now, changes nothing else."""
    tape = cassette(recorded("a", "1", attempt=2), recorded("b", "2", attempt=2))
    player = Replayer(tape, attempt=1)
    assert [_said(player, asked("a")), _said(player, asked("b"))] == ["1", "2"]
    assert _said(Replayer(tape, attempt=3), asked("b")) == "2"


def test_who_asks_makes_no_difference() -> None:
    tape = cassette(recorded("a", "1"))
    request = asked("a", user="someone else", metadata={"user_id": "x"}, prompt_cache_key="y")
    assert _said(Replayer(tape, attempt=1), request) == "1"


def test_the_order_of_keys_makes_no_difference() -> None:
    request = Request(
        method="POST",
        path="/chat/completions",
        body={"messages": [{"content": "a", "role": "user"}], "model": "m"},
    )
    assert _said(Replayer(cassette(recorded("a", "1")), attempt=1), request) == "1"


def test_ids_and_times_may_differ_but_the_exact_request_comes_first() -> None:
    first, second = f"run {uuid4()} of 2026-11-22", f"run {uuid4()} of 2026-11-22T10:00:00Z"
    player = Replayer(cassette(recorded(first, "1"), recorded(second, "2")), attempt=1)
    assert _said(player, asked(second)) == "2"
    assert _said(player, asked(f"run {uuid4()} of 2027-01-01")) == "1"


def test_a_difference_is_named_with_its_place() -> None:
    tape = cassette(recorded("Qualify ACME, a maker of rockets", "1"), recorded("Write", "2"))
    with pytest.raises(CassetteMismatchError) as refused:
        Replayer(tape, attempt=1).answer("test", asked("Qualify ACME, a maker of carpets"))
    assert "messages[0].content" in refused.value.message
    assert "rockets" in refused.value.message
    assert "carpets" in refused.value.message
    assert not refused.value.retryable


def test_what_is_new_and_what_is_gone_is_named() -> None:
    with pytest.raises(CassetteMismatchError, match=r"temperature \(then nothing, now 0\.5\)"):
        Replayer(cassette(recorded("a", "1")), attempt=1).answer(
            "test", asked("a", temperature=0.5)
        )


@pytest.mark.parametrize(
    ("request_", "provider"), [(asked("a", path="/other"), "test"), (asked("a"), "openai")]
)
def test_another_path_or_provider_is_another_request(request_: Request, provider: str) -> None:
    player = Replayer(cassette(recorded("a", "1")), attempt=1)
    with pytest.raises(CassetteMismatchError, match="requests are: POST /chat/completions"):
        player.answer(provider, request_)


def test_an_empty_cassette_and_one_that_was_cut_off_say_so() -> None:
    with pytest.raises(CassetteMismatchError, match="its requests are: nothing"):
        Replayer(cassette(), attempt=1).answer("test", asked("a"))
    with pytest.raises(CassetteMismatchError, match="reached the size limit"):
        Replayer(cassette(complete=False), attempt=1).answer("test", asked("a"))
