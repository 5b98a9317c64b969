"""Load on SQL: events as providers send them, made before the clock starts; what puts them to the server; its price."""

import asyncio
import contextlib
import os
import re
import resource
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any, Self

from tests.benchmarks.processes import TICKS
from tests.benchmarks.target import Connection, Database

HERE = Path(__file__).parent
BATCH = 50  # events in a call of the set-wise functions, what the server's group commit sees at some load
BODY = 600  # bytes
CLAIM = 500  # events in a call of process_payment_queue()
PROCESS = "select claimed from process_payment_queue($1)"
PARAMETERS = (
    "($1, $2, $3, p_connections => $4, p_currencies => $5, p_references => $6, p_occurred_at => $7,"
    " p_bodies => $8, p_content_types => $9, p_park => true)"
)
APPLY = "select * from apply_payment_events" + PARAMETERS  # noqa: S608 - constants
ENQUEUE = "select * from enqueue_payment_events" + PARAMETERS  # noqa: S608 - constants


@dataclass(frozen=True)
class Measured:
    """What one run took; CPU in seconds, `others` being what the machine did besides. Server 0: not ours to see."""

    events: int
    seconds: float
    server_cpu: float
    client_cpu: float
    others: float

    @property
    def rate(self) -> float:
        return self.events / self.seconds

    @property
    def server_us(self) -> float:
        return self.server_cpu / self.events * 1e6

    @property
    def cpu_us(self) -> float:
        return self.server_us + self.client_us

    @property
    def disturbed(self) -> bool:
        """Whether other work took a tenth of the machine or more."""
        return bool(self.server_cpu) and self.others > self.seconds * (os.cpu_count() or 1) / 10

    @property
    def client_us(self) -> float:
        return self.client_cpu / self.events * 1e6


@dataclass
class Cpu:
    """CPU seconds so far: of the server (postmaster, its children, those that have ended), of us and ours, of all."""

    server: float
    client: float
    machine: float

    @classmethod
    def now(cls, postmaster: int) -> Self:
        ticks = 0
        for stat in Path("/proc").glob("[0-9]*/stat") if postmaster else ():
            try:
                fields = stat.read_text().rpartition(")")[2].split()
            except OSError:  # it has just ended, and its parent counts it
                continue
            if int(stat.parent.name) == postmaster:
                ticks += sum(map(int, fields[11:15]))  # utime, stime, cutime, cstime
            elif int(fields[1]) == postmaster:
                ticks += sum(map(int, fields[11:13]))
        ours = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        machine = [int(n) for n in Path("/proc/stat").read_text().split(maxsplit=9)[1:9]]
        busy = sum(machine) - machine[3] - machine[4]  # all but idle and waiting for the disk
        return cls(ticks / TICKS, sum(used.ru_utime + used.ru_stime for used in ours), busy / TICKS)

    def since(self, earlier: "Cpu", events: int, seconds: float) -> Measured:
        server, client = self.server - earlier.server, self.client - earlier.client
        return Measured(events, seconds, server, client, self.machine - earlier.machine - server - client)


def make_batches(number: int, invoices: int, *, references: bool) -> list[Any]:
    """Arguments for APPLY and ENQUEUE, BATCH events each: random event ids and invoices, a body for each."""
    random = Random()  # noqa: S311 - the ids need to be scattered, not secret
    occurred = datetime.now(UTC)
    batches = []
    for _ in range(number):
        ids = [f"evt_{random.getrandbits(96):024x}" for _ in range(BATCH)]
        heads = [f'{{"id":"{event}","type":"charge.succeeded","currency":"usd","data":"'.encode() for event in ids]
        batches.append((
            ids,
            [random.randint(1, invoices) for _ in range(BATCH)],
            [100] * BATCH,
            ["stripe"] * BATCH,
            ["USD"] * BATCH,
            [f"ch_{random.getrandbits(96):024x}" for _ in range(BATCH)] if references else None,
            [occurred] * BATCH,
            [head + b"x" * (BODY - len(head) - 2) + b'"}' for head in heads],
            ["application/json"] * BATCH,
        ))  # fmt: skip
    return batches


async def lay_out_batches(db: Connection, batches: Sequence[Any]) -> None:
    """Put the batches where pgbench's scripts find them: unlogged, and nothing compressed.

    pgbench passing such an array on costs the client 2 microseconds an event where asyncpg takes 8 to 11 to send it and
    to read the answer, and building arrays in the script's SQL takes more of the server's time than the function does.
    """
    await db.execute(
        "create unlogged table if not exists benchmark_batches ("
        "id integer primary key, event_ids text[] storage external, invoice_ids bigint[], amounts bigint[],"
        " connections text[], currencies text[], refs text[] storage external, occurred_at timestamptz[],"
        " bodies bytea[] storage external, content_types text[]);"
        "truncate benchmark_batches"
    )
    await db.copy_records_to_table("benchmark_batches", records=[(n, *batch) for n, batch in enumerate(batches)])
    await db.execute("analyze benchmark_batches")


async def run_pgbench(database: Database, script: str, *, events_a_call: int = 1, **options: int) -> Measured:
    """Run a script with pgbench: `clients`, and `seconds` or `calls` a client; other options are its variables."""
    clients = options.pop("clients")
    length = f"--time={options.pop('seconds')}" if "seconds" in options else f"--transactions={options.pop('calls')}"
    options["invoices"] = database.invoices
    command = [
        str(database.target.pgbench), "--no-vacuum", "--protocol=prepared", f"--client={clients}", length,
        f"--file={HERE / script}.pgbench", *(f"--define={name}={value}" for name, value in options.items()),
        database.url,
    ]  # fmt: skip
    before = Cpu.now(database.target.postmaster)
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=False)
    after = Cpu.now(database.target.postmaster)
    calls = re.search(r"transactions actually processed: (\d+)", done.stdout)
    rate = re.search(r"tps = ([\d.]+)", done.stdout)
    if done.returncode or not calls or not rate:
        raise RuntimeError(f"pgbench failed: {done.stderr.strip() or done.stdout}")
    return after.since(before, int(calls[1]) * events_a_call, int(calls[1]) / float(rate[1]))


async def run_batches(database: Database, events: int, *, script: str, references: bool) -> Measured:
    """Put `events` events to the server in batches over two connections; the script names the function."""
    share = events // BATCH // 2
    async with database.connect() as db:
        await lay_out_batches(db, make_batches(2 * share, database.invoices, references=references))
    return await run_pgbench(database, script, events_a_call=BATCH, clients=2, calls=share, share=share, n=0)


async def drain(database: Database, connections: int, call: str = PROCESS) -> Measured:
    """Make a call that empties a queue over and over on so many connections, until it says that it did nothing.

    An event whose invoice another worker has locked is due again half a second later. It does not stop the clock: what
    is left when a connection first comes back with nothing is drained without it.
    """

    async def work(connection: Connection) -> int:
        done = 0
        while number := await connection.fetchval(call, CLAIM):
            done += number
        return done

    async with contextlib.AsyncExitStack() as stack:
        workers = [await stack.enter_async_context(database.connect()) for _ in range(connections)]
        before = Cpu.now(database.target.postmaster)
        started = time.perf_counter()
        done = sum(await asyncio.gather(*map(work, workers)))
        seconds = time.perf_counter() - started
        measured = Cpu.now(database.target.postmaster).since(before, done, seconds)
        while call == PROCESS and await workers[0].fetchval("select exists (select from payment_queue)"):
            await work(workers[0])
    return measured
