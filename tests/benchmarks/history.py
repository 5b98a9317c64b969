"""What an event costs as the history grows, and whether the plans of the hot statements stay as they should."""

import contextlib
import os
import re
from collections.abc import Sequence
from statistics import median

from tests.benchmarks.cases import CONTROL, Round, add_controls, cases, run_round, undisturbed
from tests.benchmarks.chart import short
from tests.benchmarks.load import (
    APPLY,
    BATCH,
    CLAIM,
    ENQUEUE,
    Measured,
    make_batches,
    run_batches,
    run_pgbench,
)
from tests.benchmarks.report import Cell, Report, progress
from tests.benchmarks.scale import Scale
from tests.benchmarks.target import Database, Target

LEVELS = (10_000, 100_000, 1_000_000, 10_000_000)
SMALL = 100_000
"""Up to so many past events every round gets a copy of the database: its events would be the history."""
SETTLING = 25
"""One event to so many of the past settles a database: PostgreSQL writes a page whole when it first changes after a
checkpoint, and behind a long history nearly every event changes a page of the keys that none did before."""
EVENTS = 10_000
"""Of each case in a round."""
MEMORY = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 20
SETTINGS = {"shared_buffers": f"{min(MEMORY // 4, 4096)}MB", "max_wal_size": "16GB", "checkpoint_timeout": "30min"}
"""What a long history asks for: its keys in memory, and rare checkpoints. (huge_pages is `try` by default.)"""
SIZE = """
    select sum(pg_total_relation_size(name::regclass))::float / $1
    from unnest(array['payment_events', 'payments']) name
"""
WHEN = ("soon after a checkpoint", "")


async def run(target: Target, scale: Scale, report: Report) -> None:
    """At each length of history rounds after a first one that does not count, once it is settled, and before."""
    found: dict[tuple[int, str], list[Round]] = {}
    sizes = {}
    of = cases(references=True)[:4]
    async with target.database() as database:
        await add_controls(database)
        for level in (level for level in LEVELS if level <= scale.history):
            async with database.connect() as db:
                await add_history(database, level - await db.fetchval("select count(*) from payment_events"))
                sizes[level] = await db.fetchval(SIZE, float(level))
            for when in WHEN if level > SMALL else WHEN[1:]:
                if level > SMALL and not when:
                    await settle(database, level)
                rounds = found[level, when] = []
                for _ in range(scale.rounds + 1):
                    async with contextlib.AsyncExitStack() as stack:
                        on = database
                        if level <= SMALL:
                            on = await stack.enter_async_context(target.database(template=database))
                            await settle(on, level)
                        rounds.append(await run_round(on, of, EVENTS, scale))
            progress(f"history: measured at {level:,} events")
        _tell(report, {place: rounds[1:] for place, rounds in found.items()}, sizes)
        await hot_plans(database, report)


