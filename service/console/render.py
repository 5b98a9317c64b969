"""Templates into pages. Whatever an event carries is hostile: it is shown as text, with nothing invisible in it."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import jinja2
from markupsafe import Markup, escape

from service.adapters import money
from service.adapters.payload import UnusableError
from service.text import infinity, printable

CHART = (600, 160)
"""Width and height of the balance's chart, in units of its own."""


def shown(value: object) -> object:
    """What a template's `{{ }}` makes of a value, before it is escaped for HTML."""
    match value:
        case Markup():
            return value
        case None:
            return ""
        case datetime() if end := infinity(value):
            return end
        case datetime():
            at = value.astimezone(UTC)
            return Markup('<time datetime="{}">{}</time>').format(at.isoformat(), f"{at:%Y-%m-%d %H:%M:%S} UTC")
        case timedelta():
            return duration(value)
        case _:
            return printable(value)


def duration(value: timedelta) -> str:
    """A length of time in its two greatest units."""
    seconds = int(value.total_seconds())
    for size, unit, smaller in ((86_400, "d", "h"), (3600, "h", "min"), (60, "min", "s")):
        if seconds >= size:
            rest = seconds % size // {"h": 3600, "min": 60, "s": 1}[smaller]
            return f"{seconds // size} {unit}" + (f" {rest} {smaller}" if rest else "")
    return f"{seconds} s"


def amount(minor: int | Decimal | None, currency: str | None) -> str:
    """Minor units as people write them; as they are where the currency is not known."""
    if minor is None:
        return ""
    try:
        return f"{money.to_decimal(int(minor), currency or '')} {currency}"
    except UnusableError:
        return f"{minor} minor units"


def body(content: bytes) -> Markup:
    """A request's body as text in its lines; bytes that are no UTF-8 are escaped."""
    return escape(printable(content.decode("utf-8", "backslashreplace"), keep="\n\t"))


def chart(timeline: Sequence[Mapping[str, Any]], owed: int) -> dict[str, Any]:
    """Where the running balance's steps, zero and what is owed lie in an SVG of the size CHART."""
    width, height = CHART
    balances = [0, *(int(row["balance"]) for row in timeline if row["balance"] is not None)]
    top, bottom = max(owed, *balances), min(0, *balances)

    def y(value: int) -> float:
        return round(height * (top - value) / (top - bottom), 1)

    step = width / len(balances)
    points = [
        f"{round(step * (number + side), 1)},{y(value)}" for number, value in enumerate(balances) for side in (0, 1)
    ]
    return {"width": width, "height": height, "points": " ".join(points), "owed": y(owed), "zero": y(0)}


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("service.console"),
        autoescape=True,
        finalize=shown,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"amount": amount, "body": body}
    environment.globals["chart"] = chart
    return environment


_ENVIRONMENT = _environment()


def page(template: str, **values: object) -> str:
    """The HTML of a template."""
    return _ENVIRONMENT.get_template(template).render(values)
