"""Traces of OpenTelemetry: off unless the standard variables of a process turn them on.

Call `start` once per process, after it was forked, and `stop` at its end. Everything else may be
called at any time: while traces are off it does nothing and imports nothing. Spans hold ids, names,
counts and kinds of errors; never contents, messages of errors or addresses. docs/traces.md lists
them.
"""

import hashlib
import os
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Literal
from uuid import UUID

import structlog

if TYPE_CHECKING:
    from celeriac.traces.provider import Traces

logger = structlog.get_logger(__name__)

Kind = Literal["internal", "server", "client", "producer", "consumer"]
Value = str | int | float | bool | UUID | None

TRACEPARENT = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
"""The W3C's `traceparent`, version 00."""

_STOP_SECONDS = 3.0
"""How long a process that ends waits for its last spans to be sent."""


class _State:
    traces: "Traces | None" = None


class Span:
    """A span that has begun; while traces are off, one that does nothing."""

    def __init__(self, traces: "Traces | None" = None, handle: object = None) -> None:
        """Wrap `handle`, a span of OpenTelemetry."""
        self._traces = traces
        self._handle = handle

    def note(self, **attributes: Value) -> None:
        """Set attributes `celeriac.NAME`, or NAME where it has dots; None sets nothing."""
        if self._traces is not None:
            self._traces.note(self._handle, attributes)

    def rename(self, name: str) -> None:
        """Change the name."""
        if self._traces is not None:
            self._traces.rename(self._handle, name)

    def fails(self, kind: str) -> None:
        """Mark the span as failed with `error.type`, which is a code or the name of a type."""
        if self._traces is not None:
            self._traces.fails(self._handle, kind)

    def end(self) -> None:
        """End the span; later calls do nothing."""
        if self._traces is not None:
            self._traces.end(self._handle)

    @contextmanager
    def active(self) -> Iterator[None]:
        """Make it the parent of the spans that begin in the block."""
        if self._traces is None:
            yield
            return
        with self._traces.active(self._handle):
            yield


_NONE = Span()


def wanted(environment: Mapping[str, str]) -> bool:
    """Whether the standard variables of `environment` turn traces on.

    `OTEL_SDK_DISABLED=true` and `OTEL_TRACES_EXPORTER=none` turn them off; an exporter or an OTLP
    endpoint turns them on.
    """
    given = {name: value.strip() for name, value in environment.items() if name[:5] == "OTEL_"}
    if given.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return False
    exporter = given.get("OTEL_TRACES_EXPORTER", "")
    if exporter:
        return exporter != "none"
    return bool(
        given.get("OTEL_EXPORTER_OTLP_ENDPOINT") or given.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    )


def start(service: str) -> None:
    """Begin to trace in this process if the variables say so; `service` is `api`, `worker`, `beat`.

    Call it after a fork. Never raises: without the extra, or with variables that Celeriac can't
    follow, it logs the cure, and the process works without traces.
    """
    if _State.traces is not None or not wanted(os.environ):
        return
    try:
        from celeriac.traces.provider import Traces  # the extra may be missing

        _State.traces = Traces(service, os.environ)
    except ImportError:
        logger.warning("traces.not_installed", cure="run: pip install 'celeriac[otel]'")
    except Exception as error:  # noqa: BLE001 - traces must not keep a process from working
        logger.warning("traces.not_started", error=f"{type(error).__name__}: {error}")


def stop() -> None:
    """Send the last spans, for at most three seconds, and trace no more."""
    traces, _State.traces = _State.traces, None
    if traces is None:
        return
    ending = threading.Thread(target=traces.close, name="traces-end", daemon=True)
    ending.start()
    ending.join(_STOP_SECONDS)


def current() -> "Traces | None":
    """Return what traces in this process; None while traces are off."""
    return _State.traces


def begin(
    name: str,
    kind: Kind = "internal",
    *,
    traceparent: str | None = None,
    link: str | None = None,
    trace_id: str | None = None,
    **attributes: Value,
) -> Span:
    """Begin a span within the current one; the caller ends it.

    With `traceparent` it continues that trace instead. With `trace_id`, 32 hexadecimal digits, it
    is a root of that trace. `link` is the `traceparent` of what caused it.
    """
    traces = _State.traces
    if traces is None:
        return _NONE
    handle = traces.begin(name, kind, traceparent=traceparent, link=link, trace_id=trace_id)
    traces.note(handle, attributes)
    return Span(traces, handle)


@contextmanager
def span(
    name: str,
    kind: Kind = "internal",
    *,
    traceparent: str | None = None,
    link: str | None = None,
    trace_id: str | None = None,
    **attributes: Value,
) -> Iterator[Span]:
    """Run the block within a span; see `begin`. An error that leaves the block marks it."""
    if _State.traces is None:
        yield _NONE
        return
    begun = begin(name, kind, traceparent=traceparent, link=link, trace_id=trace_id, **attributes)
    try:
        with begun.active():
            yield begun
    except BaseException as error:
        begun.fails(type(error).__name__)
        raise
    finally:
        begun.end()


def part(name: str, kind: Kind = "internal", *, count: int) -> AbstractContextManager[Span]:
    """Like `span`, but only within another span: what the keeper does has no trace of its own."""
    return nullcontext(_NONE) if trace_id() is None else span(name, kind, count=count)


def traceparent() -> str | None:
    """Return the `traceparent` of the current span; None without one, or if it isn't recorded."""
    return None if _State.traces is None else _State.traces.traceparent()


def trace_id() -> str | None:
    """Return the id of the current trace, for log lines."""
    return None if _State.traces is None else _State.traces.trace_id()


def place() -> object:
    """Return where spans begin here, for code that goes on elsewhere; None while traces are off."""
    return None if _State.traces is None else _State.traces.place()


def trace_of(*parts: UUID | int) -> str | None:
    """Return the id of the trace of a thing, the same in every process; None while traces are off.

    It is a digest: the parts can't be read from it.
    """
    if _State.traces is None:
        return None
    text = ":".join(map(str, parts))
    return hashlib.sha256(text.encode()).hexdigest()[:32]
