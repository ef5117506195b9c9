"""Cassettes: the recorded model traffic of an execution, and how requests find their answers in it.

The format, its rules and its limits are described in docs/cassettes.md.
"""

from celeriac.domain.cassette.bodies import Body, JsonEvent, read_body, write_body
from celeriac.domain.cassette.format import (
    MAX_BYTES,
    MAX_INTERACTIONS,
    REQUEST_HEADERS,
    RESPONSE_HEADERS,
    Cassette,
    Header,
    Interaction,
    Request,
    Response,
    dump_line,
)
from celeriac.domain.cassette.joining import joined
from celeriac.domain.cassette.matching import Played, Player
from celeriac.domain.cassette.parsing import dump, parse
from celeriac.domain.cassette.summary import CassetteSummary

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
    "Played",
    "Player",
    "Request",
    "Response",
    "dump",
    "dump_line",
    "joined",
    "parse",
    "read_body",
    "write_body",
]
