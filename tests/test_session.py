"""A session of ours in a database whose settings are not PostgreSQL's defaults."""

import asyncio
import time
from functools import partial
from pathlib import Path

import asyncpg
import pytest

from service import embedded, listener, migrate
from service.database import DeadLetter, Link, QueueSession, RejectedError, Session, UnavailableError
from tests import sessions
from tests.calls import add_invoice
from tests.conftest import Connection
from tests.http_service import serving, settings
from tests.providers import example, signed


async def set_default(db: Connection, setting: str) -> None:
    name = await db.fetchval("select quote_ident(current_database())")
    await db.execute(f"alter database {name} {setting}")


async def test_it_is_read_committed_whatever_the_database_defaults_to(database_url: str, db: Connection) -> None:
    await set_default(db, "set default_transaction_isolation = 'serializable'")
    for pooled in (False, True):
        async with QueueSession(database_url, "test", lambda _: None, lambda: None) as session:
            connection = await session.connection()
            if pooled:  # then nothing that is set of a session lasts
                session.pooled = True
                await connection.execute("set default_transaction_isolation = 'serializable'")
            for row in (
                *await session.fetch("show transaction_isolation"),
                await session._look("show transaction_isolation"),
            ):
                assert tuple(row) == ("read committed",)


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


async def test_links_of_a_batch_share_a_commit_and_a_refused_one_is_told_apart(
    db: Connection, database_url: str
) -> None:
    await add_invoice(db, 42)
    one, other = Link("in_1", 42, None, "stripe", b"1"), Link("in_1", 43, None, "stripe", b"2")
    batch: list[Link | DeadLetter] = [
        Link("pi_1", None, "in_1", "stripe"),
        one,
        other,
        DeadLetter("stripe", "odd", "why", b"3", ""),
        one,
    ]
    async with Session(database_url, "test") as session:
        assert await session.set_aside(batch) == ["linked", "duplicate", "conflict", "odd", "duplicate"]
        bad = Link("", 42, None, "stripe", b"4")
        with pytest.raises(RejectedError):
            await session.set_aside([Link("in_2", 42, None, "stripe"), bad])
        assert await session.set_aside([bad]) == ["invalid"]
    assert await db.fetchval("select count(distinct xmin::text) from invoice_references where invoice_id = 42") == 1
    assert await db.fetchval("select array_agg(reference order by reference) from invoice_references") == [
        "in_1",
        "pi_1",
    ]
    assert await db.fetchval("select array_agg(reason order by id) from dead_letters") == ["conflict", "odd", "invalid"]


async def test_two_batches_of_the_same_links_never_wait_for_each_other(db: Connection, database_url: str) -> None:
    await add_invoice(db, 42)
    links = [Link(f"pi_{number}", 42, None, "stripe") for number in range(200)]
    async with Session(database_url, "one") as one, Session(database_url, "other") as other:
        for _ in range(5):
            await db.execute("truncate invoice_references")
            await asyncio.gather(one.set_aside(links), other.set_aside(links[::-1]))


async def test_a_users_trigger_that_lacks_a_function_fails_its_event_alone(database_url: str, db: Connection) -> None:
    await add_invoice(db, 1)
    await db.execute("""
        create function audit() returns trigger language plpgsql as $$
        begin if new.event_id = 'bad' then perform round_money(new.amount); end if; return new; end $$;
        create trigger audit before insert on payment_events for each row execute function audit()""")
    async with serving(database_url) as client:
        answers = await asyncio.gather(*(client.enqueue(name, 1, 10) for name in ("first", "e1", "bad", "e2")))
    assert [status for status, _ in answers] == [202, 202, 500, 202]


async def test_what_is_known_waits_for_the_synchronous_standby_too(tmp_path: Path, bin_dir: Path | None) -> None:
    """Whoever wrote it may have been cut off while waiting, and the standby may take over without it."""
    with embedded.start(tmp_path, bin_dir=bin_dir, settings={"shared_buffers": "64MB"}) as server:
        await migrate.up(server.url)
        db = await asyncpg.connect(server.url)
        await add_invoice(db, 1)
        await db.execute("alter system set synchronous_standby_names = 'away'")
        await db.execute("select pg_reload_conf()")
        await asyncio.sleep(1)
        async with serving(server.url, request_deadline=1) as client, Session(server.url, "test") as session:
            for _ in range(2):
                assert (await client.enqueue("e1", 1, 5))[0] == 503
                for fact in (Link("pi_1", 1, None, "stripe"), DeadLetter("stripe", "odd", "why", b"body", "")):
                    with pytest.raises((TimeoutError, UnavailableError)):
                        async with asyncio.timeout(1):
                            await session.set_aside([fact])
                there = "select (select count(*) from {}) = 1"  # committed here, the waits cut short
                for table in ("payment_events", "invoice_references", "dead_letters"):
                    await sessions.until(partial(db.fetchval, there.format(table)))
        await db.close()
