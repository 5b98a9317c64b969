"""An hour's mixed traffic in minutes, at 60% of the top rate: what grows, what slows down, do the books agree."""

import asyncio
import contextlib
import re
import time

from tests.benchmarks.processes import children, megabytes, running
from tests.benchmarks.report import Cell, Report, progress
from tests.benchmarks.scale import Scale
from tests.benchmarks.target import Connection, Target
from tests.benchmarks.wrk import ENVIRONMENT, QUEUE, pause_for, wrk

SETTINGS = {"shared_preload_libraries": "pg_stat_statements"}
CONNECTIONS = 64
STALLED = 8
SIZES = """
    select (select count(*) from payment_queue) as waiting, (select count(*) from parked_events) as parked,
           pg_table_size('payment_queue') / 1024 as table_kb, pg_indexes_size('payment_queue') / 1024 as index_kb,
           s.n_dead_tup as dead, s.autovacuum_count as vacuums
    from pg_stat_user_tables s where s.relid = 'payment_queue'::regclass
"""
STATEMENTS = """
    select query, sum(calls)::bigint as calls, sum(total_exec_time) as ms from pg_stat_statements
    where dbid = (select oid from pg_database where datname = current_database()) group by query
"""
WRONG = "select (select count(*) from invoice_discrepancies()) + (select count(*) from misplaced_events())"


async def run(target: Target, scale: Scale, report: Report) -> None:
    """Slices of traffic, and after each a look at memory and the queue."""
    slices, seconds = (20, 3 * scale.seconds) if scale.thorough else (6, 2 * scale.seconds)
    rows: list[list[Cell]] = []
    async with contextlib.AsyncExitStack() as stack:
        database = await stack.enter_async_context(target.database())
        db = await stack.enter_async_context(database.connect())
        url = {"DATABASE_URL": database.url}
        server = await stack.enter_async_context(running("service.server", **url, **ENVIRONMENT))
        listener = await stack.enter_async_context(running("service.listener", ready="/readyz", **url))
        pause = await pause_for(0.6, server.port, QUEUE, CONNECTIONS, database.invoices, mixed=True)
        counted = await count_statements(db)
        stalled = [asyncio.create_task(stall(server.port)) for _ in range(STALLED)]
        before: list[dict[str, tuple[int, float]]] = [await statements(db)] if counted else []
        started = time.monotonic()
        for number in range(slices):
            sent = await wrk(server.port, QUEUE, CONNECTIONS, seconds, database.invoices, pause_ms=pause, mixed=True)
            sizes = await db.fetchrow(SIZES)
            assert sizes is not None
            postgres = megabytes(target.postmaster, *children(target.postmaster)) if target.postmaster else None
            rows.append([
                time.monotonic() - started, sent.number, sent.rate, sent.p50, sent.p99, sent.p999,
                megabytes(server.pid), megabytes(listener.pid), postgres, *sizes,
            ])  # fmt: skip
            progress(
                f"soak, {number + 1} of {slices}: {sent.rate:,.0f}/s, p99 {sent.p99:.1f} ms, {sizes['waiting']} wait"
            )
            if counted and number + 1 in (slices // 2, slices):
                before.append(await statements(db))
        for task in stalled:
            task.cancel()
        while await db.fetchval("select exists (select from payment_queue)"):
            await asyncio.sleep(0.1)
        assert not await db.fetchval(WRONG), (
            "an event is in two places or none, or an invoice disagrees with the ledger"
        )
    report.table(
        ["second", "requests", "a second", "p50 ms", "p99 ms", "p99.9 ms", "server MB", "listener MB", "PostgreSQL MB",
         "queued", "parked", "queue table kB", "its indexes kB", "dead rows", "autovacuums"],
        rows,
    )  # fmt: skip
    times = [float(row[0] or 0) for row in rows]
    for name, title, label, columns in (
        ("memory", "Memory of each process", "MB", {"server": 6, "listener": 7, "PostgreSQL, all processes": 8}),
        ("soak", "Latency over time", "ms", {"p50": 3, "p99": 4, "p99.9": 5}),
    ):
        lines = {
            line: [(second, float(row[n] or 0)) for second, row in zip(times, rows, strict=True)]
            for line, n in columns.items()
            if rows[0][n] is not None
        }
        report.chart(name, title, "seconds", label, lines)
    first, last = rows[0], rows[-1]
    report.sum_up(
        f"{sum(int(row[1] or 0) for row in rows):,} mixed requests in {times[-1]:.0f} s, the last {seconds} s",
        f"server {last[6]:.0f} MB, p99 {last[4]:.0f} ms",
        f"the first {seconds} s: {first[6]:.0f} MB, p99 {first[4]:.0f} ms",
    )  # fmt: skip
    if counted:
        _tell_statements(report, *before)


async def stall(port: int) -> None:
    """A client that says it will send a body and stops in the middle, again and again."""
    while True:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(
            b"POST /webhooks/payments HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: 90\r\n\r\n{"
        )
        with contextlib.suppress(ConnectionError):
            await reader.read()
        writer.close()


async def count_statements(db: Connection) -> bool:
    """Whether pg_stat_statements can be had here; it counts from now on."""
    if "pg_stat_statements" not in await db.fetchval("show shared_preload_libraries"):
        return False
    await db.execute("create extension if not exists pg_stat_statements")
    return True


async def statements(db: Connection) -> dict[str, tuple[int, float]]:
    """Calls and milliseconds of each statement so far."""
    return {row["query"]: (row["calls"], row["ms"]) for row in await db.fetch(STATEMENTS)}


def _tell_statements(
    report: Report, start: dict[str, tuple[int, float]], *halves: dict[str, tuple[int, float]]
) -> None:
    """The five statements that took most, and what a call took in either half."""
    middle, end = halves
    most = sorted(end, key=lambda query: end[query][1] - start.get(query, (0, 0.0))[1], reverse=True)[:5]
    rows: list[list[Cell]] = []
    for query in most:
        means: list[Cell] = []
        for earlier, later in ((start, middle), (middle, end)):
            calls, ms = (b - a for a, b in zip(earlier.get(query, (0, 0.0)), later.get(query, (0, 0.0)), strict=True))
            means.append(ms / calls if calls else None)
        called = re.search(r"\b(?:from|select) (\w+)\(", query)
        rows.append([f"`{called[1] if called else query[:60]}`", end[query][0], *means])
    report.table(["statement", "calls", "ms a call, first half", "second half"], rows)
