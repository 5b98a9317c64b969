"""What open consoles cost the payment path: the same load with and without fifty of them, in turns.

The pages' streams of server-sent events are read to the end.
"""

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import AsyncIterator
from statistics import median

import aiohttp

from tests.benchmarks.processes import Process, cpu_seconds, running
from tests.benchmarks.report import Cell, Report, progress
from tests.benchmarks.scale import Scale
from tests.benchmarks.target import Target
from tests.benchmarks.wrk import ENVIRONMENT, QUEUE, SYNC, Answers, wrk

CONSOLES = 50
CONNECTIONS = 32
TOKEN = "benchmark" * 4


async def run(target: Target, scale: Scale, report: Report) -> None:
    """One server and one listener; the processor's time is the server's."""
    found: dict[tuple[str, int], list[tuple[Answers, float]]] = defaultdict(list)
    heard: list[float] = []
    async with contextlib.AsyncExitStack() as stack:
        database = await stack.enter_async_context(target.database())
        url = {"DATABASE_URL": database.url}
        settings = url | ENVIRONMENT | {"OPERATOR_TOKENS": f"benchmark:{TOKEN}:read"}
        server = await stack.enter_async_context(running("service.server", **settings))
        await stack.enter_async_context(running("service.listener", ready="/readyz", **url))
        for path in (SYNC, QUEUE):
            await wrk(server.port, path, CONNECTIONS, 1, database.invoices)  # plans and caches
        for number in range(scale.rounds):
            for path in (SYNC, QUEUE):
                for opened in (0, CONSOLES) if number % 2 else (CONSOLES, 0):
                    async with consoles(server, opened) as messages:
                        before, used = messages[0], cpu_seconds(server.pid)
                        sent = await wrk(server.port, path, CONNECTIONS, scale.seconds, database.invoices)
                        us = 1e6 * (cpu_seconds(server.pid) - used) / sent.number
                        heard.append((messages[0] - before) / scale.seconds)
                    progress(f"consoles: {path}, {opened} consoles: {sent.rate:,.0f}/s, {us:.0f} µs")
                    found[path, opened].append((sent, us))
    rows: list[list[Cell]] = []
    for (path, opened), runs in sorted(found.items()):
        ratio = median(a.rate / b.rate for (a, _), (b, _) in zip(runs, found[path, 0], strict=True))
        rates, p99s = [sent.rate for sent, _ in runs], [sent.p99 for sent, _ in runs]
        rows.append([f"`{path}`", opened, median(rates), median(p99s), median(us for _, us in runs), ratio])
        if opened:
            report.sum_up(f"`{path}`, {opened} open consoles", f"{median(rates):,.0f} a second", f"{ratio:.2f} of none")
    report.table(["endpoint", "consoles", "a second", "p99 ms", "server's µs an event", "to no consoles"], rows)
    report.add(f"The consoles together got up to {max(heard):.0f} messages a second.")


@contextlib.asynccontextmanager
async def consoles(server: Process, number: int) -> AsyncIterator[list[int]]:
    """So many live pages; how many messages came."""
    messages = [0]
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.CookieJar(unsafe=True)) as session:
        async with session.post(f"{server.admin}/console/sign-in", data={"token": TOKEN}) as response:
            response.raise_for_status()

        async def read() -> None:
            url = f"{server.admin}/console/events"
            async with session.get(url, timeout=aiohttp.ClientTimeout(total=None)) as response:
                response.raise_for_status()
                async for line in response.content:
                    messages[0] += line == b"\n"

        tasks = [asyncio.create_task(read()) for _ in range(number)]
        try:
            async with asyncio.timeout(20):
                while messages[0] < number:
                    await asyncio.sleep(0.1)
            yield messages
        finally:
            for task in tasks:
                task.cancel()
