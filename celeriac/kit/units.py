"""Durations and sizes, as people read them."""

_MINUTE = 60
_KILO = 1024


def duration(seconds: float) -> str:
    """Return `0.42 s`, `12.3 s`, `2 min 5 s`, `1 h 3 min` or `2 d 4 h`."""
    if seconds < 0:
        return f"-{duration(-seconds)}"
    if seconds < _MINUTE:
        return f"{seconds:.2f} s" if seconds < 1 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def size(count: float) -> str:
    """Return bytes as `512 B`, `1.5 KiB`, `20.0 GiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < _KILO:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= _KILO
    return f"{count:.1f} TiB"
