"""Benchmark of the database: how many events a second, what they cost as history grows, and how the plans look.

    python -m tests.benchmarks.database                      # all of it, some minutes
    python -m tests.benchmarks.database throughput plans     # some of it
    python -m tests.benchmarks.database --history 0          # without the millions of past events

It runs on an embedded PostgreSQL of its own, with the settings that PostgreSQL ships, or in a new database on the
server of DATABASE_URL (as a superuser), which it drops at the end. Progress goes to standard error, the report to
standard output.
"""

import argparse
import asyncio
import contextlib
import os
import re
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import asyncpg

from service import embedded, migrate
from tests.benchmarks import plans, throughput, upkeep
from tests.benchmarks.load import Connection, Target, progress

DATABASE = "payments_benchmark"
PARTS = ("throughput", "steady", "pinned", "plans")
FIRST_HISTORY = 100_000


@contextlib.contextmanager
def server(data_dir: Path | None) -> Iterator[tuple[str, Path, int]]:
    """URL of a database to make, pgbench, and the postmaster's process id (0: not ours)."""
    if url := os.environ.get("DATABASE_URL"):
        pgbench = shutil.which("pgbench")
        if pgbench is None:
            raise SystemExit("pgbench is not in PATH. Install PostgreSQL's client programs.")
        yield re.sub("(://[^/?]*)(/[^?]*)?", rf"\1/{DATABASE}", url, count=1), Path(pgbench), 0
        return
    with contextlib.ExitStack() as stack:
        folder = data_dir or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="payments-benchmark-")))
        running = stack.enter_context(embedded.start(folder))
        yield running.url_of(DATABASE), running.bin_dir / "pgbench", running.pid


async def drop(url: str) -> None:
    """Drop the benchmark's database, and its roles, which belong to the cluster."""
    admin: Connection = await asyncpg.connect(url, database="postgres")
    try:
        await admin.execute(f"drop database if exists {DATABASE} with (force)")
        installation = f"payment webhooks of database {DATABASE}, "
        for role in await admin.fetch(
            "select quote_ident(rolname) as name from pg_roles"
            " where starts_with(shobj_description(oid, 'pg_authid'), $1)",
            installation,
        ):
            await admin.execute(f"drop role {role['name']}")
    finally:
        await admin.close()


async def settings(db: Connection) -> list[str]:
    """The server, and the settings that decide most."""
    lines = [await db.fetchval("select version()"), ""]
    rows = await db.fetch(
        "select name, current_setting(name) as value from pg_settings where name in ('fsync', 'synchronous_commit',"
        " 'shared_buffers', 'max_wal_size', 'full_page_writes', 'autovacuum', 'autovacuum_naptime') order by name"
    )
    return [*lines, ", ".join(f"{row['name']} {row['value']}" for row in rows) + f", {os.cpu_count()} cores", ""]


async def run(target: Target, options: argparse.Namespace) -> list[str]:
    """All parts asked for; the report's lines."""
    if task := asyncio.current_task():  # ended by a signal, it leaves no gigabytes behind
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    parts = options.parts or PARTS
    progress("migrate")
    await migrate.up(target.url)
    db: Connection = await asyncpg.connect(target.url, command_timeout=None)
    report = ["# Benchmark of the database", "", *await settings(db)]
    try:
        progress(f"{target.invoices:,} invoices")
        await throughput.make_invoices(db, target)
        past = FIRST_HISTORY
        await throughput.add_history(db, target, past)
        if "throughput" in parts:
            for history in sorted({FIRST_HISTORY, options.history or FIRST_HISTORY}):
                if history > past:
                    past = await db.fetchval("select count(*) from payment_events")
                    await throughput.add_history(db, target, history - past)
                rounds = await throughput.run_rounds(
                    target, db, options.rounds, options.events, options.seconds, f"{history:,} past events"
                )
                report += [f"## {history:,} past events, {options.rounds} rounds", "", *throughput.table(rounds), ""]
        if "steady" in parts:
            lines = await upkeep.steady_hour(target, db, options.hour_events, options.hour_seconds)
            report += [f"## An hour's traffic in {options.hour_seconds} s", "", *lines, ""]
        if "pinned" in parts:
            lines = await upkeep.pinned_claims(target, db, options.dead)
            report += ["## An old transaction", "", *lines, ""]
        if "plans" in parts:
            lines, scans = await plans.hot_plans(target)
            report += ["## Plans", "", f"Sequential scans of our tables: {', '.join(scans) or 'none'}.", "", *lines]
            if scans:
                print("\n".join(report), flush=True)
                raise SystemExit(f"sequential scan of {', '.join(scans)}")
    finally:
        await db.close()
    return report


def main() -> None:
    """Parse the command line and print the report."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.database",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], metavar="part", help=f"of {', '.join(PARTS)}; all")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--events", type=int, default=30_000, help="of each set-wise case in a round")
    parser.add_argument("--seconds", type=int, default=1, help="of each run of the control")
    parser.add_argument("--invoices", type=int, default=100_000)
    parser.add_argument(
        "--history", type=int, default=5_000_000, help="past events of the second set of rounds; 0: none"
    )
    parser.add_argument("--hour-events", type=int, default=360_000)
    parser.add_argument("--hour-seconds", type=int, default=120)
    parser.add_argument("--dead", type=int, default=500_000, help="dead index entries under an old transaction")
    parser.add_argument("--data-dir", type=Path, help="of the embedded server; default: a temporary one")
    options = parser.parse_args()
    with server(options.data_dir) as (url, pgbench, postmaster):
        target = Target(url, pgbench, postmaster, options.invoices)
        asyncio.run(drop(url))
        try:
            report = asyncio.run(run(target, options))
        finally:
            asyncio.run(drop(url))
    print("\n".join(report), flush=True)


if __name__ == "__main__":
    main()
