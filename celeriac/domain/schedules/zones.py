"""Time zones of the `tzdata` package, the same on every host."""

from functools import lru_cache
from importlib.resources import files
from zoneinfo import ZoneInfo

from celeriac.domain.errors import InvalidInputError

_LONGEST_NAME = 64


@lru_cache(maxsize=1)
def _names() -> frozenset[str]:
    listed = (files("tzdata") / "zones").read_text(encoding="utf-8")
    return frozenset(listed.split())


@lru_cache(maxsize=700)
def _load(name: str) -> ZoneInfo:
    # ZoneInfo(name) would prefer the zones of the host
    with (files("tzdata") / "zoneinfo").joinpath(*name.split("/")).open("rb") as file:
        return ZoneInfo.from_file(file, key=name)


def time_zone(name: str) -> ZoneInfo:
    """Return the zone of an IANA name, such as `Europe/Berlin`. Raises InvalidInputError."""
    if len(name) > _LONGEST_NAME or name not in _names():
        raise InvalidInputError(
            f"There is no time zone {name[:_LONGEST_NAME]!r}; write an IANA name, such as "
            "'Europe/Berlin' or 'UTC'.",
            field="zone",
        )
    return _load(name)
