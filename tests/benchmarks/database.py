"""The functions called directly, beside the control; what an old transaction does to claims; COPY of invoices."""

import io
import time
from statistics import median

from tests.benchmarks.cases import COLUMNS, SINGLE, add_controls, cases, rows, run_round
from tests.benchmarks.load import CLAIM
from tests.benchmarks.report import Report, progress
from tests.benchmarks.scale import Scale
from tests.benchmarks.target import Connection, Database, Target

MISMATCH = """
    select count(*) from invoices i
    where i.amount_paid <> coalesce((select sum(p.amount) from payments p where p.invoice_id = i.id), 0)
"""


async def run(target: Target, scale: Scale, report: Report) -> None:
    """Rounds after a first one that does not count; what was put in is then compared with what was posted."""
    async with target.database() as database:
        await add_controls(database)
        of = [SINGLE, *(cases(references=False) if scale.thorough else ()), *cases(references=True)]
        rounds = [await run_round(database, of, scale.events * 3 // 20, scale) for _ in range(scale.rounds + 1)][1:]
        report.table(COLUMNS, rows(rounds))
        async with database.connect() as db:
            assert not await db.fetchval(MISMATCH), "invoices disagree with the ledger"
            assert not await db.fetchval(
                "select exists (select from dead_letters) or exists (select from parked_events)"
            )
        await pinned_claims(database, 5 * scale.events // 2, report)
    async with target.database(invoices=0) as database:
        await copy_invoices(database, 3 * scale.events // 2, scale.rounds, report)


async def claim_ms(db: Connection, after: int) -> float:
    """How long a claim of a batch takes; it is rolled back."""
    transaction = db.transaction()
    await transaction.start()
    started = time.perf_counter()
    await db.fetchval("select claim_payment_events($1, $2)", CLAIM, after)
    taken = (time.perf_counter() - started) * 1e3
    await transaction.rollback()
    return taken


async def pinned_claims(database: Database, dead: int, report: Report) -> None:
    """Claims over `dead` index entries that an old transaction keeps from being removed, with and without p_after."""
    fill = "insert into payment_queue (id) select * from generate_series($1::bigint, $2::bigint)"
    rows = []
    async with database.connect() as db, database.connect() as old:
        first = await db.fetchval("select coalesce(max(id), 0) + 1 from payment_events")
        fresh = first + dead
        for entries in (0, dead):
            if entries:
                await old.execute("begin isolation level repeatable read; select from invoices limit 1")
                await db.execute(fill, first, fresh - 1)
                await db.execute("delete from payment_queue where id < $1", fresh)
            progress(f"claims over {entries:,} dead index entries")
            await db.execute(fill, fresh, fresh + CLAIM - 1)
            rows.append([
                entries, median([await claim_ms(db, 0) for _ in range(9)]),
                median([await claim_ms(db, fresh - 1) for _ in range(9)]),
            ])  # fmt: skip
            await db.execute("delete from payment_queue")
    report.table(
        [
            "dead index entries, kept by an old transaction",
            f"claim of {CLAIM}, ms",
            "with p_after the last id seen, ms",
        ],
        rows,
    )


async def copy_invoices(database: Database, number: int, rounds: int, report: Report) -> None:
    """The least that a COPY of invoices takes in alternating runs with and without the trigger that releases events."""
    source = b"".join(b"%d\t10000\n" % n for n in range(1, number + 1))
    seconds: dict[str, list[float]] = {"disable": [], "enable": []}
    async with database.connect() as db:
        for _ in range(rounds):
            for how, taken in seconds.items():
                await db.execute(f"alter table invoices {how} trigger invoices_release")
                await db.execute("delete from invoices")
                await db.execute("vacuum invoices")
                await db.execute("checkpoint")
                started = time.perf_counter()
                await db.copy_to_table("invoices", source=io.BytesIO(source), columns=["id", "amount"])
                taken.append(time.perf_counter() - started)
                progress(f"COPY of {number:,} invoices, {how}d trigger: {taken[-1]:.2f} s")
    bare, released = (min(taken) for taken in seconds.values())
    report.add(
        f"COPY of {number:,} invoices: {bare:.2f} s without the trigger that releases waiting events, {released:.2f} s"
        f" with it, {released / bare:.2f} times as long."
    )
