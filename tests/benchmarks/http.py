"""Benchmark of the endpoints: requests a second and latency by wrk, as ratios to controls in the same run.

    python -m tests.benchmarks.http                 # about four minutes
    python -m tests.benchmarks.http --rounds 1 --seconds 2

Controls on the same HTTP stack: a handler that validates and answers without a database, and one pooled call a request.
Beside them two servers on one port, and Stripe's endpoint with signed events of 3 kB. It needs wrk (Debian:
wrk). PostgreSQL is the embedded one as it ships, in a temporary folder. The report goes to standard output.
"""

import argparse
import asyncio
import contextlib
import json
import os
import re
import secrets
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import asyncpg
import uvloop

from service import admin, connections, embedded, migrate
from service.database import PaymentEvent, Result, Session
from service.process import run_until_signalled
from service.server import Server
from service.settings import Settings, from_environment
from tests.http_service import free_port

SCRIPT = Path(__file__).with_name("payments.lua")
SYNC, QUEUE, STRIPE = "/webhooks-sync/payments", "/webhooks/payments", "/webhooks/stripe"
SECRET = "whsec_of_the_benchmark"
EVENT_SIZE = 3000
"""Bytes of one of Stripe's events."""


class WithoutDatabase(Server):
    """Validates and answers, and asks no database."""

    async def apply(self, event: PaymentEvent) -> Result:
        return Result(
            event.event_id, "applied", event.invoice_id, "partially_paid", 10**14, "USD", 5000, 0, 0, 5000, 0, None
        )

    enqueue = apply


class PooledCall(Server):
    """One call on a pooled connection for each request, as most services do."""

    def __init__(self, settings: Settings):
        super().__init__(settings)
        self._pool: asyncio.Queue[Session] = asyncio.Queue()
        for _ in range(16):
            self._pool.put_nowait(Session(settings.required_database_url, "pooled"))

    async def apply(self, event: PaymentEvent) -> Result:
        session = await self._pool.get()
        try:
            return (await session.apply([event], wait=True))[0]
        finally:
            self._pool.put_nowait(session)

    async def enqueue(self, event: PaymentEvent) -> Result:
        session = await self._pool.get()
        try:
            return (await session.enqueue([event]))[0]
        finally:
            self._pool.put_nowait(session)


KINDS: dict[str, type[Server]] = {
    "ours": Server,
    "no database": WithoutDatabase,
    "pooled call": PooledCall,
    "two of ours": Server,
}


async def _serve(kind: str, settings: Settings, stop: asyncio.Event) -> None:
    server = KINDS[kind](settings)
    runner = await admin.listen(server.runner(), settings.host, settings.port, "PORT", shared=True)
    await stop.wait()
    await runner.cleanup()
    await server.close()


def sign_events(file: Path, number: int) -> None:
    """Write so many of Stripe's events, signed, as payments.lua reads them."""
    stripe = connections.adapter("stripe").model_validate({"connection": "stripe", "webhook_secrets": [SECRET]})
    now = time.time()
    with file.open("wb") as out:
        for _ in range(number):
            event = json.loads(stripe.sample(str(secrets.randbelow(10_000) + 1), 1, "usd"))
            event["id"] = event["data"]["object"]["id"] = f"evt_{secrets.token_hex(12)}"
            event["data"]["object"]["description"] = "x" * (EVENT_SIZE - len(json.dumps(event)))
            body = json.dumps(event).encode()
            [(name, value)] = stripe.sign(body, now).items()
            out.write(b"\t".join([name.encode(), value.encode(), body]) + b"\n")


