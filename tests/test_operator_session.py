"""What the command line and the console ask of the database, as a login of the operator role."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from service import listener
from service.database import PaymentEvent, RejectedError, Session
from service.operations import OperatorSession
from service.settings import Settings
from tests.conftest import Connection
from tests.sessions import until


@pytest.fixture
async def operator(database_url: str, db: Connection) -> AsyncIterator[OperatorSession]:
    await db.execute("insert into invoices (id, amount) values (1, 10000), (2, 500)")
    await db.execute("insert into invoice_references values ('stripe', 'INV-1', 1), ('adyen', 'INV-1', 2)")
    role = await db.fetchval("select role_name('operator')")
    async with OperatorSession(f"{database_url}&options=-crole%3D{role}", "test") as session:
        yield session


async def report(database_url: str, *events: PaymentEvent) -> None:
    async with Session(database_url, "test") as session:
        await session.apply(events, park=True)


async def test_status_counts_what_waits_by_where_and_why(operator: OperatorSession, database_url: str) -> None:
    await report(
        database_url,
        PaymentEvent("e1", 1, 100),
        PaymentEvent("e2", 1, 100, currency="EUR"),
        PaymentEvent("e3", 77, 100),
    )

    status = await operator.status()

    assert (status["queued"], status["parked"], status["dead"]) == (0, 1, 1)
    assert [(r["reason"], r["letters"], r["retriable"]) for r in status["dead_by_reason"]] == [
        ("currency_mismatch", 1, 1)
    ]
    assert (status["received"], status["posted"]) == (3, 1)
    assert status["listeners"] == []


async def test_a_listener_gives_signs_of_life_and_is_dead_without(
    operator: OperatorSession, database_url: str, db: Connection
) -> None:
    stop = asyncio.Event()
    task = asyncio.create_task(listener.run(Settings(database_url=database_url), stop))

    async def seen() -> bool:
        return bool(await db.fetchval("select count(*) from listeners where watching"))

    await until(seen)
    [alive] = (await operator.status())["listeners"]
    stop.set()
    await task
    assert (alive["alive"], alive["watching"], alive["name"]) == (True, True, listener.NAME)

    await db.execute("update listeners set seen_at = now() - interval '16 s'")
    [gone] = (await operator.status())["listeners"]
    assert not gone["alive"]

    await db.execute("update listeners set seen_at = now() - interval '2 days'")
    await db.execute("select report_listener('another', '5 s', false)")
    assert [row["name"] for row in (await operator.status())["listeners"]] == ["another"]


@pytest.mark.parametrize("text", ["e1", "re_1"])
async def test_an_event_is_found_by_id_and_by_reference_in_every_connection(
    operator: OperatorSession, database_url: str, text: str
) -> None:
    await report(
        database_url,
        PaymentEvent("e1", 1, 100, connection="stripe", reference="re_1"),
        PaymentEvent("e1", 2, 100, connection="adyen", kind="payment", reference="re_1"),
        PaymentEvent("e2", 2, 100, connection="paypal", reference="re_2"),
    )

    found = await operator.events(text)

    assert [(row["connection"], row["place"]) for row in found] == [("stripe", "posted"), ("adyen", "posted")]


async def test_a_parked_event_is_found_by_the_reference_it_waits_for(
    operator: OperatorSession, database_url: str
) -> None:
    await report(database_url, PaymentEvent("e1", None, 100, connection="stripe", invoice_reference="INV-9"))

    assert [row["event_id"] for row in await operator.events("INV-9")] == ["e1"]


@pytest.mark.parametrize(("text", "invoices"), [("INV-1", [1, 2]), ("2", [2]), ("77", []), ("9" * 30, []), ("", [])])
async def test_an_invoice_is_found_by_id_and_by_reference(
    operator: OperatorSession, text: str, invoices: list[int]
) -> None:
    assert await operator.invoices(text) == invoices


async def test_an_invoice_comes_with_its_names_and_its_timeline(operator: OperatorSession, database_url: str) -> None:
    await report(database_url, PaymentEvent("e1", 1, 100), PaymentEvent("e2", 1, 250))

    invoice = await operator.invoice(1)

    assert invoice is not None
    assert (invoice["paid"], invoice["references"]) == (350, [{"connection": "stripe", "reference": "INV-1"}])
    assert [row["balance"] for row in invoice["timeline"]] == [100, 350]
    assert await operator.invoice(77) is None


async def test_dead_letters_come_in_pages_and_by_reason(operator: OperatorSession, db: Connection) -> None:
    await db.execute(
        "select store_dead_letter('stripe', case when n % 5 = 0 then 'odd' else 'unreadable' end, 'why', int4send(n))"
        " from generate_series(1, 20) n"
    )

    first = await operator.dead_letters(limit=12)
    rest = await operator.dead_letters(after=first[-1]["id"], limit=12)

    assert (len(first), len(rest)) == (12, 8)
    assert {row["reason"] for row in await operator.dead_letters("odd")} == {"odd"}


async def test_a_retry_is_recorded_under_the_actors_name(
    operator: OperatorSession, database_url: str, db: Connection
) -> None:
    await report(database_url, PaymentEvent("e1", 1, 100, currency="EUR"))
    [letter] = await operator.dead_letters()

    await operator.retry([letter["id"]], "alice", "currency mended")

    action = await db.fetchrow("select actor, action, note, dead_letter_id from operator_actions")
    assert action is not None
    assert tuple(action) == ("alice", "retried", "currency mended", letter["id"])
    with pytest.raises(RejectedError, match="PW008"):
        await operator.retry([letter["id"]], "alice")
