"""A collector of OpenTelemetry: takes spans over OTLP/HTTP, and keeps them."""

import gzip
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tests.support.http_server import serving


@dataclass(frozen=True)
class Collected:
    """A span as it came."""

    service: str
    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str
    links: tuple[tuple[str, str], ...]
    failed: bool
    attributes: dict[str, Any]


@dataclass
class Collector:
    """Its address, and the spans so far."""

    url: str = ""
    spans: list[Collected] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)

    @contextmanager
    def running(self) -> Iterator["Collector"]:
        """Serve on a loopback port."""
        app = Starlette(routes=[Route("/v1/traces", self._take, methods=["POST"])])
        with serving(app) as self.url:
            yield self

    def of_execution(self, execution_id: str) -> list[Collected]:
        """Return the spans that name an execution."""
        return [
            span
            for span in self.spans
            if span.attributes.get("celeriac.execution_id") == execution_id
        ]

    def children(self, parent: Collected) -> list[Collected]:
        """Return the spans within a span, in the order of their coming."""
        return [span for span in self.spans if span.parent_id == parent.span_id]

    async def _take(self, request: Request) -> Response:
        body = await request.body()
        if request.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        self.bodies.append(body)
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            service = _attributes(resource.resource.attributes)["service.name"]
            for scope in resource.scope_spans:
                self.spans.extend(_collected(service, span) for span in scope.spans)
        return Response(
            ExportTraceServiceResponse().SerializeToString(), media_type="application/x-protobuf"
        )


def _collected(service: str, span: Any) -> Collected:
    return Collected(
        service,
        span.name,
        type(span).SpanKind.Name(span.kind).removeprefix("SPAN_KIND_").lower(),
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        tuple((link.trace_id.hex(), link.span_id.hex()) for link in span.links),
        span.status.code == span.status.STATUS_CODE_ERROR,
        _attributes(span.attributes),
    )


def _attributes(given: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in given}
