"""How soon the listener applies what is enqueued, how fast it drains, and what it costs those who insert.

Latency is from the commit that enqueued an event to the commit that applied it, both by the server's clock.
"""

import asyncio
import contextlib
import os
import random
import signal
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from statistics import median

import asyncpg

from tests.benchmarks.cases import CONTROL, add_controls
from tests.benchmarks.load import drain, run_pgbench
from tests.benchmarks.processes import Process, cpu_seconds, running
from tests.benchmarks.report import Cell, Report, progress
from tests.benchmarks.scale import Scale
from tests.benchmarks.target import Connection, Database, Target

SETTINGS = {"track_commit_timestamp": "on"}
SENDERS = 16
WORKERS = (1, 2, 4)
LISTENERS, LOOP, STATUS = "listeners", "process_payment_queue() in a bare loop", "control: a queue with a status column"
NOTIFY_ALWAYS = """
    create or replace function wake_listener() returns trigger language plpgsql security definer as $$
    begin
        perform pg_notify('payment_queue_' || tg_relid, '');
        return null;
    end $$
"""
"""The control of the gate: every insert notifies."""
STORE = """
    select count(*) from enqueue_payment_events(
        array(select 'fill-' || n from generate_series($1::int, $2::int) n),
        array(select 1 + n % $3::int from generate_series($1::int, $2::int) n),
        array(select 1 from generate_series($1::int, $2::int)))
"""
STORE_WITH_STATUS = """
    insert into control.events (event_id, invoice_id, amount)
    select e.event_id, e.invoice_id, e.amount from payment_events e order by e.id
"""
QUEUE_ALL = "insert into payment_queue (id) select e.id from payment_events e order by e.id"
SPAN = """
    select extract(epoch from max(pg_xact_commit_timestamp(xmin)) - pg_xact_commit_timestamp($1::text::xid))::float
    from payments
"""
LATENCIES = """
    with l as (
        select extract(epoch from pg_xact_commit_timestamp(p.xmin) - pg_xact_commit_timestamp(e.xmin)) * 1000 as ms
        from payments p join payment_events e using (id)
    )
    select count(*) as events, percentile_cont($1::float[]) within group (order by ms) as ms from l
"""
PERCENTILES = [*(n / 100 for n in range(1, 100)), 0.995, 0.999, 1]
CONNECTED = """
    select count(*) from pg_stat_activity
    where application_name = 'payment_webhooks listener' and datname = current_database()
"""


async def run(target: Target, scale: Scale, report: Report) -> None:
    """Wakes, drains, inserts, and an idle listener."""
    async with target.connect() as admin:
        if await admin.fetchval("show track_commit_timestamp") != "on":
            report.add("Left out: it needs track_commit_timestamp = on in postgresql.conf, and a restart.")
            return
    await wakes(target, scale, report)
    await drains(target, scale, report)
    await inserts(target, scale, report)
    async with target.database() as database, listeners(database, 1) as [listener]:
        before, seconds = cpu_seconds(listener.pid), 5 * scale.seconds
        await asyncio.sleep(seconds)
        share = 100 * (cpu_seconds(listener.pid) - before) / seconds
        report.add(f"An idle listener takes {share:.2f}% of a core.")


@contextlib.asynccontextmanager
async def listeners(database: Database, number: int) -> AsyncIterator[list[Process]]:
    """So many listeners, connected and come to rest."""
    async with contextlib.AsyncExitStack() as stack:
        starting = [running("service.listener", ready="/readyz", DATABASE_URL=database.url) for _ in range(number)]
        processes = [await stack.enter_async_context(one) for one in starting]
        if number:
            await asyncio.sleep(0.5)
        yield processes


