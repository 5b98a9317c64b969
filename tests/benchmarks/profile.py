"""Where the processor time of one event goes, from socket to commit, at 64 connections.

The server's is measured by leaving its later steps out (controls.py): the difference of two is what a step takes. What
a process has taken is what the kernel says (/proc/PID/stat). PostgreSQL's statements are timed by pg_stat_statements in
a run of its own, since timing them all takes time itself; flushes by track_wal_io_timing.
"""

import asyncio
import contextlib
import re
from statistics import median
from typing import NamedTuple

from tests.benchmarks.load import Cpu
from tests.benchmarks.processes import Process, cpu_seconds, running
from tests.benchmarks.report import Cell, Report, progress
from tests.benchmarks.scale import Scale
from tests.benchmarks.target import Connection, Database, Target
from tests.benchmarks.wrk import ENVIRONMENT, QUEUE, SYNC, wrk

SETTINGS = {"shared_preload_libraries": "pg_stat_statements", "track_wal_io_timing": "on"}
CONNECTIONS = 64
STEPS = (
    ("HTTP: read, parse, answer", "http"),
    ("who may send, JSON, its fields, the answer's body", "no-database"),
    ("group commit", "no-call"),
    ("the call: arguments, rows, socket", ""),
)
"""What each adds to the one before, and the kind of server that ends with it; the last is ours."""
PIDS = "select pid from pg_stat_activity where application_name = $1 and datname = current_database()"
FLUSHES = "select sum(fsyncs)::bigint, sum(fsync_time)::float from pg_stat_io where object = 'wal'"
STATEMENTS = """
    select query, toplevel, sum(total_exec_time) * 1000 as us from pg_stat_statements
    where dbid = (select oid from pg_database where datname = current_database()) and (not toplevel or query ~ $1)
    group by query, toplevel order by toplevel desc, us desc limit 13
"""


class Taken(NamedTuple):
    """For one event, on the average: µs of the processor, and what it has to do with commits."""

    server: float
    backends: float
    others: float
    flushes: float
    flush_ms: float
    batch: float


async def run(target: Target, scale: Scale, report: Report) -> None:
    """Both plain endpoints, step by step, and the listener; then the statements."""
    if not target.postmaster:
        report.add("Left out: it looks at PostgreSQL's processes. Run it without DATABASE_URL.")
        return
    rounds: dict[str, list[list[Taken]]] = {SYNC: [], QUEUE: []}
    async with target.database() as database, database.connect() as db:
        settings = {"DATABASE_URL": database.url} | ENVIRONMENT
        async with contextlib.AsyncExitStack() as stack:
            servers = []
            for _, kind in STEPS:
                module, *arguments = ("tests.benchmarks.controls", kind) if kind else ("service.server",)
                servers.append(await stack.enter_async_context(running(module, *arguments, **settings)))
            for _ in range(scale.rounds):
                for path, found in rounds.items():
                    found.append([await measure(db, database, server, path, scale.seconds) for server in servers])
                    progress(f"profile: {path}: " + ", ".join(f"{step.server:.0f} µs" for step in found[-1]))
        listener, backend = await drained(db, database)
        report.table(["one event, µs of the processor", f"`{SYNC}`", f"`{QUEUE}`"], _rows(rounds, listener, backend))
        await db.execute("create extension pg_stat_statements")
        await db.execute(f"alter database {database.name} set pg_stat_statements.track = 'all'")  # for new sessions
        async with running("service.server", **settings) as server:
            for path, function in ((SYNC, "apply_payment_events"), (QUEUE, "enqueue_payment_events")):
                await db.execute("select pg_stat_statements_reset()")
                sent = await wrk(server.port, path, CONNECTIONS, 3 * scale.seconds, database.invoices)
                await _tell_statements(db, report, function, sent.number)
        await db.execute("select pg_stat_statements_reset()")
        queued = await db.fetchval("select count(*) from payment_queue")
        async with running("service.listener", ready="/readyz", DATABASE_URL=database.url):
            await _tell_statements(db, report, "process_payment_queue", queued)


