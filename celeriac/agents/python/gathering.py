"""The branches of `gather`: their places, and what became of them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from celeriac.agents.python.steps import MAX_GATHERED_BYTES, SCOPE, Parking, Scope
from celeriac.domain.errors import ResultsTooLargeError
from celeriac.kit.json_types import dumps


@contextmanager
def within(scope: Scope) -> Iterator[None]:
    """Give durable calls of the block their places in `scope`."""
    token = SCOPE.set(scope)
    try:
        yield
    finally:
        SCOPE.reset(token)


def gathered(results: Sequence[Any], *, return_errors: bool) -> list[Any]:
    """Return the results of all branches; raise what they have raised."""
    parked = [each for each in results if isinstance(each, Parking)]
    if parked:
        raise Parking(more=any(each.more for each in parked))
    errors = [each for each in results if isinstance(each, Raised)]
    if errors and not return_errors:
        raise errors[0].error
    return [each.error if isinstance(each, Raised) else each for each in results]


class Raised:
    """Stands for the result of a branch that has raised an error."""

    def __init__(self, error: Exception) -> None:
        self.error = error


def too_large() -> Raised:
    """Return what stands for a result that `gather` can't keep."""
    return Raised(
        ResultsTooLargeError(
            f"The results of the durable calls of one gather have more than {MAX_GATHERED_BYTES:,} "
            "bytes of JSON together. Let them return less, such as the location of what they have "
            "stored, or gather a part at a time and sum up its results before the next."
        )
    )


def size_of(result: Any) -> int:
    """Return the size of the result of a durable call as JSON; errors count as nothing."""
    parts = result if isinstance(result, list) else [result]
    return sum(
        len(dumps(each).encode())
        for each in parts
        if not isinstance(each, BaseException) and not isinstance(each, Raised)
    )