async def wakes(target: Target, scale: Scale, report: Report) -> None:
    """The table and the chart of latencies."""
    seconds = 24 if scale.thorough else 4
    rows: list[list[Cell]] = []
    lines: dict[str, list[tuple[float, float]]] = {}
    scenarios = [(1, 20, False, False), (1, 1000, False, False), (1, 1000, False, True)]
    if scale.thorough:
        scenarios += [(1, 20, False, True), (4, 20, False, False), (4, 1000, False, False), (1, 20, True, False),
                      (1, 1000, True, False)]  # fmt: skip
    for number, rate, beside, always in scenarios:
        what = f"{rate:,}/s" + ", beside a long transaction" * beside + ", control: NOTIFY on every insert" * always
        async with target.database() as database, database.connect() as db:
            if always:
                await db.execute(NOTIFY_ALWAYS)
            async with listeners(database, number):
                senders = [send(database, n, rate / SENDERS, seconds) for n in range(SENDERS)]
                await asyncio.gather(*senders, *([hold_gate(database, seconds)] if beside else []))
                await emptied(db)
            cells = await latencies(db, lines, what if number == 1 and not beside else "")
            rows.append([what, str(number), *cells])
            if (number, beside, always) == (1, False, False):
                report.sum_up(
                    f"queued to applied, {rate:,} events a second", f"p50 {cells[1]:.1f} ms, p99 {cells[2]:.1f} ms", ""
                )
    if scale.thorough:
        rows.append(await stress(target, seconds, lines))
    report.table(["load, one event a commit", "listeners", "events", "p50 ms", "p99 ms", "p99.9 ms", "most ms"], rows)
    report.chart("wake", "From the commit that enqueued an event to the commit that applied it", "ms",
                 "% of the events", lines, log_x=True)  # fmt: skip


async def latencies(db: Connection, lines: dict[str, list[tuple[float, float]]], name: str) -> list[Cell]:
    """Cells of the table of latencies; the distribution goes into `lines`, unless it has no name."""
    row = await db.fetchrow(LATENCIES, PERCENTILES)
    assert row is not None
    ms = dict(zip(PERCENTILES, row["ms"], strict=True))
    if name:
        lines[name] = [(value, 100 * share) for share, value in ms.items()]
    progress(f"listener: {name}: {row['events']} events, p50 {ms[0.5]:.1f} ms, p99 {ms[0.99]:.1f} ms")
    return [row["events"], ms[0.5], ms[0.99], ms[0.999], ms[1]]


async def send(database: Database, sender: int, rate: float, seconds: float) -> None:
    """Enqueue one event a commit, at random moments, `rate` of them a second on average."""
    async with database.connect() as db:
        call = await db.prepare("select outcome from enqueue_payment_event($1, $2, 1)")
        due = time.perf_counter()
        end = due + seconds
        number = 0
        while due < end:
            due += random.expovariate(rate)
            await asyncio.sleep(max(0, due - time.perf_counter()))
            number += 1
            await call.fetch(f"{sender}-{number}", random.randint(1, database.invoices))  # noqa: S311 - a load


async def hold_gate(database: Database, seconds: float) -> None:
    """A transaction that has inserted and takes its time to commit; it gives up where the listener sleeps for long."""
    async with database.connect() as db:
        await db.execute("set lock_timeout = '1s'")
        with contextlib.suppress(asyncpg.LockNotAvailableError):
            async with db.transaction():
                await db.fetch("select pg_advisory_xact_lock_shared('payment_queue'::regclass::oid::integer, 1)")
                await asyncio.sleep(seconds)


async def emptied(db: Connection) -> None:
    """Wait until nothing is queued."""
    while await db.fetchval("select max(id) from payment_queue") is not None:  # by the index, from its end
        await asyncio.sleep(0.2)


async def stress(target: Target, seconds: float, lines: dict[str, list[tuple[float, float]]]) -> list[Cell]:
    """A row of the table of latencies: a crowd that pauses, transactions that take long, listeners that are killed."""

    async def hold_often(database: Database, end: float) -> None:
        while time.perf_counter() < end:
            await hold_gate(database, random.uniform(0, 0.5))  # noqa: S311 - a load
            await asyncio.sleep(random.uniform(0, 0.5))  # noqa: S311 - a load

    async def kill_often(database: Database, end: float) -> None:
        while time.perf_counter() < end:
            async with listeners(database, 1) as [listener]:
                await asyncio.sleep(random.uniform(5, 10))  # noqa: S311 - a load
                os.kill(listener.pid, signal.SIGKILL)

    async with target.database() as database, database.connect() as db:
        end = time.perf_counter() + seconds
        crowd = [send(database, n, 100 / 64, seconds) for n in range(64)]
        await asyncio.gather(
            *crowd, hold_often(database, end), kill_often(database, end), kill_often(database, end)
        )  # fmt: skip
        async with listeners(database, 1):
            await emptied(db)
        return ["100/s on 64 connections, gate under stress", "2, killed in turn", *(await latencies(db, lines, ""))]


