"""What pruning old request bodies costs the payments that come in meanwhile, by the size of a call and its pause."""

import asyncio
import contextlib
import time
from collections import defaultdict
from statistics import median
from typing import NamedTuple

from tests.benchmarks.processes import running
from tests.benchmarks.report import Cell, Report, progress
from tests.benchmarks.scale import Scale
from tests.benchmarks.target import Database, Target
from tests.benchmarks.wrk import ENVIRONMENT, SYNC, Answers, pause_for, wrk

CONNECTIONS = 64
PACES = ((10_000, 0), (10_000, 1), (1_000, 0), (1_000, 1), (1_000, 4))
"""Bodies a call, and the pause after each as a multiple of what it took; `python -m service prune` keeps the last."""
PRUNE = "select prune_deliveries('90 days', $1)"
OLD_BODIES = """
    insert into deliveries (id, received_at, connection, content_type, body)
    select -n, now() - interval '100 days', 'stripe', 'application/json', b.body
    from generate_series(1, $1::int) n,
         (select convert_to(string_agg(md5(part::text), ''), 'UTF8') as body from generate_series(1, 94) part) b
"""
"""Each of 3 kB that do not compress; as they are older, they have lower ids."""


class Pruning(NamedTuple):
    """Bodies a second, % of the time that it went on, and what was answered without it and beside it."""

    rate: float
    share: float
    alone: Answers
    beside: Answers


async def run(target: Target, scale: Scale, report: Report) -> None:
    """The synchronous endpoint at 60% of its top rate, alone and beside each pace."""
    seconds = 2 * scale.seconds
    rows: list[list[Cell]] = []
    found: dict[tuple[int, int], list[Pruning]] = defaultdict(list)
    async with contextlib.AsyncExitStack() as stack:
        database = await stack.enter_async_context(target.database())
        db = await stack.enter_async_context(database.connect())
        server = await stack.enter_async_context(
            running("service.server", DATABASE_URL=database.url, **ENVIRONMENT)
        )  # fmt: skip

        async def load() -> Answers:
            return await wrk(server.port, SYNC, CONNECTIONS, seconds, database.invoices, pause_ms=pause)

        pause = await pause_for(0.6, server.port, SYNC, CONNECTIONS, database.invoices)
        for _ in range(min(3, scale.rounds)):
            for limit, pauses in PACES:
                await db.execute(OLD_BODIES, scale.events)
                await db.execute("vacuum analyze deliveries")
                await db.execute("checkpoint")
                alone = await load()
                (pruned, taken), beside = await asyncio.gather(prune(database, limit, pauses, seconds), load())
                found[limit, pauses].append(Pruning(pruned / taken, 100 * taken / seconds, alone, beside))
                progress(f"retention: {limit} a call, {pauses} pauses: p99 {alone.p99:.1f}, then {beside.p99:.1f} ms")
                await db.execute("delete from deliveries where received_at < now() - interval '90 days'")
        await db.execute("vacuum deliveries")
        young = await db.fetchval("select count(*) from deliveries")
        started = time.perf_counter()
        await db.fetchval(PRUNE, 1000)
        nothing = 1000 * (time.perf_counter() - started)
    for (limit, pauses), runs in found.items():
        rate, share = median(run.rate for run in runs), median(run.share for run in runs)
        ratio = median(run.beside.p99 / run.alone.p99 for run in runs)
        figures = [median(getattr(run.beside, figure) for run in runs) for figure in ("rate", "p50", "p99", "p999")]
        name = f"{limit:,} a call, {100 // (1 + pauses)}% of the time"
        rows.append([name, rate, share, *figures, ratio])
        report.sum_up(f"pruning {name}", f"{rate:,.0f} bodies a second", f"{ratio:.2f} times the p99 without")
    report.table(
        ["`prune_deliveries('90 days', …)`", "bodies a second", "% of the load", "payments a second",
         "p50 ms", "p99 ms", "p99.9 ms", "p99 to no pruning"],
        rows,
    )  # fmt: skip
    report.add(f"A call that finds nothing to prune among {young:,} younger bodies takes {nothing:.1f} ms.")


async def prune(database: Database, limit: int, pauses: int, seconds: float) -> tuple[int, float]:
    """Prune for so long, or until nothing is left; how many bodies, in how many seconds."""
    pruned, started = 0, time.perf_counter()
    async with database.connect() as db:
        while (called := time.perf_counter()) - started < seconds and (number := await db.fetchval(PRUNE, limit)):
            pruned += number
            await asyncio.sleep(pauses * (time.perf_counter() - called))
    return pruned, time.perf_counter() - started
