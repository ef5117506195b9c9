"""Which recorded answer a request gets, and what to say where there is none."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from celeriac.domain.cassette.comparing import (
    as_it_is,
    differences,
    fingerprint,
    masked,
    relevant,
)
from celeriac.domain.cassette.format import Cassette, Request, Response
from celeriac.domain.errors import CassetteMismatchError

_COMPARED = 200
_SHOWN = 3
_COUNTED = 50


@dataclass(frozen=True, slots=True)
class Played:
    """A recorded answer."""

    response: Response
    again: bool
    """Whether the same attempt made the same request once more, as after a failure."""


class Player:
    """Gives each request of one attempt its recorded answer; not to be shared between threads.

    A recorded answer is given once. Alike requests get theirs in the order of the recording, those
    that the same attempt got first, so that a retry meets what the retry met. A request that is not
    in the cassette as it is may differ in ids, dates and times. The order of different requests
    makes no difference, so that an agent may make several at once.
    """

    def __init__(self, cassette: Cassette, *, attempt: int) -> None:
        """Play `cassette` to the attempt number `attempt`, from its beginning."""
        self._cassette = cassette
        self._attempt = attempt
        self._unused = set(range(len(cassette.interactions)))
        self._exact: dict[bytes, list[int]] = defaultdict(list)
        self._alike: dict[bytes, list[int]] = defaultdict(list)
        for index, each in enumerate(cassette.interactions):
            self._exact[fingerprint(each.provider, each.request, as_it_is)].append(index)
            self._alike[fingerprint(each.provider, each.request, masked)].append(index)

    def answer(self, provider: str, request: Request) -> Played:
        """Return the answer to a request to `provider`.

        Raises CassetteMismatchError that says where the nearest recorded request differs.
        """
        exact = self._exact.get(fingerprint(provider, request, as_it_is), [])
        alike = self._alike.get(fingerprint(provider, request, masked), [])
        for found in (exact, alike):
            unused = [index for index in found if index in self._unused]
            if unused:
                return self._take(unused)
        raise CassetteMismatchError(self._complaint(provider, request, alike))

    def _take(self, unused: list[int]) -> Played:
        recorded = self._cassette.interactions
        chosen = min(unused, key=lambda index: (recorded[index].attempt != self._attempt, index))
        self._unused.discard(chosen)
        attempt = recorded[chosen].attempt
        again = any(index > chosen and recorded[index].attempt == attempt for index in unused)
        return Played(recorded[chosen].response, again)

    def _complaint(self, provider: str, request: Request, alike: list[int]) -> str:
        what = _kind(provider, request)
        if not self._cassette.header.complete:
            return (
                f"The cassette has no answer to {what}: its recording was stopped at a size limit. "
                "Record a shorter run."
            )
        if alike:
            return (
                f"The agent makes this request ({what}) more often than when the cassette was "
                f"recorded: {len(alike)} answer(s) are recorded, and all are given. Record it anew."
            )
        nearest = min(self._differing(what, request), key=len, default=None)
        if nearest is None:
            kinds = {_kind(each.provider, each.request) for each in self._cassette.interactions}
            recorded = ", ".join(sorted(kinds)[:_SHOWN]) or "nothing"
            return f"The cassette has no answer to {what}; recorded is {recorded}. Record it anew."
        more = len(nearest) - _SHOWN
        rest = f"; and at {more} more places" if more > 0 else ""
        return (
            f"The cassette has no answer to this request ({what}). The nearest one recorded "
            f"differs in {'; '.join(nearest[:_SHOWN])}{rest}. Undo the change, or record it anew."
        )

    def _differing(self, what: str, request: Request) -> Iterator[list[str]]:
        """Yield where recorded requests of the same kind differ, those still unanswered first."""
        now = relevant(request, masked)
        same_kind = [
            (index not in self._unused, index)
            for index, each in enumerate(self._cassette.interactions)
            if _kind(each.provider, each.request) == what
        ]
        for _, index in sorted(same_kind)[:_COMPARED]:
            then = relevant(self._cassette.interactions[index].request, masked)
            yield list(islice(differences(then, now), _COUNTED))


def _kind(provider: str, request: Request) -> str:
    return f"{request.method} {request.path} of {provider}"
