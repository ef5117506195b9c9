"""Traces: when they are on, and what they import while they are off."""

import subprocess
import sys

import pytest

from celeriac import traces

pytestmark = pytest.mark.requirement("F20")

_ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}


@pytest.mark.parametrize(
    ("environment", "wanted"),
    [
        ({}, False),
        (_ENDPOINT, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:4318/v1/traces"}, True),
        ({"OTEL_TRACES_EXPORTER": "console"}, True),
        ({**_ENDPOINT, "OTEL_TRACES_EXPORTER": "none"}, False),
        ({**_ENDPOINT, "OTEL_SDK_DISABLED": "True"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": " "}, False),
    ],
)
def test_the_standard_variables_turn_them_on(environment: dict[str, str], *, wanted: bool) -> None:
    assert traces.wanted(environment) is wanted


def test_without_them_the_sdk_is_not_imported_and_spans_do_nothing() -> None:
    program = """
import sys
from celeriac import traces
from celeriac.traces.agents import AttemptTrace, ModelCallTrace
traces.start("api")
with traces.span("a") as span:
    span.note(x=1)
    assert traces.traceparent() is traces.trace_id() is traces.trace_of(1) is None
AttemptTrace(trace_id=None, cause=None).end("completed")
ModelCallTrace("p", "m", traces.place()).end(
    model=None, tokens=(0, 0, 0), finish_reason=None, error=None
)
assert not [name for name in sys.modules if name.startswith("opentelemetry")]
"""
    subprocess.run([sys.executable, "-c", program], check=True, env={})
