"""Benchmark of the listener: how soon it applies what is enqueued, how fast it drains, what it costs when idle.

    python -m tests.benchmarks.listener          # about three minutes; Markdown on standard output

On an embedded PostgreSQL of its own with the settings it ships, and `track_commit_timestamp`: latency is from the
commit that enqueued an event to the commit that applied it, both by the server's clock.
"""

import argparse
import asyncio
import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg

from service import embedded, migrate
from tests.benchmarks.load import Connection, progress

INVOICES = 10_000
SENDERS = 16
CROWD = 64
ENQUEUE = "select outcome from enqueue_payment_event($1, $2, 1)"
FILL = """
    select count(*) from enqueue_payment_events(
        array(select 'fill-' || n from generate_series($1::int, $2::int) n),
        array(select 1 + n % $3::int from generate_series($1::int, $2::int) n),
        array(select 1 from generate_series($1::int, $2::int)))
"""
LATENCY = """
    with l as (
        select extract(epoch from pg_xact_commit_timestamp(p.xmin) - pg_xact_commit_timestamp(e.xmin)) * 1000 as ms
        from payments p join payment_events e using (id)
    )
    select count(*), percentile_cont(array[0.5, 0.99, 0.999, 1]) within group (order by ms) from l
"""
CONNECTED = """
    select count(*) from pg_stat_activity
    where application_name = 'payment_webhooks listener' and datname = current_database()
"""
SPAN = """
    select extract(epoch from max(pg_xact_commit_timestamp(xmin)) - min(pg_xact_commit_timestamp(xmin)))::float
    from payments
"""


@contextlib.contextmanager
def listeners(url: str, number: int) -> Iterator[list[int]]:
    """So many listeners as processes, about to start."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "service.listener"],
            env=os.environ | {"DATABASE_URL": url, "ADMIN_PORT": "0"},
            stderr=subprocess.DEVNULL,
        )
        for _ in range(number)
    ]
    try:
        yield [process.pid for process in processes]
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(20)


class Databases:
    """A database for each scenario, a copy of one that is migrated and has invoices."""

    def __init__(self, server: embedded.Server):
        self.server = server
        self._number = 0

    @contextlib.asynccontextmanager
    async def copy(self, template: str = "bench") -> AsyncIterator[tuple[str, Connection]]:
        """URL and a connection of a fresh copy."""
        self._number += 1
        name = f"copy_{self._number}"
        admin: Connection = await asyncpg.connect(self.server.url_of("postgres"))
        await admin.execute(f"create database {name} template {template} strategy file_copy")
        url = self.server.url_of(name)
        db: Connection = await asyncpg.connect(url)
        yield url, db
        await db.close()
        await admin.execute(f"drop database {name} with (force)")
        await admin.close()


async def send(url: str, sender: int, rate: float, seconds: float) -> None:
    """Enqueue one event a commit, at random moments, `rate` of them a second on average."""
    db: Connection = await asyncpg.connect(url)
    call = await db.prepare(ENQUEUE)
    due = time.perf_counter()
    end = due + seconds
    number = 0
    while due < end:
        due += random.expovariate(rate)
        await asyncio.sleep(max(0, due - time.perf_counter()))
        number += 1
        await call.fetch(f"{sender}-{number}", random.randint(1, INVOICES))  # noqa: S311 - a load
    await db.close()


async def insert_all(url: str, sender: int, end: float) -> int:
    """Enqueue one event a commit until `end`, without a pause; how many."""
    db: Connection = await asyncpg.connect(url)
    call = await db.prepare(ENQUEUE)
    number = 0
    while time.perf_counter() < end:
        number += 1
        await call.fetch(f"{sender}-{number}", random.randint(1, INVOICES))  # noqa: S311 - a load
    await db.close()
    return number


async def hold_gate(url: str, seconds: float) -> None:
    """A transaction that has inserted and takes its time to commit; it gives up where the listener sleeps for long."""
    db: Connection = await asyncpg.connect(url, server_settings={"lock_timeout": "1s"})
    with contextlib.suppress(asyncpg.LockNotAvailableError):
        async with db.transaction():
            await db.fetch("select pg_advisory_xact_lock_shared('payment_queue'::regclass::oid::integer, 1)")
            await asyncio.sleep(seconds)
    await db.close()


async def on_duty(db: Connection, number: int) -> None:
    """Wait until so many listeners have connected, and have come to rest."""
    while await db.fetchval(CONNECTED) < number:
        await asyncio.sleep(0.1)
    await asyncio.sleep(1)


async def empty(db: Connection) -> None:
    """Wait until nothing is queued."""
    while await db.fetchval("select max(id) from payment_queue") is not None:  # by the index, from its end
        await asyncio.sleep(0.2)


async def hold_gate_often(url: str, seconds: float) -> None:
    """Transactions of up to half a second, with pauses as long."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        await hold_gate(url, random.uniform(0, 0.5))  # noqa: S311 - a load
        await asyncio.sleep(random.uniform(0, 0.5))  # noqa: S311 - a load


