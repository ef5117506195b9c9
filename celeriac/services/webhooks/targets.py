"""Which URLs webhooks and callbacks may have."""

from celeriac.domain.errors import InvalidInputError
from celeriac.kit.outbound import OutboundGuard, refusal


def check_url(guard: OutboundGuard, url: str, field: str) -> None:
    """Raise InvalidInputError, which names `field`, if nothing can be sent to `url`."""
    fault = refusal(guard, url)
    if fault is not None:
        raise InvalidInputError(f"{field} {fault}.", field=field)
