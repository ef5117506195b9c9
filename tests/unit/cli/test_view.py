"""What a follower learns from an execution's events."""

from datetime import UTC, datetime, timedelta
from io import StringIO
from uuid import uuid4

from rich.console import Console

from celeriac.cli.executions.following import event_line
from celeriac.cli.executions.view import KEPT_EVENTS, View, describe, render
from celeriac.client import Delta
from celeriac.domain.executions.events import EventType
from celeriac.domain.executions.states import Status
from celeriac.wire import Event

BEGIN = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


def _event(seq: int, kind: EventType, attempt: int = 0, /, **data: object) -> Event:
    at = BEGIN + timedelta(seconds=seq)
    return Event(seq=seq, type=kind, at=at, attempt=attempt, data=data)


def _view(*events: Event) -> View:
    view = View(uuid4(), "summarise")
    for event in events:
        view.apply(event)
    return view


def _drawn(view: View) -> str:
    console = Console(width=120, record=True, file=StringIO())
    console.print(render(view, []))
    return console.export_text()


def test_the_way_to_completion() -> None:
    view = _view(
        _event(1, EventType.CREATED, by="ada", trigger_type="manual"),
        _event(2, EventType.QUEUED, queue="default"),
        _event(3, EventType.STARTED, 1, worker="w@h/1"),
        _event(4, EventType.PROGRESS, 1, done=1, total=4, note="reading"),
        _event(5, EventType.MODEL_CALL, 1, input_tokens=10, output_tokens=3),
        _event(6, EventType.MODEL_CALL, 1, input_tokens=5, output_tokens=2),
    )
    assert view.status.value == "running"
    assert (view.attempt, view.worker) == (1, "w@h/1")
    assert (view.done, view.total, view.note) == (1, 4, "reading")
    assert (view.input_tokens, view.output_tokens) == (15, 5)
    view.apply(_event(7, EventType.COMPLETED, 1))
    assert view.ended
    assert view.status.value == "completed"
    assert (view.created_at, view.started_at, view.ended_at) == (
        BEGIN + timedelta(seconds=1),
        BEGIN + timedelta(seconds=3),
        BEGIN + timedelta(seconds=7),
    )


def test_what_it_waits_for_and_what_is_asked() -> None:
    asked = _event(2, EventType.APPROVAL_ASKED, 1, approval_id="a-1", title="May I?\x1b[2J")
    view = _view(
        _event(1, EventType.STARTED, 1, worker="w"),
        asked,
        _event(3, EventType.WAITING, 1, reason="approval", note="The agent asks."),
    )
    assert (view.status, view.waits_for) == (Status.WAITING, "The agent asks.")
    assert view.questions == {"a-1": "May I?\x1b[2J"}
    assert describe(asked).startswith("celeriac approvals answer a-1: May I?")
    shown = _drawn(view)
    assert "waits: The agent asks." in shown
    assert "celeriac approvals answer a-1" in shown
    assert "\x1b[2J" not in shown, "a title commands no terminal"

    view.apply(
        _event(4, EventType.APPROVAL_ANSWERED, 1, approval_id="a-1", approved=True, by="ada")
    )
    view.apply(_event(5, EventType.RESUMED, 1))
    assert (view.status, view.waits_for, view.questions) == (Status.PENDING, "", {})


def test_another_attempt_begins_with_empty_progress_and_output() -> None:
    view = _view(_event(1, EventType.STARTED, 1, worker="w1"))
    assert view.add_output(Delta({"text": "half a sen"})) == "half a sen"
    view.apply(_event(2, EventType.PROGRESS, 1, done=3, total=4, note="nearly"))
    view.apply(_event(3, EventType.WORKER_LOST, 1, worker="w1", crash_count=1))
    view.apply(_event(4, EventType.RETRY_SCHEDULED, 1, code="worker_lost", message="gone"))
    assert view.status is Status.PENDING
    view.apply(_event(5, EventType.STARTED, 2, worker="w2"))
    assert (view.attempt, view.worker, view.text, view.done, view.note) == (2, "w2", "", None, "")


def test_other_deltas_than_text_are_not_shown() -> None:
    view = _view()
    assert view.add_output(Delta({"thinking": "hm"})) == ""
    assert view.text == ""


def test_only_so_many_events_are_kept() -> None:
    view = _view(*(_event(seq, EventType.LOG, 1) for seq in range(1, KEPT_EVENTS + 10)))
    assert len(view.events) == KEPT_EVENTS
    assert view.events[-1].seq == KEPT_EVENTS + 9


def test_every_kind_of_event_is_told_in_one_line() -> None:
    for kind in EventType:
        for data in ({}, {"message": "two\nlines", "content": "x" * 500, "note": None}):
            said = describe(_event(1, kind, 1, **data))
            assert "\n" not in said, kind
            assert len(said) <= 160, kind


