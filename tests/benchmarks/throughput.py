"""How many events a second, as ratios to the control: rounds in which every case has its turn, and their medians."""

import re
from collections.abc import Awaitable, Callable, Sequence
from statistics import median
from typing import Any

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
Round = dict[str, tuple[Measured, Measured]]  # by case: the control just before it, and the case


async def make_invoices(db: Connection, target: Target) -> None:
    """The control beside our tables, and the same invoices in both."""
    await db.execute((HERE / "control.sql").read_text())
    await db.execute(
        "insert into invoices (id, amount) select i, 1000000 from generate_series(1, $1) i", target.invoices
    )
    await db.execute("insert into control.invoices (id, amount) select i.id, i.amount from invoices i")


async def add_history(db: Connection, target: Target, events: int, chunk: int = 250_000) -> None:
    """Events of the past, posted, in both ledgers, as if they had come one by one: ids in order, event ids scattered.

    Bodies are left out: they have a retention, so a long history does not hold them.
    """
    for done in range(0, events, chunk):
        progress(f"history: {done:,} of {events:,} events")
        async with db.transaction():
            await db.execute(
                "create temporary table past on commit drop as"
                " select nextval('payment_events_id_seq') as id, 'evt_' || gen_random_uuid() as event_id,"
                "        'ch_' || gen_random_uuid() as reference, (random() * ($2 - 1))::bigint + 1 as invoice_id"
                " from generate_series(1, $1)",
                min(chunk, events - done),
                target.invoices,
            )
            # Sorted within the chunk: the index comes out as if by chance, but its pages are met one after the other.
            await db.execute(
                "insert into payment_events (id, amount, invoice_id, connection, event_id, kind, currency, reference)"
                " select p.id, 100, p.invoice_id, 'stripe', p.event_id, 'payment', 'USD', p.reference"
                " from past p order by p.event_id"
            )
            await db.execute(
                "insert into payments (id, invoice_id, amount, connection, kind, reference)"
                " select p.id, p.invoice_id, 100, 'stripe', 'payment', p.reference from past p order by p.reference"
            )
            await db.execute(
                "insert into control.payments (event_id, invoice_id, amount)"
                " select p.event_id, p.invoice_id, 100 from past p order by p.event_id"
            )
    progress("history: sums of the invoices, then vacuum analyze")
    async with db.transaction():  # the owner may set sums, nobody else
        await db.execute("select set_config('role', role_name('owner'), true)")
        await db.execute(
            "update invoices i set amount_paid = s.paid, status = invoice_status(i.amount, s.paid, 0, 0)"
            " from (select p.invoice_id, sum(p.amount)::bigint as paid from payments p group by p.invoice_id) s"
            " where s.invoice_id = i.id"
        )
    await db.execute(
        "update control.invoices i set amount_paid = s.paid,"
        " status = case when s.paid >= i.amount then 'paid' else 'partially_paid' end"
        " from (select p.invoice_id, sum(p.amount)::bigint as paid from control.payments p group by p.invoice_id) s"
        " where s.invoice_id = i.id"
    )
    await db.execute("vacuum analyze")
    await db.execute("checkpoint")


async def run_round(target: Target, db: Connection, events: int, seconds: int) -> Round:
    """Every case once, each right after a run of the control; both once more where other work disturbed them."""
    cases: Round = {}
    workers = [await asyncpg.connect(target.url) for _ in range(2)]

    async def compare(
        case: str, run: Callable[[], Awaitable[Measured]], prepare: Callable[[], Awaitable[Any]] | None = None
    ) -> None:
        for _ in range(2):
            control = await run_pgbench(target, "control", clients=16, seconds=seconds, invoices=target.invoices)
            if prepare:
                await prepare()
            cases[case] = control, await run()
            if not any(measured.disturbed for measured in cases[case]):
                break

    async def set_wise(suffix: str, references: bool) -> None:
        def put(script: str) -> Awaitable[Measured]:
            return run_batches(target, db, script, events, references=references)

        await compare(APPLY + suffix, lambda: put("apply"))
        await compare(ENQUEUE + suffix, lambda: put("enqueue"), lambda: drain(target, workers[:1]))
        await compare(PROCESS_1 + suffix, lambda: drain(target, workers[:1]), lambda: put("enqueue"))
        await compare(PROCESS_2 + suffix, lambda: drain(target, workers), lambda: put("enqueue"))

    try:
        await compare(
            SINGLE, lambda: run_pgbench(target, "apply_one", clients=16, seconds=seconds, invoices=target.invoices)
        )
        await set_wise("", False)
        await set_wise(REFERENCED, True)
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
        disturbed = sum(measured.disturbed for pair in cases.values() for measured in pair)
        progress(
            f"{label}, {name}, {disturbed} of {2 * len(cases)} runs disturbed: "
            + ", ".join(f"{_short(case)} {m.rate / c.rate:.1f} x {c.rate:,.0f}/s" for case, (c, m) in cases.items())
        )
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
    return re.split(r"[:,(]", case, maxsplit=1)[0] + (" +ref" if case.endswith(REFERENCED) else "")


def table(rounds: Sequence[Round]) -> list[str]:
    """A markdown table of medians over the rounds, each ratio being to the control run just before.

    Over undisturbed pairs where there are any. The CPU is the server's and the client's together: where other work
    disturbs the machine, its ratio is the steadier one.
    """
    lines = [
        "| case | events/s | times the control | target | by CPU | server µs/event | client |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    controls = [control for cases in rounds for control, _ in cases.values()]
    controls = [control for control in controls if not control.disturbed] or controls
    lines.append(f"| {CONTROL} | {median(m.rate for m in controls):,.0f} | 1 | | 1 | {_cpu(controls)} |")
    for case in rounds[0]:
        pairs = [cases[case] for cases in rounds]
        pairs = [pair for pair in pairs if not any(measured.disturbed for measured in pair)] or pairs
        ratios = sorted(run.rate / control.rate for control, run in pairs)
        target = f"{TARGETS[case]:.1f}" if case in TARGETS else ""
        by_cpu = median(control.cpu_us / run.cpu_us if run.cpu_us else 0 for control, run in pairs)
        lines.append(
            f"| {case} | {median(run.rate for _, run in pairs):,.0f}"
            f" | **{median(ratios):.2f}** ({ratios[0]:.2f} to {ratios[-1]:.2f}) | {target}"
            f" | {by_cpu:.2f} | {_cpu([run for _, run in pairs])} |"
        )
    return lines


def _cpu(runs: Sequence[Measured]) -> str:
    return f"{median(m.server_us for m in runs):.0f} | {median(m.client_us for m in runs):.1f}"
