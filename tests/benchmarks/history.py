"""What an event costs as the history grows, and whether the plans of the hot statements stay as they should."""

import contextlib
import re
from statistics import median

from tests.benchmarks.cases import CONTROL, Round, add_controls, cases, run_round, undisturbed
from tests.benchmarks.chart import short
from tests.benchmarks.load import APPLY, BATCH, CLAIM, ENQUEUE, make_batches
from tests.benchmarks.report import Cell, Report, progress
from tests.benchmarks.scale import Scale
from tests.benchmarks.target import Database, Target

LEVELS = (10_000, 100_000, 1_000_000, 10_000_000)
SMALL = 100_000
"""Up to so many past events every round gets a copy of the database: its events would be the history."""
EVENTS = 10_000
"""Of each case in a round."""
SIZE = """
    select sum(pg_total_relation_size(name::regclass))::float / $1
    from unnest(array['payment_events', 'payments']) name
"""


async def run(target: Target, scale: Scale, report: Report) -> None:
    """At each length of history rounds after a first one that does not count."""
    found: dict[int, list[Round]] = {}
    sizes = {}
    of = cases(references=True)[:3]
    async with target.database() as database:
        await add_controls(database)
        for level in (level for level in LEVELS if level <= scale.history):
            async with database.connect() as db:
                await add_history(database, level - await db.fetchval("select count(*) from payment_events"))
                sizes[level] = await db.fetchval(SIZE, float(level))
            found[level] = []
            for _ in range(scale.rounds + 1):
                async with contextlib.AsyncExitStack() as stack:
                    small = level <= SMALL
                    on = await stack.enter_async_context(target.database(template=database)) if small else database
                    found[level].append(await run_round(on, of, EVENTS, scale))
            progress(f"history: measured at {level:,} events")
        _tell(report, {level: rounds[1:] for level, rounds in found.items()}, sizes)
        await hot_plans(database, report)


def _tell(report: Report, found: dict[int, list[Round]], sizes: dict[int, float]) -> None:
    rows: list[list[Cell]] = []
    lines: dict[str, list[tuple[float, float]]] = {}
    of = next(iter(found.values()))[0]
    for name in (CONTROL, *of):
        for level, rounds in found.items():
            pairs = [pair for case in (of if name == CONTROL else [name]) for pair in undisturbed(rounds, case)]
            runs = [pair[0 if name == CONTROL else 1] for pair in pairs]
            us = 1e6 / median(run.rate for run in runs)
            lines.setdefault(name, []).append((level, us))
            first = lines[name][0][1]
            rows.append([name, level, us, us / first, median(run.server_us for run in runs)])
            if name != CONTROL:
                rows[-1] += [median(run.rate / control.rate for control, run in pairs), sizes[level]]
            else:
                rows[-1] += [1, None]
        (shortest, first), (longest, last) = lines[name][0], lines[name][-1]
        report.sum_up(
            f"{name.partition(',')[0]}, {short(longest)} past events", f"{last:.0f} µs an event",
            f"{last / first:.2f} times what it takes behind {short(shortest)}",
        )  # fmt: skip
    report.table(
        ["case", "past events", "µs an event", "to the first", "server's processor µs", "times the control",
         "bytes an event of history"],
        rows,
    )  # fmt: skip
    report.chart("history", "Time of one event", "past events", "µs", lines, log_x=True)


async def add_history(database: Database, events: int, chunk: int = 250_000) -> None:
    """Events of the past, posted, in both ledgers, as if they had come one by one: ids in order, event ids scattered.

    Bodies are left out: they have a retention, so a long history does not hold them.
    """
    async with database.connect() as db:
        for done in range(0, events, chunk):
            progress(f"history: {done:,} of {events:,} events")
            async with db.transaction():
                await db.execute(
                    "create temporary table past on commit drop as"
                    " select nextval('payment_events_id_seq') as id, 'evt_' || gen_random_uuid() as event_id,"
                    "        'ch_' || gen_random_uuid() as reference, (random() * ($2 - 1))::bigint + 1 as invoice_id"
                    " from generate_series(1, $1)",
                    min(chunk, events - done),
                    database.invoices,
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
