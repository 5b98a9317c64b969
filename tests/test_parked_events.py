"""Events that wait for an invoice, a name of one, or a movement: released when it comes, whoever sees whom."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from tests import calls, sessions
from tests.calls import Event
from tests.conftest import Connect, Connection
from tests.sessions import assert_right

Balance = tuple[str, int, int, int]
NAMES = ["connection", "reference", "invoice_id"]


async def bring_invoice(db: Connection, n: int) -> None:
    await calls.add_invoice(db, n)


async def copy_invoice(db: Connection, n: int) -> None:
    records = [(2000 + n, 1), (n, 10_000), (3000 + n, 1)]
    await db.copy_records_to_table("invoices", records=records, columns=["id", "amount"])


async def bring_name(db: Connection, n: int) -> None:
    await calls.add_reference(db, "direct", f"INV-{n}", n)


async def copy_name(db: Connection, n: int) -> None:
    records = [("other", f"INV-{n}", 1000 + n), ("direct", f"INV-{n}", n), ("direct", f"INV-x{n}", 1000 + n)]
    await db.copy_records_to_table("invoice_references", records=records, columns=NAMES)


async def apply_payment(db: Connection, n: int) -> None:
    await calls.apply(db, Event(f"payment-{n}", n, 5000, reference=f"ch_{n}"))


async def apply_payments(db: Connection, n: int) -> None:
    await calls.apply_all(db, [Event(f"b-{n}", 1000 + n, 1), Event(f"p-{n}", n, 5000, reference=f"ch_{n}")])


async def process_payment(db: Connection, n: int) -> None:
    await calls.enqueue(db, Event(f"payment-{n}", n, 5000, reference=f"ch_{n}"))
    await calls.process(db)


async def bring_refund(db: Connection, n: int) -> None:
    await calls.apply(db, Event(f"refund-{n}", n, 300, "refund", reference=f"re_{n}"))


def for_invoice(event_id: str, n: int) -> Event:
    return Event(event_id, n, 5000)


def for_name(event_id: str, n: int) -> Event:
    return Event(event_id, None, 5000, invoice_reference=f"INV-{n}")


def refund(event_id: str, n: int) -> Event:
    return Event(event_id, None, 2000, "refund", reference=f"re_{n}", parent_reference=f"ch_{n}")


def reversal(event_id: str, n: int) -> Event:
    return Event(event_id, None, 300, "refund_reversal", reference=f"re_{n}")


@dataclass(frozen=True)
class Case:
    """Case n is about invoice n: an event, what it waits for, who brings it, and the balance once it has posted."""

    name: str
    make: Callable[[str, int], Event]
    waits_for: str
    bring: Callable[[Connection, int], Awaitable[None]]
    balance: Balance
    invoice_first: bool = True

    async def prepare(self, db: Connection, n: int) -> Event:
        if self.invoice_first:
            await calls.add_invoice(db, n)
            await calls.add_invoice(db, 1000 + n)
        return self.make(f"e{n}", n)


PAID: Balance = ("partially_paid", 5000, 0, 0)
REFUNDED: Balance = ("partially_refunded", 5000, 2000, 0)
CASES = [
    Case("invoice", for_invoice, "invoice {}", bring_invoice, PAID, invoice_first=False),
    Case("invoice by COPY", for_invoice, "invoice {}", copy_invoice, PAID, invoice_first=False),
    Case("name", for_name, "invoice reference 'INV-{}'", bring_name, PAID),
    Case("name by COPY", for_name, "invoice reference 'INV-{}'", copy_name, PAID),
    Case("payment", refund, "payment 'ch_{}'", apply_payment, REFUNDED),
    Case("payment in a batch", refund, "payment 'ch_{}'", apply_payments, REFUNDED),
    Case("payment from the queue", refund, "payment 'ch_{}'", process_payment, REFUNDED),
    Case("base of a reversal", reversal, "refund 're_{}'", bring_refund, ("sent", 0, 0, 0)),
]


async def test_an_event_is_released_by_the_transaction_that_brings_what_it_waits_for(db: Connection) -> None:
    for n, case in enumerate(CASES, 1):
        event = await case.prepare(db, n)
        assert (await calls.apply(db, event, park=True))["outcome"] == "parked", case.name
        await calls.enqueue(db, case.make(f"queued-{n}", n), park=True)
        await calls.process(db)
        assert [row["detail"] for row in await db.fetch("select detail from waiting_events")] == [
            f"waits for {case.waits_for.format(n)}"
        ] * 2
        async with db.transaction():
            await case.bring(db, n)
            assert await calls.counts(db, "parked_events", "payment_queue") == [0, 2], case.name
        done = await calls.process(db)
        assert (done["claimed"], done["applied"] + done["duplicates"]) == (2, 2), case.name
        await assert_right(db)


async def test_an_event_parked_while_another_transaction_brings_what_it_waits_for_is_applied_by_the_poll(
    connect: Connect, db: Connection
) -> None:
    """Neither sees the other, so no trigger can help: whichever commits last, the poll finds it."""
    parker = await connect()
    for n, case in enumerate(CASES, 1):
        event = await case.prepare(db, n)
        await parker.execute("begin")
        assert (await calls.apply(parker, event, park=True))["outcome"] == "parked", case.name
        await case.bring(db, n)
        assert await calls.counts(db, "parked_events", "payment_queue") == [0, 0]
        await parker.execute("commit")
        await the_poll_applies(db, case, n)


async def test_an_event_parked_before_what_it_waits_for_is_committed_is_applied_by_the_poll(
    connect: Connect, db: Connection
) -> None:
    bringer = await connect()
    for n, case in enumerate(CASES, 1):
        event = await case.prepare(db, n)
        await bringer.execute("begin")
        await case.bring(bringer, n)
        assert (await calls.apply(db, event, park=True))["outcome"] == "parked", case.name
        assert (await calls.process(db))["released"] == 0
        await bringer.execute("commit")
        await the_poll_applies(db, case, n)


async def test_an_event_that_a_worker_parks_before_what_it_waits_for_is_committed_is_applied_by_the_poll(
    connect: Connect, db: Connection
) -> None:
    bringer, worker = await connect(), await connect()
    for n, case in enumerate(CASES, 1):
        await calls.enqueue(db, await case.prepare(db, n), park=True)
        await worker.execute("begin")
        claimed = await worker.fetchval("select claim_payment_events()")  # before the bringer's own worker does
        await bringer.execute("begin")
        await case.bring(bringer, n)
        row = await worker.fetchrow("select * from process_claimed_events($1)", claimed)
        await worker.execute("commit")
        assert row is not None
        assert (row["parked"], row["applied"]) == (1, 0), case.name
        await bringer.execute("commit")
        await the_poll_applies(db, case, n)


async def the_poll_applies(db: Connection, case: Case, n: int) -> None:
    """One look releases the event, the next applies it."""
    assert await calls.whereabouts(db, f"e{n}") == ("pending", "parked"), case.name
    assert (await calls.process(db))["released"] == 1, case.name
    assert (await calls.process(db))["applied"] == 1, case.name
    assert await calls.whereabouts(db, f"e{n}") == ("processed", "posted"), case.name
    assert await calls.balance(db, n) == case.balance, case.name
    await assert_right(db)


async def test_a_transaction_that_brings_it_and_rolls_back_leaves_the_event_parked(db: Connection) -> None:
    for n, case in enumerate(CASES, 1):
        await calls.apply(db, await case.prepare(db, n), park=True)
        await db.execute("begin")
        await case.bring(db, n)
        await db.execute("rollback")
        assert (await calls.process(db))["released"] == 0, case.name
        assert await calls.whereabouts(db, f"e{n}") == ("pending", "parked"), case.name


async def test_an_event_parked_a_moment_after_its_invoice_was_committed_is_not_left_there(
    connect: Connect, db: Connection
) -> None:
    """The look for the invoice and the parking are two statements: it comes between them."""
    await db.execute("""
        create function hold() returns trigger language plpgsql as $$
        begin
            perform pg_advisory_xact_lock_shared(4711);
            return null;
        end $$;
        create trigger hold before insert on parked_events for each statement execute function hold();
        select pg_advisory_lock(4711);
    """)
    parker = await connect()
    parking = await sessions.blocked(db, parker, calls.apply(parker, Event("e1", 7, 5000), park=True))
    await bring_invoice(db, 7)
    await db.execute("select pg_advisory_unlock(4711)")
    await parking
    assert await calls.whereabouts(db, "e1") == ("pending", "queued")
    await assert_right(db)
    assert await sessions.paid(db, 7) == 5000


async def test_an_event_released_while_a_worker_parks_it_is_not_lost(connect: Connect, db: Connection) -> None:
    """Three sessions: a worker that claimed the event, a call that parked it, one that brings what it waits for."""
    await calls.add_invoice(db, 1)
    await calls.add_invoice(db, 7)
    await calls.enqueue_all(db, [refund("e1", 7), Event("slow", 1)], park=True)
    worker, bringer = await connect(), await connect()
    await worker.execute("begin")
    claimed = await worker.fetchval("select claim_payment_events()")
    assert (await calls.apply(db, refund("e1", 7)))["outcome"] == "queued"
    await db.execute(sessions.HOLD_AT_COMMIT)
    await db.execute("select pg_advisory_lock(4711)")
    working = await sessions.blocked(db, worker, worker.fetch("select * from process_claimed_events($1)", claimed))
    await bringer.execute("begin")
    await apply_payment(bringer, 7)
    await db.execute("select pg_advisory_unlock(4711)")
    await working
    await worker.execute("commit")
    await bringer.execute("commit")
    assert await db.fetch("select * from misplaced_events()") == []
    await assert_right(db)
    assert await calls.balance(db, 7) == REFUNDED


async def test_an_event_released_while_it_is_reported_again_is_not_lost(connect: Connect, db: Connection) -> None:
    """The report finds it parked; before it has tidied up the queue, another has moved it there."""
    assert (await calls.apply(db, for_invoice("e1", 7), park=True))["outcome"] == "parked"
    bringer, reporter = await connect(), await connect()
    await bringer.execute("begin; lock table payment_queue in exclusive mode")
    reporting = await sessions.started(db, reporter, calls.apply(reporter, for_invoice("e1", 7), park=True))
    await bring_invoice(bringer, 7)
    await bringer.execute("commit")
    assert (await reporting)["outcome"] == "parked"
    assert await db.fetch("select * from misplaced_events()") == []
    await assert_right(db)
    assert await calls.balance(db, 7) == PAID


async def test_bringing_what_an_event_waits_for_does_not_wait_for_whoever_holds_it(
    connect: Connect, db: Connection
) -> None:
    await calls.apply(db, Event("e1", 7, 5000), park=True)
    await calls.apply(db, Event("e2", 7, 700), park=True)
    holder = await connect()
    await holder.execute("begin; select from parked_events where id = (select min(id) from parked_events) for update")
    await db.execute("set statement_timeout = '5s'")
    await bring_invoice(db, 7)
    assert (await calls.process(db))["applied"] == 1
    await holder.execute("commit")
    await assert_right(db)
    assert await sessions.paid(db, 7) == 5700


async def test_a_chain_of_events_that_wait_for_each_other_is_released_step_by_step(db: Connection) -> None:
    await calls.add_invoice(db, 7)
    chain = [
        Event("reversal", None, 2000, "refund_reversal", reference="re_1"),
        Event("refund", None, 2000, "refund", reference="re_1", parent_reference="ch_1"),
        Event("dispute", None, 500, "chargeback", reference="dp_1", parent_reference="ch_1"),
        Event("won", None, 500, "chargeback_reversal", reference="dp_1"),
        Event("named", None, 5000, reference="ch_1", invoice_reference="INV-7"),
    ]
    for event in chain:
        assert (await calls.apply(db, event, park=True))["outcome"] == "parked"
    await db.execute("insert into invoice_references values ('direct', 'INV-7', 7)")

    async def places() -> list[str]:
        rows = await db.fetch("select place from payment_event_states order by id")
        return [row["place"] for row in rows]

    assert await places() == ["parked", "parked", "parked", "parked", "queued"]
    await calls.process(db, batch_size=1)
    assert await places() == ["parked", "queued", "queued", "parked", "posted"]
    await calls.process(db, batch_size=2)
    assert await places() == ["queued", "posted", "posted", "queued", "posted"]
    await calls.process(db, batch_size=2)
    assert await places() == ["posted"] * 5
    assert await calls.balance(db, 7) == ("partially_paid", 5000, 0, 0)
    await assert_right(db)


async def test_an_event_may_wait_for_one_thing_after_another(db: Connection) -> None:
    """A refund that names invoice and payment waits for the invoice only; its reversal waits for the refund."""
    events = [
        Event("reversal", 7, 2000, "refund_reversal", reference="re_1"),
        Event("refund", 7, 2000, "refund", reference="re_1", parent_reference="ch_1"),
    ]
    await calls.apply_all(db, events, park=True)
    assert await db.fetchval("select count(*) from parked_events where invoice_id = 7") == 2
    await bring_invoice(db, 7)
    await assert_right(db)
    assert await calls.balance(db, 7) == ("sent", 0, 0, 0)
    assert await calls.counts(db, "payments", "parked_events") == [2, 0]


async def functions_called(db: Connection) -> dict[str, int]:
    """How often each function has been called in this transaction."""
    return {r["funcname"]: r["calls"] for r in await db.fetch("select * from pg_stat_xact_user_functions")}


async def test_a_copy_costs_one_call_of_the_trigger_however_many_rows_it_has(connect: Connect, db: Connection) -> None:
    """What it costs in time: python -m tests.benchmarks database."""
    await calls.apply(db, Event("e1", 2999, 5000), park=True)
    first, second = await connect(), await connect()
    async with first.transaction():
        await first.execute("set track_functions = 'pl'")
        records = [(n, 10_000) for n in range(3000)]
        await first.copy_records_to_table("invoices", records=records, columns=["id", "amount"])
        assert await functions_called(first) == {
            "release_for_invoices": 1, "release_parked_events": 1, "wake_listener": 1,
        }  # fmt: skip
    async with second.transaction():
        await second.execute("set track_functions = 'pl'")
        names = [("direct", f"INV-{n}", n) for n in range(3000)]
        await second.copy_records_to_table("invoice_references", records=names, columns=NAMES)
        assert await functions_called(second) == {"release_for_references": 1}
    await assert_right(db)


async def test_what_another_is_burying_or_releasing_stays_where_it_is(connect: Connect, db: Connection) -> None:
    event = Event("e1", None, 5000, invoice_reference="LATE")
    await calls.add_invoice(db, 1)
    await calls.apply(db, event, park=True)
    await db.execute("update parked_events set parked_at = now() - interval '31 days'")
    poll = await connect()
    async with poll.transaction():
        assert await poll.fetchval("select dead from look_at_parked_events()") == 1
        await calls.add_reference(db, "direct", "LATE", 1)
        for park in (False, True):
            assert await calls.apply_together(db, [event], park=park) == ["parked"]
    assert await calls.apply_together(db, [event]) == ["dead"]
    assert await db.fetch("select * from misplaced_events()") == []
    await db.execute("select retry_dead_letters('park_expired')")
    await assert_right(db)
    assert await calls.balance(db, 1) == ("partially_paid", 5000, 0, 0)


async def test_a_report_of_what_is_parked_already_does_not_keep_its_release_back(
    connect: Connect, db: Connection
) -> None:
    event = Event("e1", 1, 5000)
    await calls.apply(db, event, park=True)
    again = await connect()
    async with again.transaction():
        assert await calls.enqueue_together(again, [event], park=True) == ["parked"]
        await calls.add_invoice(db, 1)
        assert await calls.whereabouts(db, "e1") == ("pending", "queued")
    await assert_right(db)
    assert await calls.balance(db, 1) == ("partially_paid", 5000, 0, 0)


async def test_an_invoice_that_comes_while_a_batch_waits_for_another_keeps_nothing_from_being_stored(
    connect: Connect, db: Connection
) -> None:
    await calls.add_invoice(db, 1)
    holder, waiting = await connect(), await connect()
    async with holder.transaction():
        await holder.execute("select from invoices where id = 1 for update")
        both = calls.apply_together(waiting, [Event("p", 1), Event("q", 2)], park=True)
        task = await sessions.blocked(db, waiting, both)
        await calls.add_invoice(db, 2)
    assert await task == ["applied", "parked"]
    assert await calls.whereabouts(db, "q") == ("pending", "queued")
    await assert_right(db)
    assert (await calls.balance(db, 2))[1] == 100