def test_the_words_of_some_events() -> None:
    assert describe(_event(1, EventType.STARTED, 2, worker="w@h/9")) == "attempt 2 on w@h/9"
    assert describe(_event(1, EventType.PROGRESS, 1, done=1, total=4, note="read")) == "1 of 4 read"
    assert (
        describe(_event(1, EventType.RETRY_SCHEDULED, 1, delay=2.0, code="c", message="m"))
        == "in 2.0 s after c: m"
    )
    assert event_line(_event(7, EventType.COMPLETED, 1)).endswith("  7 completed")


def test_steps_are_told_by_their_kind_and_name() -> None:
    done = _event(1, EventType.STEP_COMPLETED, 1, kind="run", name="judge_lead", tries=1)
    assert describe(done) == "run judge_lead"
    data = {"kind": "step", "name": "find", "tries": 3, "code": "no_such_lead", "message": "Gone."}
    failed = _event(2, EventType.STEP_FAILED, 1, **data)
    assert describe(failed) == "step find after 3 tries: no_such_lead: Gone."
    assert describe(_event(3, EventType.STEP_COMPLETED, 1, mine=1)) == '{ "mine": 1 }'


def test_changed_labels_are_told() -> None:
    data = {"from": {"region": "eu", "tone": "calm"}, "to": {"tone": "calm", "language": "en"}}
    assert describe(_event(1, EventType.LABELLED, 1, **data)) == "language=en, without region"


def test_tools_are_told_as_calls() -> None:
    called = _event(
        1, EventType.TOOL_CALL, 1, id="c1", server="crm", tool="refund", arguments={"order": "A7"}
    )
    assert describe(called) == 'crm.refund(order="A7")'
    answered = _event(
        2, EventType.TOOL_RESULT, 1, tool="refund", ms=40, failed=True, content="no such order"
    )
    assert describe(answered) == "refund failed in 0.04 s: no such order"
    assert describe(_event(3, EventType.TOOL_CALL, 1, mine=1)) == '{ "mine": 1 }', "an agent's own"
    asked = _event(
        4, EventType.APPROVAL_ASKED, 1, approval_id="a-1", title="May I?", arguments={"order": 7}
    )
    assert describe(asked) == "celeriac approvals answer a-1: May I? (order=7)"
    assert "asks: May I? (order=7)" in _drawn(_view(asked))


def test_a_result_that_is_cut_off_is_said_to_be() -> None:
    assert "cut off" in describe(_event(7, EventType.COMPLETED, 1, truncated=True))
    assert not describe(_event(7, EventType.COMPLETED, 1))


def test_a_failed_check_says_which_round_it_is_and_how_its_output_ends() -> None:
    data = {"command": "pytest -q", "exit_code": 1, "rounds": 2, "output": "E  x\n2 failed\n"}
    first = _event(1, EventType.VERIFY_FAILED, 1, **data, sent_back=True, round=1)
    said = "the agent is sent back, round 1 of 2; `pytest -q` exited with 1: 2 failed"
    assert describe(first) == said
    last = _event(2, EventType.VERIFY_FAILED, 1, **data, sent_back=False, round=2)
    assert describe(last) == "after 2 of 2 rounds; `pytest -q` exited with 1: 2 failed"


def test_a_used_secret_is_told_with_the_place_it_is_for() -> None:
    for place in ("variable", "host", "repository"):
        used = _event(1, EventType.SECRET_USED, 1, secret="shop", version=2, **{place: "X"})
        assert describe(used) == f"shop (version 2) for the {place} X"
    token = {"secret": "app", "version": 1, "host": "h", "expires_at": "2026-11-28T10:00:00Z"}
    assert describe(_event(1, EventType.SECRET_USED, 1, **token)).endswith(
        "for the host h, valid until 2026-11-28T10:00:00Z"
    )


def test_what_a_checkout_and_a_network_say_is_a_sentence() -> None:
    kinds: dict[EventType, dict[str, object]] = {
        EventType.NETWORK_USED: {"reached": [{"sent": 1, "received": 2}], "refused": []},
        EventType.NETWORK_REFUSED: {"host": "h", "port": 1, "reason": "no pattern names it"},
        EventType.CHECKOUT: {"git": "https://g/x", "ref": None, "sha": "a" * 40, "new": True},
        EventType.CHANGE: {"branch": "b", "files": 1, "insertions": 2, "deletions": 0},
    }
    for kind, data in kinds.items():
        assert "{" not in describe(_event(1, kind, 1, **data)), kind


def test_what_was_published_is_shown_with_its_address() -> None:
    url, sha = "https://git.example.com/acme/shop", "a" * 40
    pushed = _event(1, EventType.PUSHED, 1, url=url, branch="fix/7", sha=sha, new=True)
    assert describe(pushed) == f"fix/7 ({'a' * 12}) to {url}"
    data = {"url": f"{url}/pull/7", "number": 7, "base": "main", "new": False}
    opened = _event(2, EventType.PULL_REQUEST, 1, **data)
    assert describe(opened) == f"{url}/pull/7 for main, which was there"
