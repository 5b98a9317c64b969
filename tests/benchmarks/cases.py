"""Calls of the database compared with the control: one event a transaction, one function, 16 connections."""

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from statistics import median
from typing import NamedTuple, TypeAlias

from tests.benchmarks.load import BATCH, CLAIM, HERE, Measured, drain, run_batches, run_pgbench
from tests.benchmarks.report import Cell, progress
from tests.benchmarks.scale import Scale
from tests.benchmarks.target import Database

CONTROL = "control: one event a transaction, 16 connections"
Load: TypeAlias = Callable[[Database, int], Awaitable[Measured]]
Round: TypeAlias = dict[str, tuple[Measured, Measured]]
"""By case: the control just before it, and the case."""


class Case(NamedTuple):
    """What takes so many events, and what has to be done with as many before the clock starts."""

    name: str
    run: Load
    prepare: Load | None = None


async def _single(database: Database, _: int) -> Measured:
    return await run_pgbench(database, "apply_one", clients=16, seconds=5)


async def _process(database: Database, _: int, connections: int = 1) -> Measured:
    return await drain(database, connections)


def cases(*, references: bool) -> list[Case]:
    """The set-wise functions; with `references` each event carries the provider's id of the movement, as most do."""
    suffix = ", with references" if references else ""
    apply, rows_alone, enqueue = (
        partial(run_batches, script=script, references=references) for script in ("apply", "rows", "enqueue")
    )
    return [
        Case(f"apply_payment_events, {BATCH} a batch, 2 connections{suffix}", apply),
        Case(f"control: its rows alone, {BATCH} a batch, 2 connections{suffix}", rows_alone),
        Case(f"enqueue_payment_events, {BATCH} a batch, 2 connections{suffix}", enqueue, _process),
        Case(f"process_payment_queue({CLAIM}), 1 connection{suffix}", _process, enqueue),
        Case(f"process_payment_queue({CLAIM}), 2 connections{suffix}", partial(_process, connections=2), enqueue),
    ]


SINGLE = Case("apply_payment_event, one a transaction, 16 connections", _single)


async def add_controls(database: Database) -> None:
    """The tables and functions of control.sql beside ours, and the same invoices in both."""
    async with database.connect() as db:
        await db.execute((HERE / "control.sql").read_text())
        await db.execute("insert into control.invoices (id, amount) select i.id, i.amount from invoices i")
        await db.execute("vacuum analyze")


async def run_round(database: Database, of: Sequence[Case], events: int, scale: Scale) -> Round:
    """Every case once, each right after a second of the control; both once more where other work disturbed them."""
    done: Round = {}
    for case in of:
        for _ in range(2 if scale.thorough else 1):
            control = await run_pgbench(database, "control", clients=16, seconds=1)
            if case.prepare:
                await case.prepare(database, events)
            done[case.name] = control, await case.run(database, events)
            if not any(measured.disturbed for measured in done[case.name]):
                break
    disturbed = sum(measured.disturbed for pair in done.values() for measured in pair)
    progress(
        f"a round, {disturbed} of {2 * len(done)} runs disturbed: "
        + ", ".join(f"{name.partition(',')[0]} {run.rate / control.rate:.1f}" for name, (control, run) in done.items())
        + " times the control"
    )
    return done


def undisturbed(rounds: Sequence[Round], case: str) -> list[tuple[Measured, Measured]]:
    """The case's pairs that nothing disturbed; all of them where there is none."""
    pairs = [done[case] for done in rounds]
    return [pair for pair in pairs if not any(measured.disturbed for measured in pair)] or pairs


def rows(rounds: Sequence[Round]) -> list[list[Cell]]:
    """Rows of a table of medians, COLUMNS wide; each ratio is to the control just before.

    The CPU is the server's and the client's together: where other work disturbs the machine, its ratio is the steadier.
    """
    controls = [control for case in rounds[0] for control, _ in undisturbed(rounds, case)]
    table: list[list[Cell]] = [[CONTROL, median(control.rate for control in controls), 1, "", 1, *_cpu(controls)]]
    for case in rounds[0]:
        pairs = undisturbed(rounds, case)
        ratios = sorted(run.rate / control.rate for control, run in pairs)
        by_cpu = median(control.cpu_us / run.cpu_us if run.cpu_us else 0 for control, run in pairs)
        runs = [run for _, run in pairs]
        spread = f"{ratios[0]:.2f} to {ratios[-1]:.2f}"
        table.append([case, median(run.rate for run in runs), median(ratios), spread, by_cpu, *_cpu(runs)])
    return table


COLUMNS = ("case", "events a second", "times the control", "from … to", "by CPU", "server µs an event", "client µs")


def _cpu(runs: Sequence[Measured]) -> list[Cell]:
    return [median(run.server_us for run in runs), median(run.client_us for run in runs)]
