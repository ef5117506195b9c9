"""The format of cassettes: a header, and one recorded request with its answer a line."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from pydantic import AfterValidator, Field, StringConstraints

from celeriac.domain.agent.base import Strict
from celeriac.domain.cassette.bodies import Body
from celeriac.kit.jsontypes import dumps

MAX_BYTES = 32 * 1024 * 1024
"""The size of a cassette as text, in bytes."""

MAX_INTERACTIONS = 10_000

REQUEST_HEADERS = frozenset({"anthropic-beta", "anthropic-version", "content-type", "openai-beta"})
"""The headers of requests that are kept, for readers; no key is among them."""

RESPONSE_HEADERS = frozenset(
    {"content-type", "request-id", "retry-after", "retry-after-ms", "x-request-id"}
    | {"x-should-retry"}
)
"""The headers of answers that are kept, and sent again."""

_Value = Annotated[str, StringConstraints(pattern=r"^[\x20-\x7e]*$", max_length=1_000)]
_Short = Annotated[str, StringConstraints(max_length=300)]


def _only(known: frozenset[str]) -> AfterValidator:
    def check(headers: Mapping[str, str]) -> Mapping[str, str]:
        for name in headers:
            if name not in known:
                raise ValueError(f"{name!r} is not kept; there are: {', '.join(sorted(known))}")
        return headers

    return AfterValidator(check)


class Header(Strict):
    """The first line: what it is, and where it was recorded."""

    celeriac_cassette: Literal[1]
    """The version of the format."""
    task: _Short = ""
    agent: _Short = ""
    runner: _Short = ""
    execution_id: Annotated[UUID, Field(strict=False)] | None = None
    recorded_at: Annotated[datetime, Field(strict=False)] | None = None
    complete: bool = True
    """False where the recording was stopped at a limit: the last calls are missing."""


class Request(Body):
    """A request to a model provider. `path` begins behind the provider's base URL."""

    method: Annotated[str, StringConstraints(pattern=r"^[A-Z]{1,20}$")]
    path: Annotated[str, StringConstraints(pattern=r"^/[\x21-\x7e]*$", max_length=2_000)]
    headers: Annotated[dict[str, _Value], _only(REQUEST_HEADERS)] = Field(default_factory=dict)


class Response(Body):
    """A provider's answer."""

    status: int = Field(ge=200, le=599)
    headers: Annotated[dict[str, _Value], _only(RESPONSE_HEADERS)] = Field(default_factory=dict)
    broken: bool = False
    """The connection broke before the answer was whole."""


class Interaction(Strict):
    """One recorded request with its answer."""

    attempt: int = Field(default=1, ge=1)
    """The attempt of the execution that made the request."""
    provider: _Short
    """The provider's name: `openai`, `anthropic` or as the settings call it."""
    request: Request
    response: Response


@dataclass(frozen=True, slots=True)
class Cassette:
    """A whole cassette; the interactions are in the order in which they were begun."""

    header: Header
    interactions: tuple[Interaction, ...] = ()

    def extended(self, more: Sequence[Interaction], *, complete: bool) -> "Cassette":
        """Return the cassette with `more` behind what it has, as far as the limits allow.

        `complete` says whether `more` is all that there was. Behind a gap nothing is added.
        """
        if not self.header.complete:
            return self
        cut = self.header.model_copy(update={"complete": False})
        size = _size(cut) + sum(map(_size, self.interactions))
        kept = list(self.interactions)
        for each in more:
            size += _size(each)
            if size > MAX_BYTES or len(kept) >= MAX_INTERACTIONS:
                complete = False
                break
            kept.append(each)
        return Cassette(self.header if complete else cut, tuple(kept))


def dump_line(line: Header | Interaction) -> str:
    """Return one line of a cassette with its end; what has its default is left out."""
    values = line.model_dump(mode="json", exclude_defaults=True)
    for name in ("request", "response"):
        message = values.get(name, {})
        for form in Body.model_fields:
            if form in message:
                message[form] = message.pop(form)  # behind what is short
    return dumps(values) + "\n"


def _size(line: Header | Interaction) -> int:
    return len(dump_line(line).encode())
