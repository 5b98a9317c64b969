"""How many events a second, as ratios to the control: rounds in which every case has its turn, and their medians."""

from collections.abc import Sequence
from statistics import median

import asyncpg

from tests.benchmarks.load import HERE, Connection, Measured, Target, drain, progress, run_batches, run_pgbench

CONTROL = "control: one event a transaction, 16 connections"
SINGLE = "apply_payment_event, one a transaction, 16 connections"
APPLY = "apply_payment_events, 50 a batch, 2 connections"
ENQUEUE = "enqueue_payment_events, 50 a batch, 2 connections"
PROCESS_1 = "process_payment_queue(500), 1 connection"
PROCESS_2 = "process_payment_queue(500), 2 connections"
REFERENCED = " · with references"
TARGETS = {APPLY: 3.0, ENQUEUE: 4.5, PROCESS_2: 3.5}
Round = dict[str, Measured]


async def make_invoices(db: Connection, target: Target) -> None:
    """The control beside our tables, and the same invoices in both."""
    await db.execute((HERE / "control.sql").read_text())
    for table in ("invoices", "control.invoices"):
        await db.execute(f"insert into {table} (id, amount) select i, 1000000 from generate_series(1, {target.invoices}) i")  # noqa: S608


async def add_history(db: Connection, target: Target, events: int, chunk: int = 250_000) -> None:
    """Events of the past, posted, in both ledgers, as if they had come one by one: ids in order, event ids scattered.

    Bodies are left out: they have a retention, so a history does not hold them.
    """
    for done in range(0, events, chunk):
        progress(f"history: {done:,} of {events:,} events")
        rows = min(chunk, events - done)
        async with db.transaction():
            # Sorted by event id within a chunk: the index grows as it would, and its pages are met in order.
            await db.execute(
                "create temporary table past on commit drop as"
                " select nextval('payment_events_id_seq') as id, 'evt_' || gen_random_uuid() as event_id,"
                "        (random() * ($2 - 1))::bigint + 1 as invoice_id"
                " from generate_series(1, $1::integer)".replace("$1", str(rows)).replace("$2", str(target.invoices))
            )
            await db.execute(
                "insert into payment_events (id, amount, invoice_id, connection, event_id, kind, currency)"
                " select p.id, 100, p.invoice_id, 'stripe', p.event_id, 'payment', 'USD' from past p order by p.event_id"
            )
            await db.execute(
                "insert into payments (id, invoice_id, amount, connection, kind)"
                " select p.id, p.invoice_id, 100, 'stripe', 'payment' from past p order by p.id"
            )
            await db.execute(
                "insert into control.payments (event_id, invoice_id, amount)"
                " select p.event_id, p.invoice_id, 100 from past p order by p.event_id"
            )
    progress("history: sums of the invoices, then vacuum analyze")
    owner = await db.fetchval("select quote_ident(role_name('owner'))")
    await db.execute(
        f"set role {owner};"
        " update invoices i set amount_paid = s.paid,"
        "     status = invoice_status(i.amount, s.paid, 0, 0)"
        " from (select p.invoice_id, sum(p.amount)::bigint as paid from payments p group by 1) s where s.invoice_id = i.id;"
        "reset role;"
        "update control.invoices i set amount_paid = s.paid,"
        "     status = case when s.paid >= i.amount then 'paid' else 'partially_paid' end"
        " from (select p.invoice_id, sum(p.amount)::bigint as paid from control.payments p group by 1) s"
        " where s.invoice_id = i.id"
    )  # fmt: skip
    await db.execute("vacuum analyze")
    await db.execute("checkpoint")


async def run_round(target: Target, db: Connection, events: int, seconds: int) -> Round:
    """Every case once. The queue is filled by the enqueue case and emptied by the process cases."""
    cases: Round = {}
    workers = [await asyncpg.connect(target.url) for _ in range(2)]
    try:
        cases[CONTROL] = await run_pgbench(target, "control", clients=16, seconds=seconds, invoices=target.invoices)
        cases[SINGLE] = await run_pgbench(target, "apply_one", clients=16, seconds=seconds, invoices=target.invoices)
        for suffix, references in (("", False), (REFERENCED, True)):
            cases[APPLY + suffix] = await run_batches(target, db, "apply", events, references=references)
            cases[ENQUEUE + suffix] = await run_batches(target, db, "enqueue", events, references=references)
            cases[PROCESS_1 + suffix] = await drain(target, workers[:1])
            await run_batches(target, db, "enqueue", events, references=references)
            cases[PROCESS_2 + suffix] = await drain(target, workers)
    finally:
        for worker in workers:
            await worker.close()
    return cases


async def run_rounds(target: Target, db: Connection, rounds: int, events: int, seconds: int, label: str) -> list[Round]:
    """Rounds after a first one that does not count; checks that what was put in is what was posted."""
    done = []
    for n in range(rounds + 1):
        name = f"round {n} of {rounds}" if n else "warm-up round"
        cases = await run_round(target, db, events, seconds)
        progress(f"{label}, {name}: " + ", ".join(f"{_short(case)} {m.rate:,.0f}/s" for case, m in cases.items()))
        if n:
            done.append(cases)
    wrong = await db.fetchval(
        "select count(*) from invoices i"
        " where i.amount_paid <> coalesce((select sum(p.amount) from payments p where p.invoice_id = i.id), 0)"
    )
    assert not wrong, f"{wrong} invoices disagree with the ledger"
    assert not await db.fetchval("select exists (select from dead_letters) or exists (select from parked_events)")
    return done


def _short(case: str) -> str:
    return case.split(":")[0].split(",")[0].split("(")[0] + (" +ref" if case.endswith(REFERENCED) else "")


def table(rounds: Sequence[Round]) -> list[str]:
    """A markdown table: medians over the rounds, the ratio being the median of each round's own."""
    lines = [
        "| case | events/s | × control | target | server CPU, µs an event | client CPU, µs an event |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for case in rounds[0]:
        ratios = sorted(r[case].rate / r[CONTROL].rate for r in rounds)
        spread = f" ({ratios[0]:.2f} to {ratios[-1]:.2f})" if case != CONTROL else ""
        target = f"{TARGETS[case]:.1f}" if case in TARGETS else ""
        lines.append(
            f"| {case} | {median(r[case].rate for r in rounds):,.0f} | {median(ratios):.2f}{spread} | {target}"
            f" | {median(r[case].server_us for r in rounds):.0f} | {median(r[case].client_us for r in rounds):.1f} |"
        )
    return lines