async def measure(db: Connection, database: Database, server: Process, path: str, seconds: int) -> Taken:
    """One run after a second of warming up."""
    await wrk(server.port, path, CONNECTIONS, 1, database.invoices)
    backends = {row["pid"] for row in await db.fetch(PIDS, "payment_webhooks server")}

    async def look() -> list[float]:
        batches = re.findall(
            r"^payment_webhooks_batch_events_(sum|count)\S* (\S+)", await server.get("/metrics"), re.MULTILINE
        )
        flushes = await db.fetchrow(FLUSHES)
        took = sum(map(cpu_seconds, backends))
        others = Cpu.now(database.target.postmaster).server - took - cpu_seconds(db.get_server_pid())
        return [
            cpu_seconds(server.pid), took, others, *(flushes or ()),
            *(sum(float(value) for name, value in batches if name == which) for which in ("sum", "count")),
        ]  # fmt: skip

    before = await look()
    sent = await wrk(server.port, path, CONNECTIONS, seconds, database.invoices)
    await asyncio.sleep(1.1)  # backends report their flushes once a second
    took = [after - first for first, after in zip(before, await look(), strict=True)]
    server_s, backends_s, others_s, flushes, flush_ms, events, commits = took
    us = 1e6 / sent.number
    return Taken(
        server_s * us, backends_s * us, others_s * us, flushes / sent.number, flush_ms / max(1, flushes),
        events / max(1, commits),
    )  # fmt: skip


async def drained(db: Connection, database: Database) -> tuple[float, float]:
    """What listener and its backend take for one of the events that wait, µs."""
    waiting = await db.fetchval("select count(*) from payment_queue")
    async with running("service.listener", DATABASE_URL=database.url) as listener:
        before = cpu_seconds(listener.pid)
        while await db.fetchval("select max(id) from payment_queue") is not None:
            await asyncio.sleep(0.1)
        [backend] = [row["pid"] for row in await db.fetch(PIDS, "payment_webhooks listener")]
        return 1e6 * (cpu_seconds(listener.pid) - before) / waiting, 1e6 * cpu_seconds(backend) / waiting


def _rows(rounds: dict[str, list[list[Taken]]], listener: float, backend: float) -> list[list[Cell]]:
    """Medians over the rounds; of the steps, of their differences within a round."""
    rows: list[list[Cell]] = [
        [
            f"server: {step}",
            *(
                median(taken[n].server - (taken[n - 1].server if n else 0) for taken in found)
                for found in rounds.values()
            ),
        ]
        for n, (step, _) in enumerate(STEPS)
    ]
    whole = [Taken(*map(median, zip(*(taken[-1] for taken in found), strict=True))) for found in rounds.values()]
    rows += [
        ["**server, all of it**", *(one.server for one in whole)],
        ["**PostgreSQL, the server's backends**", *(one.backends for one in whole)],
        ["PostgreSQL, checkpointer, autovacuum and the like", *(one.others for one in whole)],
        ["**listener**", None, listener],
        ["**PostgreSQL, the listener's backend**", None, backend],
        ["events that share a commit", *(one.batch for one in whole)],
        ["flushes of the WAL for one event", *(one.flushes for one in whole)],
        ["ms that a flush takes", *(one.flush_ms for one in whole)],
    ]
    return rows


async def _tell_statements(db: Connection, report: Report, function: str, events: int) -> None:
    rows: list[list[Cell]] = []
    for row in await db.fetch(STATEMENTS, rf"from {function}\("):
        text = f"**{function}, all of it**" if row["toplevel"] else f"`{' '.join(row['query'].split())[:80]}`"
        rows.append([text, row["us"] / events])
    report.table([f"statements of {function}", "µs an event, with what it calls"], rows)
