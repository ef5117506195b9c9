"""Deliveries to real receivers: signed, sent again, in lanes, by several senders."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

import pytest
from structlog.testing import capture_logs

from celeriac import traces
from celeriac.domain.approvals import Question, QuestionKind
from celeriac.domain.executions.model import Completed, Failed, Failure, Parked, SubmitRequest
from celeriac.domain.executions.options import RunOptions
from celeriac.domain.executions.states import WaitingFor
from celeriac.domain.webhooks import RETRY_SECONDS, Reception
from celeriac.kit.outbound import OutboundGuard
from celeriac.services.catalog.specs import SpecCache
from celeriac.services.executions.submit import Submit
from celeriac.services.webhooks.send import Outgoing, Post, Sender
from tests.support.collector import Collector
from tests.support.core import Core
from tests.support.ends import EVENTS, rows
from tests.support.waiting import wait_until
from tests.support.webhooks import (
    HERE,
    KEYS,
    Receiver,
    add_deliveries,
    add_endpoint,
    delivery_of,
    pass_time,
    receiving,
    sending,
)
from tests.support.workflows import Flows

pytestmark = pytest.mark.requirement("F18")


@pytest.fixture(scope="module")
def server() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


@pytest.fixture
def receiver(server: Receiver) -> Receiver:
    server.clear()
    return server


def test_an_end_is_sent_signed_with_what_the_receiver_needs(core: Core, receiver: Receiver) -> None:
    endpoint = add_endpoint(core, f"{receiver.url}/ok", *EVENTS)
    claim = core.running()
    core.end(claim, Completed({"lead": "ACME\u2028"}))
    execution_id = claim.lease.execution_id

    with sending(core.database) as sender:
        assert sender.send_due() == 1
        assert sender.send_due() == 0

    (got,) = receiver.got
    got.verify(KEYS.secret(endpoint))
    assert abs(int(got.headers["webhook-timestamp"]) - time.time()) < 60
    sent = json.loads(got.body)
    row = delivery_of(core)
    assert (sent["type"], got.id) == ("execution.completed", str(row.id))
    data = sent["data"]
    assert (data["id"], data["status"]) == (str(execution_id), "completed")
    assert (data["result"], data["result_omitted"], data["error"]) == (
        {"lead": "ACME\u2028"}, False, None
    )  # fmt: skip
    assert data["task"] == core.get(execution_id).task_name
    assert data["links"]["execution"] == (
        f"https://celeriac.example/api/v1/task-executions/{execution_id}"
    )
    assert (row.status, row.attempts, row.status_code, row.error) == ("delivered", 1, 204, None)
    assert row.body.encode() == got.body


def test_each_try_is_a_span_without_the_address(
    core: Core, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint = add_endpoint(core, f"{receiver.url}/ok", *EVENTS)
    with Collector().running() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        traces.start("test")
        try:
            for status in (204, 500):
                receiver.status = status
                core.end(core.running(), Completed({}))
                with sending(core.database) as sender:
                    assert sender.send_due() == 1
        finally:
            traces.stop()  # sends what it has
    told = [
        (each.kind, each.attributes["http.response.status_code"], each.failed)
        for each in collector.spans
        if each.name == "send webhook"
    ]
    assert told == [("client", 204, False), ("client", 500, True)]
    (endpoints,) = {each.attributes["celeriac.endpoint_id"] for each in collector.spans
                    if each.name == "send webhook"}  # fmt: skip
    assert endpoints == str(endpoint)
    assert receiver.url.encode() not in b"".join(collector.bodies)


def test_a_failure_names_its_error_and_a_large_result_is_left_out(
    core: Core, receiver: Receiver
) -> None:
    add_endpoint(core, f"{receiver.url}/ok", *EVENTS)
    core.end(core.running(), Failed(Failure("agent_failed", "no such lead", {})))
    core.end(core.running(), Completed("x" * 70_000))

    with sending(core.database) as sender:
        sender.send_due()

    data = {each["type"]: each["data"] for each in map(json.loads, (g.body for g in receiver.got))}
    failed, completed = data["execution.failed"], data["execution.completed"]
    assert failed["error"] == {"code": "agent_failed", "message": "no such lead"}
    assert (completed["result"], completed["result_omitted"]) == (None, True)


def test_an_execution_that_was_deleted_is_still_told(core: Core, receiver: Receiver) -> None:
    add_endpoint(core, f"{receiver.url}/ok", *EVENTS)
    claim = core.running()
    core.end(claim, Completed(1))
    core.execute("DELETE FROM executions")

    with sending(core.database) as sender:
        assert sender.send_due() == 1

    data = json.loads(receiver.got[0].body)["data"]
    del data["links"]
    assert data == {"id": str(claim.lease.execution_id), "status": "completed", "deleted": True}


def test_a_question_is_told(core: Core, receiver: Receiver) -> None:
    add_endpoint(core, f"{receiver.url}/ok", "approval.asked")
    question = Question(key="pay", kind=QuestionKind.TOOL, title="May it pay?")
    core.end(core.running(), Parked(WaitingFor.APPROVAL, "It asks.", questions=(question,)))

    with sending(core.database) as sender:
        assert sender.send_due() == 1

    sent = json.loads(receiver.got[0].body)
    assert (sent["type"], sent["data"]["title"]) == ("approval.asked", "May it pay?")
    assert set(sent["data"]["links"]) == {"approval", "execution"}


def test_a_question_of_a_step_is_told(core: Core, receiver: Receiver) -> None:
    add_endpoint(core, f"{receiver.url}/ok", "approval.asked")
    flows = Flows(core)
    run_id = flows.start(flows.define("order", {"ok": {"approve": "Send it?", "show": {"n": 1}}}))
    flows.drive()

    with sending(core.database) as sender:
        assert sender.send_due() == 1

    data = json.loads(receiver.got[0].body)["data"]
    assert (data["title"], data["arguments"]) == ("Send it?", {"n": 1})
    assert (data["workflow_run_id"], data["workflow"], data["step"]) == (str(run_id), "order", "ok")
    assert set(data["links"]) == {"approval", "workflow_run"}


def test_a_callback_is_told_of_its_execution_alone(core: Core, receiver: Receiver) -> None:
    submit = Submit(core.database, SpecCache(core.database), core.dispatch, HERE)
    options = RunOptions(callback_url=f"{receiver.url}/ok?lead=7")
    for wanted in (options, RunOptions()):
        made = submit(core.actor, SubmitRequest(task_id=core.task, options=wanted))
        claim = core.claim(core.message(made.execution_id))
        assert claim is not None
        core.end(claim, Completed(1))

    with sending(core.database) as sender:
        assert sender.send_due() == 1

    (got,) = receiver.got
    got.verify(KEYS.secret(core.actor.workspace_id))
    assert (delivery_of(core).endpoint_id, delivery_of(core).status) == (None, "delivered")


@pytest.mark.failure("H3")
@pytest.mark.parametrize("path", ["/status/500", "/status/404", "/status/429", "/away"])
def test_h3_what_may_pass_is_sent_again_with_the_same_id_and_given_up_in_the_end(
    core: Core, receiver: Receiver, path: str
) -> None:
    endpoint = add_endpoint(core, f"{receiver.url}{path}")
    add_deliveries(core, endpoint, 1)

    with sending(core.database) as sender:
        pauses = []
        for _ in RETRY_SECONDS:
            assert sender.send_due() == 1
            assert sender.send_due() == 0, "not at once"
            row = delivery_of(core, "status, extract(epoch FROM available_at - now()) AS pause")
            assert row.status == "pending"
            pauses.append(float(row.pause))
            pass_time(core, 100_000)
        assert sender.send_due() == 1
        assert delivery_of(core).status == "failed"
        pass_time(core, 100_000)
        assert sender.send_due() == 0

    assert len(receiver.got) == len(RETRY_SECONDS) + 1
    assert len(set(receiver.ids())) == 1
    assert len({each.body for each in receiver.got}) == 1
    for pause, wanted in zip(pauses, RETRY_SECONDS, strict=True):
        assert 0.89 * wanted - 5 < pause < 1.11 * wanted
    for each in receiver.got:
        each.verify(KEYS.secret(endpoint))


@pytest.mark.failure("H3")
def test_h3_a_closed_port_and_an_unknown_name_are_tried_again(core: Core) -> None:
    for url in ("http://127.0.0.1:1/", "https://nowhere.invalid/"):
        add_deliveries(core, add_endpoint(core, url), 1)

    with sending(core.database) as sender:
        assert sender.send_due() == 2

    assert {row.status for row in rows(core, "SELECT status FROM deliveries")} == {"pending"}


@pytest.mark.failure("H3")
def test_h3_an_address_inside_is_refused_for_ever(core: Core, receiver: Receiver) -> None:
    add_deliveries(core, add_endpoint(core, f"{receiver.url}/ok"), 1)
    named = f"https://localhost.localdomain:{receiver.url.rpartition(':')[2]}/ok"
    add_deliveries(core, add_endpoint(core, named), 0)

    with sending(core.database, guard=OutboundGuard()) as sender:
        assert sender.send_due() == 1

    row = delivery_of(core)
    assert (row.status, row.attempts) == ("failed", 1)
    assert "CELERIAC_OUTBOUND_ALLOW_HOSTS" in row.error
    assert receiver.got == []


@pytest.mark.failure("H5")
def test_h5_a_redirect_to_an_address_inside_is_not_followed(core: Core, receiver: Receiver) -> None:
    add_deliveries(core, add_endpoint(core, f"{receiver.url}/away"), 1)

    with sending(core.database, guard=OutboundGuard(allow_private=True)) as sender:
        sender.send_due()

    row = delivery_of(core)
    assert (row.status, row.status_code) == ("pending", 307)
    assert "redirects are not followed" in row.error


def test_410_pauses_the_endpoint_and_what_waits_for_it_fails(
    core: Core, receiver: Receiver
) -> None:
    endpoint = add_endpoint(core, f"{receiver.url}/status/410", *EVENTS)
    add_deliveries(core, endpoint, 5)

    with sending(core.database) as sender, capture_logs() as lines:
        sender.send_due()

    (row,) = rows(core, "SELECT active, paused_reason FROM webhook_endpoints")
    assert tuple(row) == (False, "gone")
    assert {each[0] for each in rows(core, "SELECT status FROM deliveries")} == {"failed"}
    assert len(receiver.got) <= 2
    assert "webhook.paused" in [line["event"] for line in lines]
    (entry,) = rows(core, "SELECT * FROM audit_logs WHERE action = 'webhook.pause'")
    assert (entry.actor, entry.resource_id) == ("webhooks", str(endpoint))
    assert entry.workspace_id == core.actor.workspace_id
    core.end(core.running(), Completed(1))
    assert len(rows(core, "SELECT 1 FROM deliveries")) == 5


def test_five_days_without_success_pause_it_and_a_success_starts_afresh(
    core: Core, receiver: Receiver
) -> None:
    endpoint = add_endpoint(core, f"{receiver.url}/ok")
    shift = "UPDATE webhook_endpoints SET failing_since = failing_since - interval '4.9 days'"
    with sending(core.database) as sender:

        def fails() -> Any:
            receiver.status = 500
            add_deliveries(core, endpoint, 1)
            sender.send_due()
            core.execute("DELETE FROM deliveries")
            return rows(core, "SELECT active, failing_since FROM webhook_endpoints")[0]

        assert fails().failing_since is not None
        core.execute(shift)
        assert fails().active
        receiver.status = 204
        add_deliveries(core, endpoint, 1)
        sender.send_due()
        core.execute("DELETE FROM deliveries")
        assert rows(core, "SELECT failing_since FROM webhook_endpoints")[0][0] is None
        fails()
        core.execute(shift)
        core.execute(shift)
        assert not fails().active
    (reason,) = rows(core, "SELECT paused_reason FROM webhook_endpoints")
    assert reason[0] == "failing"


def test_an_answer_without_end_is_cut_and_counts(core: Core, receiver: Receiver) -> None:
    add_deliveries(core, add_endpoint(core, f"{receiver.url}/endless"), 1)

    with sending(core.database) as sender:
        assert sender.send_due() == 1

    row = delivery_of(core)
    assert (row.status, row.status_code, len(row.answer)) == ("delivered", 200, 65_536)


def test_an_answer_is_kept_without_secrets(core: Core, receiver: Receiver) -> None:
    receiver.text = "refused: password=hunter2\x00"
    add_deliveries(core, add_endpoint(core, f"{receiver.url}/status/500"), 1)

    with sending(core.database) as sender, capture_logs() as lines:
        sender.send_due()

    assert delivery_of(core).answer.startswith("refused: password=***")
    assert "hunter2" not in str(lines)
    assert receiver.url not in str(lines), "a URL may hold secrets"


def test_receivers_share_no_cookies(core: Core, receiver: Receiver) -> None:
    endpoint = add_endpoint(core, f"{receiver.url}/cookie")
    with sending(core.database) as sender:
        for _ in range(2):
            add_deliveries(core, endpoint, 1)
            sender.send_due()

    assert len(receiver.got) == 2
    assert not any("cookie" in each.headers for each in receiver.got)


@pytest.mark.failure("H4")
def test_h4_receivers_that_never_answer_delay_nobody(core: Core, receiver: Receiver) -> None:
    for number in range(3):
        add_deliveries(core, add_endpoint(core, f"{receiver.url}/never/{number}"), 50)
    healthy = [f"/ok/{number}" for number in range(10)]
    for path in healthy:
        add_deliveries(core, add_endpoint(core, f"{receiver.url}{path}"), 20)

    with sending(core.database) as sender, ThreadPoolExecutor(1) as pool:
        sent = pool.submit(sender.send_due)
        wait_until(
            lambda: len(receiver.healthy()) == 200,
            "all others arrive while the dead ones hang",
            within=14,
        )
        assert not sent.done()
        sender.stop()
        receiver.release.set()
        sent.result(30)

    arrived = [each.id for each in receiver.healthy()]
    assert len(set(arrived)) == 200
    assert set(receiver.most.values()) <= {1, 2}, "two of a lane at most"
    assert all(receiver.most[f"/never/{number}"] == 2 for number in range(3))


@pytest.mark.failure("H5")
def test_h5_a_sender_that_is_killed_in_between_loses_nothing(
    core: Core, receiver: Receiver
) -> None:
    endpoint = add_endpoint(core, f"{receiver.url}/ok")
    add_deliveries(core, endpoint, 1)
    reached = threading.Event()

    def lost(outgoing: Outgoing, done: Callable[[Reception], None]) -> None:
        """It is sent, and the sender ends before it stores the answer."""
        post(outgoing, lambda _: reached.set())

    with sending(core.database) as other:
        post = other._post
        with sending(core.database, post=lambda _: lost) as killed:
            threading.Thread(target=killed.send_due, daemon=True).start()
            assert reached.wait(20)
            assert other.send_due() == 0, "the claim holds"
            pass_time(core, 61)
            assert other.send_due() == 1
            row = delivery_of(core)
            assert (row.status, row.attempts) == ("delivered", 2)
            killed._under_way.clear()  # lets its thread end

    assert len(receiver.ids()) == 2
    assert len(set(receiver.ids())) == 1


def test_a_result_of_a_claim_that_was_lost_is_not_stored(core: Core, receiver: Receiver) -> None:
    add_deliveries(core, add_endpoint(core, f"{receiver.url}/ok"), 1)
    late: list[Callable[[], None]] = []

    def hold(_: Outgoing, done: Callable[[Reception], None]) -> None:
        late.append(lambda: done(Reception(500, "It failed.")))

    with sending(core.database) as other, sending(core.database, post=lambda _: hold) as slow:
        thread = threading.Thread(target=slow.send_due, daemon=True)
        thread.start()
        wait_until(lambda: bool(late), "it was claimed")
        pass_time(core, 61)
        assert other.send_due() == 1
        late[0]()
        thread.join(20)

    assert not thread.is_alive()
    assert (delivery_of(core).status, delivery_of(core).attempts) == ("delivered", 2)


def test_what_could_not_be_begun_is_sent_after_its_claim(core: Core, receiver: Receiver) -> None:
    add_deliveries(core, add_endpoint(core, f"{receiver.url}/ok"), 1)
    faults = [RuntimeError("can't start new thread")]

    def failing_once(sends: Post) -> Post:
        def post(outgoing: Outgoing, done: Callable[[Reception], None]) -> None:
            if faults:
                raise faults.pop()
            sends(outgoing, done)

        return post

    with sending(core.database, post=failing_once) as sender:
        with pytest.raises(RuntimeError, match="start new thread"):
            sender.send_due()
        assert sender.send_due() == 0
        pass_time(core, 61)
        assert sender.send_due() == 1
    assert (delivery_of(core).status, delivery_of(core).attempts) == ("delivered", 2)


def test_two_senders_at_once_send_nothing_twice_and_keep_the_lanes(
    core: Core, receiver: Receiver
) -> None:
    for number in range(4):
        add_deliveries(core, add_endpoint(core, f"{receiver.url}/ok/{number}"), 30)

    with (
        sending(core.database) as one,
        sending(core.database) as two,
        ThreadPoolExecutor(2) as pool,
    ):
        made = [pool.submit(each.send_due) for each in (one, two)]
        assert sum(each.result(60) for each in made) == 120

    assert len(receiver.got) == len(set(receiver.ids())) == 120
    assert set(receiver.most.values()) <= {1, 2}
    statuses = rows(core, "SELECT DISTINCT status, attempts FROM deliveries")
    assert [tuple(each) for each in statuses] == [("delivered", 1)]


def test_a_budget_that_is_spent_is_told_once(core: Core, receiver: Receiver) -> None:
    from celeriac.db.webhooks import deliveries

    add_endpoint(core, f"{receiver.url}/ok", "budget.spent")
    add_endpoint(core, f"{receiver.url}/ok", *EVENTS)
    with core.database.autocommit() as connection:
        for once in ("a", "a", "b"):
            deliveries.add_once(
                connection,
                core.actor.workspace_id,
                event="budget.spent",
                once=once,
                execution_id=UUID(int=1),
                data={"window": "2026-11-22"},
            )

    with sending(core.database) as sender:
        assert sender.send_due() == 2

    sent = json.loads(receiver.got[0].body)
    assert (sent["type"], sent["data"]["window"]) == ("budget.spent", "2026-11-22")


def test_a_database_that_is_away_loses_no_result(
    core: Core, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    from celeriac.domain.errors import DatabaseUnavailableError

    add_deliveries(core, add_endpoint(core, f"{receiver.url}/ok"), 1)
    with sending(core.database) as sender:
        store = Sender._store
        faults = iter([DatabaseUnavailableError("It is away.")])

        def away(self: Sender, *arguments: Any) -> None:
            for fault in faults:
                raise fault
            store(self, *arguments)

        monkeypatch.setattr(Sender, "_store", away)
        with pytest.raises(DatabaseUnavailableError):
            sender.send_due()
        sender.send_due()

    assert len(receiver.got) == 1
    assert delivery_of(core).status == "delivered"
