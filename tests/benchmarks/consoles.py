"""Benchmark of what open consoles cost the payment path: the same load with and without fifty of them, in turns.

    python -m tests.benchmarks.consoles                 # about two minutes
    python -m tests.benchmarks.consoles --rounds 2 --seconds 2

One server and one listener, each a process, on the embedded PostgreSQL in a temporary folder; the pages' streams of
server-sent events are read to the end. It needs wrk (Debian: wrk). The report goes to standard output.
"""

import argparse
import asyncio
import contextlib
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp
import asyncpg

from service import embedded, migrate
from tests.http_service import free_port

CONSOLES = 50
CONNECTIONS = 32
TOKEN = "benchmark" * 4
ENDPOINTS = ("/webhooks/payments", "/webhooks-sync/payments")
WRK = """
    local sent = 0
    wrk.method = "POST"
    wrk.headers["Content-Type"] = "application/json"
    function init(args) prefix = args[1] end
    function request()
        sent = sent + 1
        return wrk.format(nil, nil, nil, string.format(
            '{"event_id": "%s-%d", "invoice_id": %d, "amount": 1}', prefix, sent, math.random(1, 10000)))
    end
"""


async def load(script: Path, port: int, path: str, seconds: int) -> tuple[float, float]:
    """Requests a second and p99 in ms."""
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "--latency", "-s", str(script)]
    command += [f"http://127.0.0.1:{port}{path}", "--", f"b{time.time_ns()}"]
    wrk = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
    said = (await wrk.communicate())[0].decode()
    if wrk.returncode or "Non-2xx" in said or "Socket errors" in said:
        raise SystemExit(said)
    number, unit = re.findall(r"99%\s+([\d.]+)(us|ms|s)", said)[0]
    rate = float(re.findall(r"Requests/sec:\s+([\d.]+)", said)[0])
    return rate, float(number) * {"us": 0.001, "ms": 1, "s": 1000}[unit]


@contextlib.asynccontextmanager
async def consoles(port: int) -> AsyncIterator[list[int]]:
    """So many live pages; how many messages came."""
    messages = [0]
    url = f"http://127.0.0.1:{port}/console"
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.CookieJar(unsafe=True)) as session:
        async with session.post(f"{url}/sign-in", data={"token": TOKEN}) as response:
            response.raise_for_status()

        async def read() -> None:
            async with session.get(f"{url}/events", timeout=aiohttp.ClientTimeout(total=None)) as response:
                response.raise_for_status()
                async for line in response.content:
                    messages[0] += line == b"\n"

        tasks = [asyncio.create_task(read()) for _ in range(CONSOLES)]
        try:
            async with asyncio.timeout(20):
                while messages[0] < CONSOLES:
                    await asyncio.sleep(0.1)
            yield messages
        finally:
            for task in tasks:
                task.cancel()


@contextlib.contextmanager
def processes(url: str, port: int, admin_port: int) -> Iterator[int]:
    """A server, whose process id it is, and a listener."""
    settings = {"DATABASE_URL": url, "ALLOW_UNSIGNED": "true", "OPERATOR_TOKENS": f"benchmark:{TOKEN}:read"}
    started = [
        subprocess.Popen([sys.executable, "-m", module], env=os.environ | settings | ports, stderr=subprocess.DEVNULL)
        for module, ports in (
            ("service.server", {"PORT": str(port), "ADMIN_PORT": str(admin_port)}),
            ("service.listener", {"ADMIN_PORT": "0"}),
        )
    ]
    try:
        yield started[0].pid
    finally:
        for process in started:
            process.send_signal(signal.SIGTERM)
            process.wait()


def cpu_seconds(pid: int) -> float:
    """What a process has taken of the processors so far (Linux): unlike a rate, whatever else this machine does."""
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


async def measure(url: str, rounds: int = 5, seconds: int = 4) -> list[str]:
    """The report's lines, for a database that is migrated and has 10,000 invoices."""
    port, admin_port = free_port(), free_port()
    figures: dict[tuple[str, bool], list[tuple[float, float, float]]] = defaultdict(list)
    heard = []
    with tempfile.TemporaryDirectory(prefix="payments-consoles-") as folder, processes(url, port, admin_port) as pid:
        script = _script(folder)
        async with aiohttp.ClientSession() as session, asyncio.timeout(20):
            ready = False
            while not ready:
                with contextlib.suppress(aiohttp.ClientError):
                    async with session.get(f"http://127.0.0.1:{port}/readyz") as response:
                        ready = response.status == 200
                await asyncio.sleep(0.1)
        for number in range(rounds + 1):  # the first warms up
            for path in ENDPOINTS:
                for opened in (False, True) if number % 2 else (True, False):
                    async with contextlib.AsyncExitStack() as stack:
                        messages = await stack.enter_async_context(consoles(admin_port)) if opened else [0]
                        before, used = messages[0], cpu_seconds(pid)
                        rate, p99 = await load(script, port, path, seconds)
                        cost = (cpu_seconds(pid) - used) / (rate * seconds) * 1e6
                        heard.append((messages[0] - before) / seconds)
                    beside = f"{CONSOLES if opened else 0} consoles"
                    print(f"round {number}: {path}, {beside}: {rate:,.0f}/s, {cost:.0f} us", file=sys.stderr)
                    if number:
                        figures[path, opened].append((rate, p99, cost))
    lines = [
        "| endpoint | consoles | per s | p99 ms | server's CPU a request, us | per s: with / without |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for path in ENDPOINTS:
        ratios = sorted(b[0] / a[0] for a, b in zip(figures[path, False], figures[path, True], strict=True))
        for opened in (False, True):
            rate, p99, cost = (statistics.median(column) for column in zip(*figures[path, opened], strict=True))
            ratio = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})" if opened else ""
            lines.append(f"| `{path}` | {CONSOLES * opened} | {rate:,.0f} | {p99:.1f} | {cost:.0f} | {ratio} |")
    return [*lines, "", f"The consoles together got up to {max(heard):.0f} messages a second."]


def _script(folder: str) -> Path:
    script = Path(folder, "payments.lua")
    script.write_text(WRK)
    return script


async def _run(url: str, rounds: int, seconds: int) -> None:
    await migrate.up(url)
    db = await asyncpg.connect(url)
    await db.execute("insert into invoices (id, amount) select n, 100000000000000 from generate_series(1, 10000) n")
    await db.close()
    print("\n".join(await measure(url, rounds, seconds)))


def main() -> None:
    """Parse the command line and print the report."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.consoles", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=4)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="payments-consoles-") as folder, embedded.start(Path(folder)) as server:
        asyncio.run(_run(server.url, options.rounds, options.seconds))


if __name__ == "__main__":
    main()
