"""Traces of a process whose collector can't be reached."""

import socket
from collections.abc import Iterator

import pytest
from opentelemetry import trace as trace_of_otel

from celeriac import traces
from celeriac.traces.agents import AttemptTrace

pytestmark = pytest.mark.requirement("F20")


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Trace to a port on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "64")
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "32")
    traces.start("test")
    yield
    traces.stop()


@pytest.mark.usefixtures("nowhere")
def test_an_unreachable_collector_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    for number in range(500):
        with traces.span("busy", number=number):
            assert traces.trace_id()
    traces.stop()
    assert caplog.text.count("traces.not_sent") == 1
    assert traces.current() is None


@pytest.mark.usefixtures("nowhere")
def test_a_callers_trace_is_continued_only_if_it_is_well_formed() -> None:
    trace, parent = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
    with traces.span("good", traceparent=f"00-{trace}-{parent}-01"):
        assert traces.trace_id() == trace
    for bad in ("", "00-0-0-01", f"00-{'0' * 32}-{parent}-01", f"00-{trace}-{parent}-01\r\nx: y"):
        with traces.span("bad", traceparent=bad):
            assert traces.trace_id() != trace
            assert traces.trace_id()


@pytest.mark.usefixtures("nowhere")
def test_an_attempts_trace_has_the_id_that_its_log_lines_have() -> None:
    known = traces.trace_of(1, 2)
    attempt = AttemptTrace(trace_id=known, cause=None)
    with attempt._root.active():
        assert traces.trace_id() == known
    attempt.end("completed")


@pytest.mark.usefixtures("nowhere")
def test_a_caller_that_does_not_record_its_trace_is_followed() -> None:
    trace, parent = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
    for flag, recorded in (("00", False), ("01", True)):
        given = f"00-{trace}-{parent}-{flag}"
        with traces.span("request", "server", traceparent=given), traces.span("submit"):
            passed_on = traces.traceparent()
            assert passed_on is not None
            assert passed_on.startswith(f"00-{trace}-"), "the trace goes on"
            assert passed_on.endswith(f"-{flag}"), "with the caller's choice"
            assert trace_of_otel.get_current_span().is_recording() is recorded