def wrk(port: int, path: str, connections: int, seconds: int, signed: Path) -> tuple[float, float, float]:
    """Requests a second, p50 and p99 in ms."""
    program = shutil.which("wrk")
    if program is None:
        raise SystemExit("wrk is not installed (Debian: wrk).")
    command = [program, "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", "-s", str(SCRIPT)]
    command += [f"http://127.0.0.1:{port}{path}", "--", f"b{time.time_ns()}"]
    if path == STRIPE:
        sign_events(signed, 6000 * seconds)
        command.append(str(signed))
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in said or "Socket errors" in said:
        raise SystemExit(said)

    def milliseconds(percentile: str) -> float:
        number, unit = re.findall(rf"{percentile}%\s+([\d.]+)(us|ms|s)", said)[0]
        return float(number) * {"us": 0.001, "ms": 1, "s": 1000}[unit]

    return float(re.findall(r"Requests/sec:\s+([\d.]+)", said)[0]), milliseconds("50"), milliseconds("99")


def wait_for(port: int) -> None:
    """Return once somebody listens there."""
    for _ in range(200):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        time.sleep(0.1)
    raise SystemExit(f"no server came up on port {port}")


def resident_kb(pid: int) -> int:
    """Resident memory of a process (Linux), kB."""
    return int(re.findall(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[0])


def measure(url: str, rounds: int, seconds: int, signed: Path) -> list[str]:
    """The report's lines."""
    ports = {kind: free_port() for kind in KINDS}
    settings = {"DATABASE_URL": url, "ALLOW_UNSIGNED": "true", "STRIPE_WEBHOOK_SECRETS": SECRET}
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.benchmarks.http", "--serve", kind],
            env=os.environ | settings | {"PORT": str(ports[kind])},
        )
        for kind in [*KINDS, "two of ours"]
    ]
    cases = [(kind, path, connections) for connections in (64, 1) for path in (SYNC, QUEUE) for kind in KINDS]
    cases.append(("ours", STRIPE, 64))
    memory = []
    results: dict[tuple[str, str, int], list[tuple[float, float, float]]] = defaultdict(list)
    try:
        for port in ports.values():
            wait_for(port)
        for number in range(rounds + 1):
            for kind, path, connections in cases:
                figures = wrk(ports[kind], path, connections, seconds, signed)
                print(f"round {number}: {kind} {path} {connections}: {figures[0]:,.0f}/s", file=sys.stderr, flush=True)
                if number:  # the first warms up
                    results[kind, path, connections].append(figures)
            memory.append(resident_kb(processes[0].pid) / 1024)
    finally:
        for process in processes:
            process.send_signal(signal.SIGTERM)
            process.wait()
    lines = [
        "| endpoint | connections | server | per s | p50 ms | p99 ms | to no database | to pooled call | to ours |",
        "| --- | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for kind, path, connections in cases:
        mine = results[kind, path, connections]
        plain = QUEUE if path == STRIPE else path
        ratios = [
            statistics.median(a[0] / b[0] for a, b in zip(mine, results[other, plain, connections], strict=True))
            for other in ("no database", "pooled call", "ours")
        ]
        rate, p50, p99 = (statistics.median(figures) for figures in zip(*mine, strict=True))
        lines.append(
            f"| `{path}` | {connections} | {kind} | {rate:,.0f} | {p50:.1f} | {p99:.1f} "
            f"| {ratios[0]:.2f} | {ratios[1]:.2f} | {ratios[2]:.2f} |"
        )
    resident = ", ".join(f"{megabytes:.0f}" for megabytes in memory)
    return [*lines, "", f"Resident memory of our server after each round: {resident} MB."]


async def _prepare(url: str) -> None:
    await migrate.up(url)
    db = await asyncpg.connect(url)
    await db.execute("insert into invoices (id, amount) select n, 100000000000000 from generate_series(1, 10000) n")
    await db.close()


def main() -> None:
    """Parse the command line and print the report."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.http", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--serve", choices=list(KINDS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        uvloop.run(run_until_signalled(lambda s, e: _serve(options.serve, s, e), from_environment(os.environ)))
        return
    with tempfile.TemporaryDirectory(prefix="payments-http-") as folder, embedded.start(Path(folder)) as server:
        asyncio.run(_prepare(server.url))
        print("\n".join(measure(server.url, options.rounds, options.seconds, Path(folder, "signed_events"))))


if __name__ == "__main__":
    main()
