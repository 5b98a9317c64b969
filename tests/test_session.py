"""A session of ours in a database whose settings are not PostgreSQL's defaults."""

import asyncio
import time

from service import listener
from service.database import Session
from tests.calls import add_invoice
from tests.conftest import Connection
from tests.http_service import serving, settings
from tests.providers import example, signed


async def set_default(db: Connection, setting: str) -> None:
    name = await db.fetchval("select quote_ident(current_database())")
    await db.execute(f"alter database {name} {setting}")


async def test_it_is_read_committed_whatever_the_database_defaults_to(database_url: str, db: Connection) -> None:
    await set_default(db, "set default_transaction_isolation = 'serializable'")
    async with Session(database_url, "test") as session:
        for session.pooled in (False, True):
            [(isolation,)] = await session.fetch("show transaction_isolation")
            assert isolation == "read committed"


async def test_it_works_again_once_the_database_takes_writes_again(db: Connection, database_url: str) -> None:
    """What default_transaction_read_only says when a session begins, it keeps to."""
    await add_invoice(db, 1)
    await set_default(db, "set default_transaction_read_only = on")
    stop = asyncio.Event()
    working = asyncio.create_task(listener.run(settings(database_url, poll_interval=0.5), stop))
    async with serving(database_url) as client:

        async def ready() -> int:
            async with client.session.get(client.url + "/readyz") as response:
                return response.status

        assert await ready() == 503
        await asyncio.sleep(1)
        await set_default(db, "reset default_transaction_read_only")
        async with asyncio.timeout(10):
            while await ready() != 200 or (await client.enqueue("e1", 1, 100))[0] != 202:
                await asyncio.sleep(0.1)
            while await db.fetchval("select count(*) from payments") != 1:
                await asyncio.sleep(0.1)
    stop.set()
    await working


async def test_while_the_functions_are_not_there_everybody_has_to_send_again(db: Connection, database_url: str) -> None:
    await add_invoice(db, 1)
    stripe = example("stripe")
    delivery = signed(stripe, stripe.sample("1", 100, "USD"), time.time())
    async with serving(database_url, connections=(stripe,)) as client:

        async def answers() -> list[int]:
            sent = [await client.apply("e1", 1, 100), await client.enqueue("e2", 1, 100)]
            status, _, _ = await client.post("/webhooks/stripe", delivery.body, dict(delivery.headers))
            return [status for status, _ in sent] + [status]

        functions = "apply_payment_events", "enqueue_payment_events"
        for function in functions:
            await db.execute(f"alter function {function} rename to {function}_of_old")
        assert await answers() == [503, 503, 503]
        for function in functions:
            await db.execute(f"alter function {function}_of_old rename to {function}")
        assert await answers() == [200, 202, 200]