async def settle(database: Database, level: int) -> None:
    """Have a share of the level applied, of ours and of the control's."""
    events = max(level // SETTLING, 4 * BATCH)
    progress(f"history: {events:,} events to settle")
    await run_batches(database, events, script="apply", references=True)
    await run_pgbench(database, "control", clients=16, calls=events // 16)


def _tell(report: Report, found: dict[tuple[int, str], list[Round]], sizes: dict[int, float]) -> None:
    rows: list[list[Cell]] = []
    lines: dict[str, list[tuple[float, float]]] = {}
    of = next(iter(found.values()))[0]
    for name in (CONTROL, *of):
        settled = {level: _us(rounds, name) for (level, when), rounds in found.items() if not when}
        first = next(iter(settled.values()))
        for (level, when), rounds in found.items():
            runs = [pair[1] for pair in _pairs(rounds, name)]
            us = _us(rounds, name)
            ratio = median(run.rate / control.rate for control, run in _pairs(rounds, name))
            server_us = median(run.server_us for run in runs)
            rows.append(
                [
                    name,
                    f"{short(level)} {when}".strip(),
                    us,
                    us / first,
                    server_us,
                    ratio,
                    None if name == CONTROL else sizes[level],
                ]
            )
        lines[name] = list(settled.items())
        last = max(settled)
        report.sum_up(
            f"{name.partition(',')[0]}, {short(last)} past events", f"{settled[last]:.0f} µs an event",
            f"{settled[last] / first:.2f} times what it takes behind {short(min(settled))}",
        )  # fmt: skip
    report.table(
        ["case", "past events", "µs an event", "to the first", "server's processor µs", "times the control",
         "bytes an event of history"],
        rows,
    )  # fmt: skip
    report.chart("history", "Time of one event", "past events", "µs", lines, log_x=True)


def _pairs(rounds: Sequence[Round], case: str) -> list[tuple[Measured, Measured]]:
    """The control and the case of undisturbed runs; the control beside itself where that is the case."""
    if case != CONTROL:
        return undisturbed(rounds, case)
    return [(control, control) for name in rounds[0] for control, _ in undisturbed(rounds, name)]


def _us(rounds: Sequence[Round], case: str) -> float:
    return 1e6 / median(run.rate for _, run in _pairs(rounds, case))


async def add_history(database: Database, events: int, chunk: int = 250_000) -> None:
    """Events of the past, posted, in both ledgers, as if they had come one by one: ids in order, event ids scattered.

    They paid invoices of the past, two events each; what is measured pays the others, the latest. Bodies are left out:
    they have a retention, so a long history does not hold them.
    """
    async with database.connect() as db:
        for done in range(0, events, chunk):
            progress(f"history: {done:,} of {events:,} events")
            async with db.transaction():
                await db.execute(
                    "create temporary table past on commit drop as"
                    " select p.id, 'evt_' || gen_random_uuid() as event_id, 'ch_' || gen_random_uuid() as reference,"
                    "        p.id / 2 - 1000000000000 as invoice_id"
                    " from (select nextval('payment_events_id_seq') as id from generate_series(1, $1)) p",
                    min(chunk, events - done),
                )
                for invoices in ("invoices", "control.invoices"):
                    await db.execute(
                        f"insert into {invoices} (id, amount) select distinct p.invoice_id, 200 from past p"  # noqa: S608 - constants
                        " order by p.invoice_id on conflict do nothing"
                    )
                # Sorted within the chunk: the index comes out as if by chance, but its pages are met in turn.
                await db.execute(
                    "insert into payment_events"
                    " (id, amount, invoice_id, connection, event_id, kind, currency, reference)"
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
                " from (select p.invoice_id, sum(p.amount)::bigint as paid from payments p"
                "       where p.invoice_id < 0 group by p.invoice_id) s"
                " where s.invoice_id = i.id and s.paid <> i.amount_paid"
            )
        await db.execute(
            "update control.invoices i set amount_paid = s.paid,"
            " status = case when s.paid >= i.amount then 'paid' else 'partially_paid' end"
            " from (select p.invoice_id, sum(p.amount)::bigint as paid from control.payments p"
            "       where p.invoice_id < 0 group by p.invoice_id) s"
            " where s.invoice_id = i.id and s.paid <> i.amount_paid"
        )
        await db.execute("vacuum analyze")
        await db.execute("checkpoint")


async def hot_plans(database: Database, report: Report) -> None:
    """Add the plans of one batch each of apply, enqueue and process; raises SystemExit for a sequential scan of ours.

    The queue is processed as the listener does it: its look at all that is parked is a call of its own.
    """
    said: list[str] = []
    lines: list[str] = []
    scans: list[str] = []
    async with database.connect() as db:
        tables = {row["relname"] for row in await db.fetch("select relname from pg_stat_user_tables")}
        await db.execute(
            "load 'auto_explain'; set auto_explain.log_min_duration = 0; set auto_explain.log_analyze = on;"
            "set auto_explain.log_buffers = on; set auto_explain.log_nested_statements = on;"
            "set auto_explain.log_parameter_max_length = 0; set client_min_messages = log"
        )
        process = "select * from process_payment_queue($1, -1)"
        batches = make_batches(4, database.invoices, references=True)
        await db.fetch(APPLY, *batches[0])  # plans are made once a connection: the second batch is as all that follow
        await db.fetch(ENQUEUE, *batches[1])
        await db.fetch(process, CLAIM)
        db.add_log_listener(lambda _, message: said.append(str(getattr(message, "message", message))))
        for name, statement, arguments in (
            (f"apply_payment_events, {BATCH} events", APPLY, batches[2]),
            (f"enqueue_payment_events, {BATCH} events", ENQUEUE, batches[3]),
            (f"process_payment_queue, {BATCH} events", process, (CLAIM,)),
        ):
            said.clear()
            await db.fetch(statement, *arguments)
            touched = r"(?:Insert|Update|Delete|Scan|using \w+) on (\w+)"
            ours = [plan for plan in said if tables & set(re.findall(touched, plan))]
            plans = {plan.partition("  plan:\n")[2].partition("\n  ")[0]: plan for plan in ours}.values()
            lines += [f"#### {name}", ""]
            for plan in plans:
                lines += ["```", *(line.rstrip() for line in plan.splitlines()), "```", ""]
                scans += [scan for scan in re.findall(r"Seq Scan on (\w+)", plan) if scan in tables]
    report.add(f"### Plans: sequential scans of our tables: {', '.join(scans) or 'none'}", "", *lines)
    if scans:
        raise SystemExit(f"sequential scan of {', '.join(scans)}: see {report.file}")
