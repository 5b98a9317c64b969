"""Strangers' text (ids, references, details, bodies), made fit to look at in a terminal or on a page."""

from datetime import datetime


def infinity(time: datetime) -> str | None:
    """What PostgreSQL calls a moment beyond all others, which asyncpg gives without a zone; None for others."""
    return None if time.tzinfo else "infinity" if time.year > 1 else "-infinity"


def printable(value: object, keep: str = "") -> str:
    r"""`value` as text; what does not print (controls, line ends, bidi overrides) stands as \x1b, \n, \u202e.

    Of that only the characters in `keep` stay as they are.
    """
    text = str(value)
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() or one in keep else one.encode("unicode_escape").decode() for one in text)