async def drains(target: Target, scale: Scale, report: Report) -> None:
    """The table and the chart of how fast so many waiting events are applied, beside the controls."""
    rates: dict[tuple[str, int], list[float]] = defaultdict(list)
    ratios: dict[tuple[str, int], list[float]] = defaultdict(list)
    async with target.database() as filled:
        await add_controls(filled)
        async with filled.connect() as db:
            for first in range(1, scale.events + 1, 5000):
                await db.fetchval(STORE, first, min(scale.events, first + 4999), filled.invoices)
            await db.execute("truncate payment_queue")
            await db.execute(STORE_WITH_STATUS)
            await db.execute("vacuum analyze")
            await db.execute("checkpoint")
        for _ in range(min(3, scale.rounds)):
            for workers in WORKERS:
                for how in (LISTENERS, LOOP, STATUS):
                    async with target.database(template=filled) as database:
                        control = (await run_pgbench(database, "control", clients=16, seconds=scale.seconds)).rate
                        rate = await drained(database, how, workers, scale.events)
                    progress(f"drain: {how}, {workers}: {rate:,.0f}/s, {rate / control:.1f} times the control")
                    rates[how, workers].append(rate)
                    rates[CONTROL, 1].append(control)
                    ratios[how, workers].append(rate / control)
    rows: list[list[Cell]] = [[CONTROL, "", median(rates[CONTROL, 1]), 1, None]]
    for how in (LISTENERS, LOOP, STATUS):
        rows += [
            [how, str(n), median(rates[how, n]), median(ratios[how, n]), median(rates[how, n]) / median(rates[LOOP, n])]
            for n in WORKERS
        ]
    for n in WORKERS:
        report.sum_up(
            f"drain, {n} listener{'s' * (n > 1)}", f"{median(rates[LISTENERS, n]):,.0f} a second",
            f"{median(ratios[LISTENERS, n]):.1f} times one event a transaction on 16 connections",
        )  # fmt: skip
    columns = [f"drain of {scale.events:,} waiting events", "workers", "events a second", "times the control"]
    report.table([*columns, "to the bare loop"], rows)
    report.chart(
        "drain", "Waiting events applied", "workers", "events a second",
        {how: [(n, median(rates[how, n])) for n in WORKERS] for how in (LISTENERS, LOOP, STATUS)}
        | {CONTROL: [(n, median(rates[CONTROL, 1])) for n in WORKERS]},
    )  # fmt: skip


async def drained(database: Database, how: str, workers: int, events: int) -> float:
    """Events a second of so many workers, which are there before the events are."""
    if how == STATUS:
        return (await drain(database, workers, "select control.process($1)")).rate
    async with listeners(database, workers if how == LISTENERS else 0), database.connect() as db:
        async with db.transaction():
            await db.execute(QUEUE_ALL)
            transaction = await db.fetchval("select pg_current_xact_id()::xid::text")
        if how == LOOP:
            return (await drain(database, workers)).rate
        await emptied(db)
        return events / float(await db.fetchval(SPAN, transaction))


async def inserts(target: Target, scale: Scale, report: Report) -> None:
    """What it costs those who insert, one event a commit, that a listener is woken."""
    rates: dict[str, list[float]] = defaultdict(list)
    for _ in range(scale.rounds):
        for how in (
            "no trigger, no listener",
            "the gate, a listener at work",
            "control: NOTIFY on every insert, the same",
        ):
            async with target.database() as database, database.connect() as db:
                if how.startswith("no"):
                    await db.execute("alter table payment_queue disable trigger user")
                elif how.startswith("control"):
                    await db.execute(NOTIFY_ALWAYS)
                async with listeners(database, 0 if how.startswith("no") else 1):
                    run = await run_pgbench(database, "enqueue_one", clients=SENDERS, seconds=scale.seconds)
            progress(f"inserts: {how}: {run.rate:,.0f}/s")
            rates[how].append(run.rate)
    most, gate, always = rates.values()
    report.sum_up(
        f"{SENDERS} connections queue one event a commit, a listener at work", f"{median(gate):,.0f} a second",
        f"{median(a / b for a, b in zip(gate, most, strict=True)):.2f} of no trigger;"
        f" {median(a / b for a, b in zip(gate, always, strict=True)):.1f} times NOTIFY on every insert",
    )  # fmt: skip
    report.table(
        [f"{SENDERS} connections insert, one event a commit", "a second", "to no trigger"],
        [[how, median(found), median(a / b for a, b in zip(found, most, strict=True))] for how, found in rates.items()],
    )
