"""What releasing parked events costs a COPY of invoices: the same COPY with and without the trigger, and the ratio.

    python -m tests.benchmarks.copy_invoices [--rows 300000] [--rounds 5] [--parked 0]

It runs on an embedded PostgreSQL of its own. The target is a ratio of at most 2, with none of the invoices awaited.
With --parked that many events wait for invoices that the COPY brings.
"""

import argparse
import asyncio
import io
import sys
import tempfile
import time
from pathlib import Path

import asyncpg

from service import embedded, migrate

PARK = """
    select count(*) from apply_payment_events(
        array(select 'event_' || i from generate_series(1, $1) i),
        array(select i::bigint from generate_series(1, $1) i),
        array(select 100::bigint from generate_series(1, $1)),
        p_park => true)
"""


async def measure(url: str, *, rows: int, parked: int, triggered: bool) -> float:
    """Seconds that the COPY took, commit included; everything is taken back for the next one."""
    db = await asyncpg.connect(url)
    try:
        await db.execute("delete from payment_queue; delete from parked_events; delete from invoices")
        await db.execute("vacuum invoices")
        if parked:
            await db.execute("alter table payment_events disable trigger user; delete from payment_events")
            await db.execute("alter table payment_events enable trigger user")
            await db.fetchval(PARK, parked)
        await db.execute("checkpoint")
        await db.execute(f"alter table invoices {'enable' if triggered else 'disable'} trigger invoices_release")
        source = io.BytesIO(b"".join(b"%d\t10000\n" % n for n in range(1, rows + 1)))
        started = time.perf_counter()
        await db.copy_to_table("invoices", source=source, columns=["id", "amount"])
        return time.perf_counter() - started
    finally:
        await db.close()


async def compare(url: str, *, rows: int, rounds: int, parked: int) -> tuple[float, float]:
    """The least that a COPY took, bare and with the trigger, of alternating runs."""
    await migrate.up(url)
    bare, released = [], []
    for number in range(rounds):
        bare.append(await measure(url, rows=rows, parked=parked, triggered=False))
        released.append(await measure(url, rows=rows, parked=parked, triggered=True))
        print(f"round {number + 1}: bare {bare[-1]:.2f} s, with release {released[-1]:.2f} s", file=sys.stderr)
    return min(bare), min(released)


def main() -> None:
    """Parse, run, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=300_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--parked", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="copy-invoices-") as folder, embedded.start(Path(folder)) as server:
        bare, released = asyncio.run(compare(server.url, **vars(arguments)))
    print(f"COPY of {arguments.rows} invoices, {arguments.parked} events waiting for them:")
    print(f"bare {bare:.2f} s, with release {released:.2f} s, ratio {released / bare:.2f}")


if __name__ == "__main__":
    main()
