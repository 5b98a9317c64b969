"""What a run leaves behind: progress on standard error, and a folder with one Markdown report and its charts."""

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from tests.benchmarks.chart import Points, line_chart, short

Cell: TypeAlias = str | float | None
_started = time.monotonic()


def progress(text: str) -> None:
    """A line on standard error, with the time since the start."""
    print(f"[{time.monotonic() - _started:6.1f} s] {text}", file=sys.stderr, flush=True)


class Report:
    """`report.md` in `folder`, written anew with every addition: a run which is cut short leaves what it has."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.file = folder / "report.md"
        self._lines: list[str] = []
        self._summary: list[Sequence[Cell]] = []
        folder.mkdir(parents=True, exist_ok=True)

    def add(self, *lines: str) -> None:
        """Lines of Markdown, as a paragraph of their own."""
        self._lines += [*lines, ""]
        self.file.write_text("\n".join(self._lines))

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
        """A table; numbers, to three digits at least, to the right."""
        numeric = [all(isinstance(row[n], float | int | None) for row in rows) for n in range(len(columns))]
        lines = [columns, ["---:" if right else "---" for right in numeric]]
        lines += [[short(cell) if isinstance(cell, float | int) else cell or "" for cell in row] for row in rows]
        self.add(*(f"| {' | '.join(line)} |" for line in lines))

    def sum_up(self, what: str, figure: str, beside: str) -> None:
        """A row of the table that ends the report, and stands in the project's README."""
        self._summary.append((what, figure, beside))

    def finish(self) -> None:
        """Add the table of what was summed up."""
        self.add("## In short")
        self.table(["", "measured", "beside"], self._summary)

    def chart(
        self, name: str, title: str, x: str, y: str, series: Mapping[str, Points], *, log_x: bool = False,
        log_y: bool = False,
    ) -> None:  # fmt: skip
        """A chart of its own file, `name`.svg; see line_chart()."""
        (self.folder / f"{name}.svg").write_text(line_chart(title, x, y, series, log_x=log_x, log_y=log_y))
        self.add(f"![{title}]({name}.svg)")
