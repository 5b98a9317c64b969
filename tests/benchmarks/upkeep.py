"""What time does to the queue: a steady hour of traffic, and a transaction that vacuum cannot see past."""

import asyncio
import time
from statistics import median

import asyncpg

from tests.benchmarks.load import BATCH, CLAIM, ENQUEUE, Connection, Target, make_batches, progress

SIZES = (
    "select pg_table_size('payment_queue') / 1024 as table_kb, pg_indexes_size('payment_queue') / 1024 as index_kb,"
    " s.n_live_tup, s.n_dead_tup, s.autovacuum_count,"
    " (select count(*) from payment_queue) as waiting"
    " from pg_stat_user_tables s where s.relid = 'payment_queue'::regclass"
)


async def steady_hour(target: Target, db: Connection, events: int, seconds: int) -> list[str]:
    """An hour's `events` in `seconds`, enqueued at an even pace and processed as they come, autovacuum as shipped."""
    lines = [
        "| second | events | waiting | queue table, kB | its indexes, kB | dead tuples | autovacuums | claim, ms |",
        "| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    await db.execute("vacuum full payment_queue")  # what came before is not this hour's
    enqueuer, worker = [await asyncpg.connect(target.url) for _ in range(2)]
    started = time.perf_counter()
    sent = 0
    done = asyncio.Event()

    async def enqueue() -> None:
        nonlocal sent
        prepared = await enqueuer.prepare(ENQUEUE)
        while sent < events:
            ahead = started + sent / events * seconds - time.perf_counter()
            if ahead > 0:
                await asyncio.sleep(ahead)
            await prepared.fetch(*make_batches(BATCH, BATCH, target.invoices, body_bytes=0)[0])
            sent += BATCH
        done.set()

    async def process() -> None:
        while True:
            last = done.is_set()
            row = await worker.fetchrow("select * from process_payment_queue($1)", CLAIM)
            assert row is not None
            if not row["claimed"]:
                if last:
                    return
                await asyncio.sleep(0.01)

    async def look() -> None:
        for step in range(7):
            await asyncio.sleep(max(0.0, started + seconds * step / 6 - time.perf_counter()))
            row = await db.fetchrow(SIZES)
            assert row is not None
            claim = await claim_ms(db, 0)
            lines.append(
                f"| {time.perf_counter() - started:.0f} | {sent:,} | {row['waiting']} | {row['table_kb']:,} |"
                f" {row['index_kb']:,} | {row['n_dead_tup']:,} | {row['autovacuum_count']} | {claim:.1f} |"
            )
            progress(f"steady hour: {sent:,} of {events:,} events, {row['table_kb']:,} kB + {row['index_kb']:,} kB")

    try:
        await asyncio.gather(enqueue(), process(), look())
    finally:
        await enqueuer.close()
        await worker.close()
    return lines


async def claim_ms(db: Connection, after: int) -> float:
    """How long a claim of a batch takes; it is rolled back."""
    transaction = db.transaction()
    await transaction.start()
    started = time.perf_counter()
    await db.fetchval("select claim_payment_events($1, $2)", CLAIM, after)
    taken = (time.perf_counter() - started) * 1e3
    await transaction.rollback()
    return taken


async def pinned_claims(target: Target, db: Connection, dead: int) -> list[str]:
    """Claims over `dead` index entries that an old transaction keeps from being removed, with and without p_after."""
    assert not await db.fetchval("select exists (select from payment_queue)")
    first = await db.fetchval("select coalesce(max(id), 0) + 1 from payment_events")
    fresh = first + dead
    fill = "insert into payment_queue (id) select * from generate_series($1::bigint, $2::bigint)"
    lines = ["| dead index entries, kept by an old transaction | claim of 500, p_after 0 | p_after the last id seen |"]
    lines.append("| ---: | ---: | ---: |")
    old = await asyncpg.connect(target.url)
    try:
        for entries in (0, dead):
            if entries:
                await old.execute("begin isolation level repeatable read; select from invoices limit 1")
                await db.execute(fill, first, fresh - 1)
                await db.execute("delete from payment_queue where id < $1", fresh)
            progress(f"pinned claims: {entries:,} dead index entries")
            await db.execute(fill, fresh, fresh + CLAIM - 1)
            whole = median([await claim_ms(db, 0) for _ in range(9)])
            marked = median([await claim_ms(db, fresh - 1) for _ in range(9)])
            await db.execute("delete from payment_queue")
            lines.append(f"| {entries:,} | {whole:.1f} ms | {marked:.1f} ms |")
    finally:
        await old.close()
    await db.execute("vacuum payment_queue")
    return lines
