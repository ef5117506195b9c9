"""What traces in one process: OpenTelemetry's provider, its exporter, and how spans are made."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any
from uuid import uuid4

import structlog
from opentelemetry import context as contexts
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import (
    BatchSpanProcessor,
    ConsoleSpanExporter,
    SpanExporter,
    SpanExportResult,
)
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.genai.handler import TelemetryHandler

from celeriac.traces import TRACEPARENT, Kind, Value
from celeriac.version import __version__

logger = structlog.get_logger(__name__)

_KINDS = {
    "internal": SpanKind.INTERNAL,
    "server": SpanKind.SERVER,
    "client": SpanKind.CLIENT,
    "producer": SpanKind.PRODUCER,
    "consumer": SpanKind.CONSUMER,
}
_FORMAT = TraceContextTextMapPropagator()
_wanted_trace: ContextVar[int | None] = ContextVar("wanted_trace", default=None)


class Traces:
    """Makes the spans of one process; `close` sends the last ones."""

    def __init__(self, service: str, environment: Mapping[str, str]) -> None:
        """Send to where the standard variables say. Raises ValueError for one not supported."""
        # each batch and each span that is dropped would be a line: `_QuietExporter` tells
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
        resource = Resource.create(_attributes(service, environment))
        self._provider = TracerProvider(resource=resource, id_generator=_Ids())
        processor = BatchSpanProcessor(_QuietExporter(_exporter(environment)))
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("celeriac", __version__)
        self.genai = TelemetryHandler(
            tracer_provider=self._provider,
            instrumentation_scope_name="celeriac",
            instrumentation_scope_version=__version__,
        )

    def close(self) -> None:
        """Send what was not sent."""
        self._provider.shutdown()

    def begin(
        self,
        name: str,
        kind: Kind,
        *,
        traceparent: str | None,
        link: str | None,
        trace_id: str | None,
    ) -> Span:
        """Begin a span; see `celeriac.traces.begin`."""
        links = [Link(found) for found in [_span_context(link)] if found is not None]
        context: Context | None = None
        if trace_id is not None:
            context = Context()
        elif traceparent is not None and TRACEPARENT.fullmatch(traceparent):
            context = _FORMAT.extract({"traceparent": traceparent}, context=Context())
        token = _wanted_trace.set(None if trace_id is None else int(trace_id, 16))
        try:
            return self._tracer.start_span(name, context, _KINDS[kind], links=links)
        finally:
            _wanted_trace.reset(token)

    def note(self, span: Any, attributes: Mapping[str, Value]) -> None:
        """Set attributes of a span."""
        for name, value in attributes.items():
            if value is not None:
                key = name if "." in name else f"celeriac.{name}"
                known = isinstance(value, str | int | float)
                span.set_attribute(key, value if known else str(value))

    def rename(self, span: Any, name: str) -> None:
        """Change the name of a span."""
        span.update_name(name)

    def fails(self, span: Any, kind: str) -> None:
        """Mark a span as failed."""
        span.set_attribute("error.type", kind)
        span.set_status(Status(StatusCode.ERROR))

    def end(self, span: Any) -> None:
        """End a span."""
        if span.is_recording():
            span.end()

    @contextmanager
    def active(self, span: Any) -> Iterator[None]:
        """Make a span the current one."""
        with self.within(trace.set_span_in_context(span)):
            yield

    @contextmanager
    def within(self, context: Context) -> Iterator[None]:
        """Make the span of `context` the current one."""
        token = contexts.attach(context)
        try:
            yield
        finally:
            contexts.detach(token)

    def place(self) -> Context:
        """Return the current context."""
        return contexts.get_current()

    def traceparent(self) -> str | None:
        """Return the `traceparent` of the current span."""
        carrier: dict[str, str] = {}
        _FORMAT.inject(carrier)
        return carrier.get("traceparent")

    def trace_id(self) -> str | None:
        """Return the id of the current trace."""
        found = trace.get_current_span().get_span_context()
        return trace.format_trace_id(found.trace_id) if found.is_valid else None


def _span_context(traceparent: str | None) -> trace.SpanContext | None:
    if traceparent is None or not TRACEPARENT.fullmatch(traceparent):
        return None
    context = _FORMAT.extract({"traceparent": traceparent}, context=Context())
    return trace.get_current_span(context).get_span_context()


class _Ids(RandomIdGenerator):
    """Random ids, but for roots of a trace whose id is known."""

    def generate_trace_id(self) -> int:
        """Return the id of a new trace."""
        return _wanted_trace.get() or super().generate_trace_id()


def _attributes(service: str, environment: Mapping[str, str]) -> dict[str, str]:
    found = {"service.version": __version__, "service.instance.id": str(uuid4())}
    named = environment.get("OTEL_SERVICE_NAME") or "service.name=" in environment.get(
        "OTEL_RESOURCE_ATTRIBUTES", ""
    )
    return found if named else {"service.name": f"celeriac-{service}", **found}


def _exporter(environment: Mapping[str, str]) -> SpanExporter:
    name = environment.get("OTEL_TRACES_EXPORTER", "").strip() or "otlp"
    makers: dict[str, Callable[[], SpanExporter]] = {
        "otlp": OTLPSpanExporter,
        "console": ConsoleSpanExporter,
    }
    if name not in makers:
        raise ValueError(f"OTEL_TRACES_EXPORTER is {name!r}; use otlp, console or none")
    protocol = (
        environment.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL")
        or environment.get("OTEL_EXPORTER_OTLP_PROTOCOL")
        or "http/protobuf"
    )
    if name == "otlp" and protocol != "http/protobuf":
        raise ValueError(f"the OTLP protocol is {protocol!r}; use http/protobuf")
    return makers[name]()


class _QuietExporter(SpanExporter):
    """Logs once when spans can't be sent, and once when they can again."""

    def __init__(self, inner: SpanExporter) -> None:
        self._inner = inner
        self._fails = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send spans."""
        result = self._inner.export(spans)
        fails = result is not SpanExportResult.SUCCESS
        if fails is not self._fails:
            self._fails = fails
            if fails:
                logger.warning(
                    "traces.not_sent", cure="check OTEL_EXPORTER_OTLP_ENDPOINT and the collector"
                )
            else:
                logger.info("traces.sent_again")
        return result

    def shutdown(self) -> None:
        """End."""
        self._inner.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Send what is kept."""
        return self._inner.force_flush(timeout_millis)
