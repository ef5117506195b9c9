"""Cassettes: the recorded model traffic of an execution, and how requests find their answers in it.

The format, its rules and its limits are described in docs/cassettes.md.
"""

from celeriac.domain.cassettes.format import (
    MAX_BYTES,
    MAX_INTERACTIONS,
    REQUEST_HEADERS,
    RESPONSE_HEADERS,
    Body,
    Cassette,
    CassetteSummary,
    Header,
    Interaction,
    JsonEvent,
    Request,
    Response,
    dump,
    dump_line,
    parse,
    read_body,
    write_body,
)
from celeriac.domain.cassettes.matching import Replayer, ReplayResult, joined

__all__ = [
    "MAX_BYTES",
    "MAX_INTERACTIONS",
    "REQUEST_HEADERS",
    "RESPONSE_HEADERS",
    "Body",
    "Cassette",
    "CassetteSummary",
    "Header",
    "Interaction",
    "JsonEvent",
    "ReplayResult",
    "Replayer",
    "Request",
    "Response",
    "dump",
    "dump_line",
    "joined",
    "parse",
    "read_body",
    "write_body",
]
