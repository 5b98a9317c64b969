"""What commands print. Ids, references, details and bodies are strangers' text: none of it may command the terminal."""

import json
import sys
import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import IntEnum
from types import TracebackType
from typing import Any, Self

from service.text import infinity, printable

REDRAW = 0.1
"""Seconds between two drawings of a progress bar."""
BAR = 30
"""Characters."""


class ExitStatus(IntEnum):
    """What a script learns from a command."""

    DONE = 0
    NEEDS_A_PERSON = 1
    """Something was refused, or needs a person; the output says what, and what to do."""
    USAGE = 2
    """The command line or a setting is wrong; nothing was done."""
    UNREACHABLE = 3
    """The database cannot be reached, or broke off in the middle."""


def cell(value: object) -> str:
    """`value` as a person reads it: times in UTC, how long something takes in one unit."""
    match value:
        case None:
            return ""
        case bool():
            return "yes" if value else "no"
        case datetime():
            return infinity(value) or f"{value.astimezone(UTC):%Y-%m-%d %H:%M:%SZ}"
        case timedelta():
            return _duration(value.total_seconds())
        case float() | Decimal():
            return f"{value:.1f}" if isinstance(value, float) else f"{value:f}"  # not 1E+4
    return printable(value)


def _duration(seconds: float) -> str:
    for size, unit in ((86_400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.1f} s"


def table(rows: Iterable[Mapping[str, Any]], *columns: str) -> str:
    """The columns of the rows under their names; numbers stand at the right."""
    rows = list(rows)
    numbers = [all(isinstance(row[name], int | float | Decimal | None) for row in rows) for name in columns]
    lines = [[name.replace("_", " ") for name in columns], *([cell(row[name]) for name in columns] for row in rows)]
    widths = [max(map(len, texts)) for texts in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            text.rjust(width) if number else text.ljust(width)
            for text, width, number in zip(line, widths, numbers, strict=True)
        ).rstrip()
        for line in lines
    )


def listed(values: Mapping[str, Any], *names: str) -> str:
    """A line for each of the values that is there, with its name."""
    width = max(map(len, names))
    lines = ((name.replace("_", " ").ljust(width), cell(values[name])) for name in names)
    return "\n".join(f"{name}  {text}" for name, text in lines if text)


def print_json(value: object) -> None:
    """JSON for scripts: times as ISO 8601 and decimals as text, intervals in seconds."""
    print(json.dumps(value, default=_plain, indent=2))


def _plain(value: object) -> object:
    match value:
        case datetime():
            return infinity(value) or value.isoformat()
        case timedelta():
            return value.total_seconds()
        case Decimal():
            return f"{value:f}"
    raise TypeError(f"{type(value).__name__} has no form in JSON")


def complain(text: str) -> None:
    """To standard error, so that standard output stays what was asked for."""
    print(text, file=sys.stderr)


class Progress:
    """A bar on standard error while long work goes on; nothing where that is no terminal."""

    def __init__(self, what: str, total: int | None = None):
        self._what = what
        self._total = total
        self._drawn = 0.0

    def __call__(self, done: int) -> None:
        """Show that so much of it is done."""
        now = time.monotonic()
        if sys.stderr.isatty() and now > self._drawn + REDRAW:
            self._drawn = now
            bar = f"{done:,}"
            if self._total:
                full = BAR * min(done, self._total) // self._total
                bar = f"[{'#' * full}{'.' * (BAR - full)}] {done:,} of {self._total:,}"
            print(f"\r\x1b[K{self._what} {bar}", end="", file=sys.stderr, flush=True)

    def wipe(self) -> None:
        """Make room for other text."""
        if self._drawn:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.wipe()
