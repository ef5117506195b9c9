"""Numbers with their nouns, as people read them."""


def counted(number: float, noun: str, plural: str | None = None) -> str:
    """Return `1 token`, `0 tokens`, `1,500 tokens` or `0.5 seconds`.

    `plural` is given where it isn't the noun with an `s`.
    """
    shown = f"{number:,}" if isinstance(number, int) else f"{number:g}"
    return f"{shown} {noun if number == 1 else plural or f'{noun}s'}"
