"""Kill the database and the server at random moments under load: no acknowledged event is lost, none is posted twice.

CRASH_ROUNDS=300 makes it hundreds of crashes; the suite does a few.
"""

import asyncio
import os
import random
import signal
from pathlib import Path

import aiohttp
import asyncpg
import pytest

from service import embedded, migrate
from tests.calls import add_invoice, assert_consistent, drain
from tests.http_service import Client, Process

ROUNDS = int(os.environ.get("CRASH_ROUNDS", "6"))
SENDERS = 24


async def send(client: Client, sender: int, stop: asyncio.Event, acknowledged: dict[str, int], sent: list[str]) -> None:
    """Send events until `stop`, each until it is acknowledged or the server is gone."""
    number = 0
    while not stop.is_set():
        number += 1
        event_id = f"{client.port}-{sender}-{number}"
        sent.append(event_id)
        call = client.apply if number % 2 else client.enqueue
        try:
            status, _ = await call(event_id, 1 + number % 7, 1 + number % 5)
        except aiohttp.ClientError:
            await asyncio.sleep(0.01)
            continue
        if status < 300:
            acknowledged[event_id] = 1 + number % 5
        else:
            assert status == 503
            await asyncio.sleep(0.01)


@pytest.mark.timeout(120 + 5 * ROUNDS)
async def test_what_was_acknowledged_is_in_the_ledger_exactly_once_whatever_was_killed(
    tmp_path: Path, bin_dir: Path | None
) -> None:
    data = tmp_path / "pg"
    acknowledged: dict[str, int] = {}
    sent: list[str] = []
    chance = random.Random()  # noqa: S311 - moments, not secrets
    database = embedded.start(data, bin_dir=bin_dir)
    try:
        await migrate.up(database.url)
        db = await asyncpg.connect(database.url)
        for invoice in range(1, 8):
            await add_invoice(db, invoice, amount=10**12)
        await db.close()
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            for number in range(ROUNDS):
                process = Process("service.server", database.url, ALLOW_UNSIGNED="true")
                client = await process.up(session)
                stop = asyncio.Event()
                senders = [asyncio.create_task(send(client, n, stop, acknowledged, sent)) for n in range(SENDERS)]
                await asyncio.sleep(chance.uniform(0.05, 0.6))
                if number % 2:
                    os.kill(database.pid, signal.SIGKILL)
                    await asyncio.sleep(chance.uniform(0, 0.3))
                    await asyncio.to_thread(database.stop)
                    database = embedded.start(data, bin_dir=bin_dir)
                    await asyncio.sleep(0.2)  # the same server process goes on with the database that has returned
                if number % 3:
                    process.process.kill()
                stop.set()
                await asyncio.gather(*senders)
                await process.end(signal.SIGTERM)
        db = await asyncpg.connect(database.url)
        await drain(db)
        await assert_consistent(db)
        rows = await db.fetch("select e.event_id, p.amount from payments p join payment_events e on e.id = p.id")
        posted = {row["event_id"]: row["amount"] for row in rows}
        await db.close()
    finally:
        database.stop()
    assert len(acknowledged) > 100 * ROUNDS
    assert len(posted) == len(rows)
    assert acknowledged.items() <= posted.items()
    assert posted.keys() <= set(sent)