async def kill_often(url: str, seconds: float) -> None:
    """Replace a listener that is killed every few seconds, asleep or awake, by the next."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        with listeners(url, 1) as [process]:
            await asyncio.sleep(random.uniform(5, 10))  # noqa: S311 - a load
            os.kill(process, signal.SIGKILL)


async def stress(databases: Databases, seconds: float) -> str:
    """A row of the table of latencies: a crowd that pauses, transactions that take long, listeners that are killed."""
    async with databases.copy() as (url, db):
        crowd = [send(url, n, 100 / CROWD, seconds) for n in range(CROWD)]
        await asyncio.gather(*crowd, hold_gate_often(url, seconds), kill_often(url, seconds), kill_often(url, seconds))
        with listeners(url, 1):
            await empty(db)
        return await latencies(db, f"100/s on {CROWD} connections, gate under stress", "2, killed in turn")


async def latencies(db: Connection, what: str, listeners: str) -> str:
    """A row of the table of latencies."""
    count, [p50, p99, p999, most] = await db.fetchrow(LATENCY) or (0, [0] * 4)
    progress(f"{what}, {listeners} listeners: {p50:.1f} / {p99:.1f} ms")
    return f"| {what} | {listeners} | {count} | {p50:.1f} | {p99:.1f} | {p999:.1f} | {most:.1f} |"


async def insert(databases: Databases, seconds: float, *, listener: bool) -> float:
    """Events a second that so many connections queue, one a commit; without a listener also without the trigger."""
    async with databases.copy() as (url, db):
        if not listener:
            await db.execute("alter table payment_queue disable trigger user")
        with listeners(url, int(listener)):
            await on_duty(db, int(listener))
            end = time.perf_counter() + seconds
            counts = await asyncio.gather(*(insert_all(url, n, end) for n in range(SENDERS)))
    progress(f"inserts, {'a listener' if listener else 'no trigger'}: {sum(counts) / seconds:.0f}/s")
    return sum(counts) / seconds


async def wake(databases: Databases, number: int, rate: float, seconds: float, *, beside: bool) -> str:
    """A row of the table of latencies, at so many events a second in all."""
    async with databases.copy() as (url, db):
        with listeners(url, number):
            await on_duty(db, number)
            senders = [send(url, n, rate / SENDERS, seconds) for n in range(SENDERS)]
            await asyncio.gather(*senders, *([hold_gate(url, seconds)] if beside else []))
            await empty(db)
        return await latencies(db, f"{rate:g}/s{', beside a long transaction' if beside else ''}", str(number))


async def drain(databases: Databases, events: int, number: int) -> float:
    """Events a second; with no listener `process_payment_queue()` is called in a bare loop."""
    async with databases.copy("filled") as (url, db):
        if number == 0:
            after, call = 0, await db.prepare("select * from process_payment_queue(500, $1)")
            while (row := await call.fetchrow(after)) and row["claimed"]:
                after = row["last_id"]
        with listeners(url, number):
            await empty(db)
        span: float = await db.fetchval(SPAN)
    progress(f"drain, {number} listeners: {events / span:.0f}/s")
    return events / span


def cpu_seconds(process: int) -> float:
    """Seconds of processor time that a process has taken."""
    user, system = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


async def idle(databases: Databases, seconds: float) -> float:
    """Share of a core that an idle listener takes, in percent."""
    async with databases.copy() as (url, db):
        with listeners(url, 1) as [process]:
            await on_duty(db, 1)
            before = cpu_seconds(process)
            await asyncio.sleep(seconds)
            return 100 * (cpu_seconds(process) - before) / seconds


async def measure(seconds: float, events: int) -> None:
    """Run every scenario and print the report."""
    with (
        tempfile.TemporaryDirectory(prefix="payments-benchmark-") as folder,
        embedded.start(Path(folder), settings={"track_commit_timestamp": "on"}) as server,
    ):
        databases = Databases(server)
        await migrate.up(server.url_of("bench"))
        db: Connection = await asyncpg.connect(server.url_of("bench"))
        await db.execute(
            "insert into invoices (id, amount, currency) select n, 1000000000, 'USD' from generate_series(1, $1) n",
            INVOICES,
        )
        await db.close()
        rows = [
            await wake(databases, number, rate, seconds, beside=beside)
            for number, rate, beside in [(1, 20, False), (1, 1000, False), (4, 20, False), (4, 1000, False),
                                         (1, 20, True), (1, 1000, True)]
        ]  # fmt: skip
        rows.append(await stress(databases, 3 * seconds))
        bare, beside_listener = [await insert(databases, seconds, listener=listener) for listener in (False, True)]
        admin: Connection = await asyncpg.connect(server.url_of("postgres"))
        await admin.execute("create database filled template bench strategy file_copy")
        await admin.close()
        db = await asyncpg.connect(server.url_of("filled"))
        for first in range(1, events + 1, 5000):
            await db.fetchval(FILL, first, min(events, first + 4999), INVOICES)
        await db.execute("vacuum analyze")
        await db.close()
        rates = [await drain(databases, events, number) for number in (0, 1, 2)]
        share = await idle(databases, 15)
    print("| load, one event a commit | listeners | events | p50 ms | p99 ms | p99.9 ms | most ms |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    print("\n".join(rows))
    print(f"\n| drain of {events} waiting events | events/s | of the bare loop |")
    print("| --- | --- | --- |")
    for what, rate in zip(("process_payment_queue() in a bare loop", "one listener", "two"), rates, strict=True):
        print(f"| {what} | {rate:.0f} | {rate / rates[0]:.2f} |")
    print(f"\n{SENDERS} connections insert {bare:.0f}/s without a trigger.")
    print(f"Beside a listener at work they insert {beside_listener:.0f}/s, {beside_listener / bare:.2f} of it.")
    print(f"\nAn idle listener takes {share:.2f}% of a core.")


def main() -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.listener", description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=10, help="seconds of load for each latency")
    parser.add_argument("--events", type=int, default=200_000, help="waiting events to drain")
    options = parser.parse_args()
    asyncio.run(measure(options.seconds, options.events))


if __name__ == "__main__":
    main()
