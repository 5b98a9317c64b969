"""How fast the service is, and how it compares: one report in Markdown with charts, in a folder.

It runs on an embedded PostgreSQL of its own, as python -m service starts it, or on the server of DATABASE_URL, as a
superuser, in databases that it makes and drops. It needs wrk (Debian: wrk), and a machine with nothing else to do.
"""

import argparse
import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple, TypeAlias

from tests.benchmarks import consoles, database, history, http, listener, profile, retention, soak
from tests.benchmarks.report import Report, progress
from tests.benchmarks.scale import QUICK, Scale
from tests.benchmarks.target import Target, serving

Run: TypeAlias = Callable[[Target, Scale, Report], Awaitable[None]]


class Part(NamedTuple):
    """A part of the benchmark; `settings` are those that the embedded PostgreSQL gets for it."""

    title: str
    run: Run
    settings: Mapping[str, str]


PARTS = {
    "http": Part("The endpoints", http.run, {}),
    "listener": Part("The listener", listener.run, listener.SETTINGS),
    "database": Part("The functions", database.run, {}),
    "history": Part("As the history grows", history.run, history.SETTINGS),
    "soak": Part("An hour's mixed traffic", soak.run, soak.SETTINGS),
    "retention": Part("Pruning request bodies", retention.run, {}),
    "consoles": Part("Open consoles", consoles.run, {}),
    "profile": Part("Where the time of one event goes", profile.run, profile.SETTINGS),
}


async def measure(parts: Sequence[str], scale: Scale, report: Report) -> None:
    """Run the parts one after the other, each on a server of its own, and add them to the report."""
    if task := asyncio.current_task():  # ended by a signal, it leaves no gigabytes behind
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    for name in parts:
        part = PARTS[name]
        progress(f"part {name}")
        with serving(part.settings) as target:
            await target.clear()
            try:
                report.add(f"## {part.title}")
                if name == parts[0] or part.settings:
                    report.add(await target.describe())
                await part.run(target, scale, report)
            finally:
                await target.clear()
    report.finish()


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], metavar="part", help=f"of {', '.join(PARTS)}; all")
    parser.add_argument("--quick", action="store_true", help="minutes in place of hours")
    parser.add_argument(
        "--history", type=int, metavar="EVENTS", help="past events at the most (10 million; quick: 100,000)"
    )
    parser.add_argument(
        "--output", type=Path, default=Path(".benchmarks"), metavar="FOLDER", help="for the report (.benchmarks)"
    )
    return parser


def main() -> None:
    """Measure the parts asked for, one after the other."""
    options = parser().parse_args()
    scale = QUICK if options.quick else Scale()
    if options.history is not None:
        scale = replace(scale, history=options.history)
    report = Report(options.output)
    report.add("# Benchmark", "", f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC{', a quick run' if options.quick else ''}")
    try:
        asyncio.run(measure(options.parts or list(PARTS), scale, report))
    except (asyncio.CancelledError, KeyboardInterrupt):
        sys.exit(
            f"Stopped; what was measured stands in {report.file}. Run the missing parts by name, with another --output."
        )
    print(report.file)


if __name__ == "__main__":
    main()
