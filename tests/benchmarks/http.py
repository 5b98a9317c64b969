"""The endpoints under wrk, from 1 to 256 connections, beside a server without database and one without group commit."""

import contextlib
from collections import defaultdict
from collections.abc import Sequence
from statistics import median

from tests.benchmarks.processes import running
from tests.benchmarks.report import Cell, Report, progress
from tests.benchmarks.scale import Scale
from tests.benchmarks.target import Target
from tests.benchmarks.wrk import ENVIRONMENT, QUEUE, SECRET, SIGNED_SIZE, STRIPE, SYNC, Answers, pause_for, wrk

CONNECTIONS = (1, 4, 16, 64, 256)
OURS, TWO, NO_DATABASE, POOLED = "ours", "two of ours", "no database", "one pooled call a request"
SIGNED = f"ours, signed events of {SIGNED_SIZE} bytes"


async def run(target: Target, scale: Scale, report: Report) -> None:
    """Every case in turn, and that again in each round; ratios are within a round."""
    connection_counts = CONNECTIONS if scale.thorough else CONNECTIONS[::2]
    cases = [
        (path, connections, kind)
        for path in (SYNC, QUEUE, STRIPE)
        for connections in connection_counts
        for kind in (OURS, NO_DATABASE, POOLED, *((TWO,) if connections == 64 else ()))
    ]
    usual = 64 if scale.thorough else 16
    cases.insert(cases.index((STRIPE, usual, OURS)), (QUEUE, usual, SIGNED))
    answers: dict[tuple[str, int, str], list[Answers]] = defaultdict(list)
    async with target.database() as database, contextlib.AsyncExitStack() as stack:
        settings = {"DATABASE_URL": database.url} | ENVIRONMENT
        ports = {}
        for kind, module, *arguments in (
            (OURS, "service.server"),
            (TWO, "service.server"),
            (NO_DATABASE, "tests.benchmarks.controls", "no-database"),
            (POOLED, "tests.benchmarks.controls", "pooled-call"),
        ):
            ports[kind] = (await stack.enter_async_context(running(module, *arguments, **settings))).port
        await stack.enter_async_context(running("service.server", **settings | {"PORT": str(ports[TWO])}))
        signed = await stack.enter_async_context(running("service.server", **settings | {"WEBHOOK_SECRETS": SECRET}))
        for path in (SYNC, QUEUE, STRIPE):
            for port in ports.values():
                await wrk(port, path, 16, 1, database.invoices)  # plans and caches
        ports[SIGNED] = signed.port
        await wrk(signed.port, QUEUE, 16, 1, database.invoices, signed=True)
        for number in range(scale.rounds):
            for path, connections, kind in cases:
                found = await wrk(
                    ports[kind], path, connections, scale.seconds, database.invoices, signed=kind == SIGNED
                )
                answers[path, connections, kind].append(found)
                progress(f"http, round {number + 1}: {path}, {connections} connections, {kind}: {found.rate:,.0f}/s")
        half: list[list[Cell]] = []
        async with database.connect() as db:  # hereafter WAL files are used again; a new one costs all 20 ms
            await db.execute("checkpoint")
        for path in (SYNC, QUEUE, STRIPE):
            pause = await pause_for(0.5, ports[OURS], path, 64, database.invoices)
            found = await wrk(ports[OURS], path, 64, 5 * scale.seconds, database.invoices, pause_ms=pause)
            half.append([f"`{path}`", found.rate, found.p50, found.p99, found.p999, found.p99 / found.p50])

    rows: list[list[Cell]] = []
    for case in cases:
        path, connections, kind = case
        ratios = [_ratio(answers[case], answers[path, connections, other]) for other in (NO_DATABASE, POOLED)]
        figures = [median(getattr(a, name) for a in answers[case]) for name in ("rate", "p50", "p99", "p999")]
        rows.append([f"`{path}`", connections, kind, *figures, *ratios])
        if kind == OURS and connections == usual:
            report.sum_up(
                f"`POST {path}`, {connections} connections",
                f"{figures[0]:,.0f} a second, p50 {figures[1]:.0f} ms, p99 {figures[2]:.0f} ms",
                f"{ratios[0]:.2f} of {NO_DATABASE}; {ratios[1]:.1f} times {POOLED}",
            )
    stripe = answers[STRIPE, usual, OURS]
    report.sum_up(
        f"`POST {STRIPE}` to `{QUEUE}`, {usual} connections",
        f"{_ratio(stripe, answers[QUEUE, usual, SIGNED]):.2f} of its rate with signed events of the same size",
        f"{_ratio(stripe, answers[QUEUE, usual, OURS]):.2f} of that with unsigned ones of 70 bytes",
    )
    report.table(
        ["endpoint", "connections", "server", "a second", "p50 ms", "p99 ms", "p99.9 ms", f"to {NO_DATABASE}",
         f"to {POOLED}"],
        rows,
    )  # fmt: skip
    report.table(
        ["at half the top rate, 64 connections", "a second", "p50 ms", "p99 ms", "p99.9 ms", "p99 to p50"], half
    )
    named = [(path, path, OURS) for path in (QUEUE, SYNC, STRIPE)]
    named += [(f"control: {kind}", SYNC, kind) for kind in (NO_DATABASE, POOLED)]
    for name, title, label, figure in (
        ("throughput", "Events a second, by endpoint", "answered a second", "rate"),
        ("latency", "99th percentile of the latency, by endpoint", "ms", "p99"),
    ):
        report.chart(
            name, title, "connections", label,
            {line: [(n, median(getattr(a, figure) for a in answers[path, n, kind])) for n in connection_counts]
             for line, path, kind in named},
            log_x=True, log_y=name == "latency",
        )  # fmt: skip


def _ratio(ours: Sequence[Answers], theirs: Sequence[Answers]) -> float:
    return median(one.rate / other.rate for one, other in zip(ours, theirs, strict=True))
