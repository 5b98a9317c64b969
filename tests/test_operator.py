"""What an operator sees and does: dead letters, voids, timelines, health, bodies. Called as the operator's role."""

import re
from typing import Any

import asyncpg
import pytest

from tests.calls import (
    Event,
    add_invoice,
    add_reference,
    apply,
    apply_all,
    apply_each,
    assert_consistent,
    balance,
    counts,
    drain,
    enqueue,
    enqueue_all,
    outcomes,
    process,
    rows_of,
    whereabouts,
)
from tests.conftest import Connect, Connection


@pytest.fixture
async def operator(connect: Connect) -> Connection:
    """One connection to the test's database with the rights of an operator and no others."""
    return await connect("operator")


async def bury(db: Connection, event_id: str, invoice_id: int = 1) -> int:
    """Make a dead letter: an event in another currency than its invoice's."""
    await apply(db, Event(event_id, invoice_id, currency="EUR"), park=True)
    return int(await db.fetchval("select id from open_dead_letters where event_id = $1", event_id))


async def actions(operator: Connection) -> list[tuple[Any, ...]]:
    """Actor, action, note, event and dead letter of each trace, in order."""
    return await rows_of(
        operator,
        """
        select a.actor, a.action, a.note, e.event_id, a.dead_letter_id
        from operator_actions a left join payment_events e on e.id = a.payment_event_id order by a.id""",
    )


# Dead letters.


async def blocks_read(db: Connection) -> int:
    """Blocks of our tables and indexes that have been read or found in memory so far."""
    await db.execute("select pg_stat_force_next_flush()")
    query = "select sum(heap_blks_read + heap_blks_hit + idx_blks_read + idx_blks_hit) from pg_statio_user_tables"
    return int(await db.fetchval(query))


async def test_open_dead_letters_show_what_was_reported_and_why_it_died(db: Connection, operator: Connection) -> None:
    await add_invoice(db, 1)
    reported = Event(
        "e", 1, 700, "refund", "EUR", "stripe", reference="re_1", parent_reference="pi_1", body=b"{}", content_type="x"
    )
    await apply(db, reported, park=True)
    row = await operator.fetchrow("select * from open_dead_letters")
    assert row is not None
    assert (row["reason"], row["detail"]) == ("currency_mismatch", "the event is in EUR, invoice 1 in USD")
    for field in (
        "event_id",
        "invoice_id",
        "amount",
        "kind",
        "currency",
        "connection",
        "reference",
        "parent_reference",
    ):
        assert row[field] == getattr(reported, field)
    assert await operator.fetchval("select body from deliveries where id = $1", row["delivery_id"]) == b"{}"


async def test_a_retried_dead_letter_is_applied_once_its_cause_is_mended(db: Connection, operator: Connection) -> None:
    await add_invoice(db, 1)
    letter = await bury(db, "e")
    await operator.execute("select retry_dead_letter($1, 'currency was wrong', 'ann')", letter)
    assert await whereabouts(db, "e") == ("pending", "queued")
    assert (await process(db))["dead"] == 1, "nothing was mended yet, so it is dead again"
    assert await counts(db, "open_dead_letters", "dead_letters") == [1, 2]

    await db.execute("update invoices set currency = 'EUR'")
    again = await operator.fetchval("select id from open_dead_letters")
    await operator.execute("select retry_dead_letter($1)", again)
    assert await counts(db, "open_dead_letters") == [0]
    await drain(db)
    assert await whereabouts(db, "e") == ("processed", "posted")
    assert (await balance(db, 1))[1] == 100
    login = await operator.fetchval("select session_user")
    assert await actions(operator) == [
        ("ann", "retried", "currency was wrong", "e", letter),
        (login, "retried", None, "e", again),
    ]
    await assert_consistent(db)


async def test_all_dead_letters_of_a_reason_are_retried_and_no_others(db: Connection, operator: Connection) -> None:
    await add_invoice(db, 1)
    for number in range(5):
        await bury(db, f"e{number}")
    await apply_all(db, [Event("p", 1, reference="r"), Event("other", 1, 7, reference="r")], park=True)
    await db.fetch("select store_dead_letter('stripe', 'unreadable', 'not JSON', 'x')")
    retry = "select retry_dead_letters($1, 3, 'all of them', 'ann')"
    assert [await operator.fetchval(retry, "currency_mismatch") for _ in range(3)] == [3, 2, 0]
    assert await rows_of(operator, "select reason from open_dead_letters order by reason") == [
        ("conflict",), ("unreadable",),
    ]  # fmt: skip
    assert await counts(db, "payment_queue") == [5]
    assert len(await actions(operator)) == 5
    assert await operator.fetchval("select retry_dead_letters(null)") == 1, "of any reason: all that are events"
    assert await rows_of(operator, "select reason from open_dead_letters") == [("unreadable",)]


async def test_a_dead_letter_given_to_another_invoice_posts_there_and_stays_as_reported(
    db: Connection, operator: Connection
) -> None:
    await add_invoice(db, 1)
    await add_invoice(db, 2, currency="EUR")
    letter = await bury(db, "e")
    await operator.execute("select reassign_dead_letter($1, 2, 'it was theirs', 'ann')", letter)
    await drain(db)
    assert await balance(db, 1) == ("sent", 0, 0, 0)
    assert await balance(db, 2) == ("partially_paid", 100, 0, 0)
    assert await operator.fetchval("select invoice_id from payment_events") == 1
    assert await operator.fetchval("select invoice_id from payment_event_states") == 2
    assert await actions(operator) == [("ann", "reassigned", "to invoice 2: it was theirs", "e", letter)]
    # The provider sends it again: known and posted, whatever it says about its invoice.
    assert await apply_each(db, [Event("e", 1, currency="EUR")]) == ["duplicate"]
    await assert_consistent(db)


async def test_a_reassigned_event_that_is_sent_again_meanwhile_does_not_post_to_the_invoice_that_it_names(
    db: Connection, operator: Connection
) -> None:
    for invoice_id, currency in ((1, "USD"), (2, "GBP"), (3, "EUR")):
        await add_invoice(db, invoice_id, currency=currency)
    letter = await bury(db, "e")
    await operator.execute("select reassign_dead_letter($1, 2)", letter)
    await db.execute("update invoices set currency = 'EUR' where id = 1")
    assert await apply_each(db, [Event("e", 1, currency="EUR")]) == ["queued"]
    await drain(db)
    again = await operator.fetchval("select id from open_dead_letters")
    await operator.execute("select reassign_dead_letter($1, 3)", again)
    await drain(db)
    assert [(await balance(db, invoice_id))[1] for invoice_id in (1, 2, 3)] == [0, 0, 100]
    await assert_consistent(db)


async def test_a_dismissed_dead_letter_is_closed_for_the_same_report_but_may_still_be_retried(
    db: Connection, operator: Connection
) -> None:
    await add_invoice(db, 1)
    letter = await bury(db, "e")
    await operator.execute("select dismiss_dead_letter($1, 'a test of theirs', 'ann')", letter)
    assert await counts(db, "open_dead_letters") == [0]
    assert await whereabouts(db, "e") == ("failed", "dead")
    assert await apply_each(db, [Event("e", 1, currency="EUR")], park=True) == ["dead"]
    assert await counts(db, "open_dead_letters", "dead_letters") == [0, 1]

    await db.execute("update invoices set currency = 'EUR'")
    await operator.execute("select retry_dead_letter($1, 'it was real', 'bob')", letter)
    await drain(db)
    assert await whereabouts(db, "e") == ("processed", "posted")
    assert await actions(operator) == [
        ("ann", "dismissed", "a test of theirs", "e", letter),
        ("bob", "retried", "it was real", "e", letter),
    ]
    with pytest.raises(asyncpg.PostgresError, match="no open dead letter"):
        await operator.execute("select retry_dead_letter($1)", letter)
    await assert_consistent(db)


async def test_all_dead_letters_of_a_reason_are_dismissed_and_no_others(db: Connection, operator: Connection) -> None:
    await add_invoice(db, 1)
    for number in range(3):
        await bury(db, f"e{number}")
        await db.execute("select store_dead_letter('stripe', 'unreadable', 'not JSON', $1)", str(number).encode())
    dismiss = "select dismiss_dead_letters('unreadable', 2, 'noise', 'ann')"
    assert [await operator.fetchval(dismiss) for _ in range(3)] == [2, 1, 0]
    assert await rows_of(operator, "select distinct reason from open_dead_letters") == [("currency_mismatch",)]
    assert [action for _, action, *_ in await actions(operator)] == ["dismissed"] * 3


async def test_a_conflict_under_a_known_event_id_stays_dismissed_when_it_is_reported_again(
    db: Connection, operator: Connection
) -> None:
    await add_invoice(db, 1)
    await apply_all(db, [Event("e", 1, 100), Event("e", 1, 999)])
    await operator.fetch("select dismiss_dead_letter(id) from open_dead_letters")
    assert await apply_each(db, [Event("e", 1, 999)]) == ["conflict"]
    assert await counts(db, "open_dead_letters") == [0]
    assert await apply_each(db, [Event("e", 1, 998)]) == ["conflict"]
    assert await counts(db, "open_dead_letters") == [1], "another content is another conflict"


async def test_an_unreadable_request_makes_one_dead_letter_however_often_it_comes(db: Connection) -> None:
    store = "select store_dead_letter($1, $2, 'not JSON', $3, 'text/plain', 'evt_1')"
    first = await db.fetchval(store, "stripe", "unreadable", b"\x00\xff{")
    assert first is not None
    assert await db.fetchval(store, "stripe", "unreadable", b"\x00\xff{") is None
    for other in (("stripe", "unreadable", b"{"), ("adyen", "unreadable", b"{"), ("adyen", "not_ours", b"{")):
        assert await db.fetchval(store, *other) is not None
    assert await counts(db, "open_dead_letters", "deliveries") == [4, 4]
    rows = await rows_of(
        db,
        """select o.connection, o.event_id, o.reason, d.body, d.content_type
                               from open_dead_letters o join deliveries d on d.id = o.delivery_id where o.id = $1""",
        first,
    )
    assert rows == [("stripe", "evt_1", "unreadable", b"\x00\xff{", "text/plain")]


# Voids.


@pytest.mark.parametrize("reference", [None, "pi_1"])
@pytest.mark.parametrize("kind", ["payment", "refund", "chargeback"])
async def test_a_voided_event_is_undone_once_and_the_ledger_keeps_both(
    db: Connection, operator: Connection, kind: str, reference: str | None
) -> None:
    await add_invoice(db, 1)
    await apply(db, Event("before", 1, 5000))
    before = await balance(db, 1)
    await apply(db, Event("e", 1, 100, kind, reference=reference, connection="stripe"))
    assert await balance(db, 1) != before
    row = await operator.fetchrow("select * from void_payment('stripe', 'e', 'typed twice', 'ann')")
    assert row is not None
    assert (row["outcome"], row["invoice_id"], row["paid"]) == ("applied", 1, 5000)
    assert await balance(db, 1) == before
    assert await operator.fetchval("select outcome from void_payment('stripe', 'e')") == "duplicate"
    assert await balance(db, 1) == before
    assert await counts(db, "payments") == [3]
    assert await actions(operator) == [("ann", "voided", "typed twice", "e", None)]
    assert await apply_each(db, [Event("e", 1, 100, kind, reference=reference, connection="stripe")]) == ["duplicate"]
    await assert_consistent(db)


async def test_a_void_after_the_providers_own_reversal_is_a_duplicate(db: Connection, operator: Connection) -> None:
    await add_invoice(db, 1)
    await apply_all(db, [Event("p", 1, reference="r"), Event("bounced", 1, kind="payment_reversal", reference="r")])
    assert await operator.fetchval("select outcome from void_payment('direct', 'p')") == "duplicate"
    assert await operator.fetchval("select outcome from void_payment('direct', 'p')") == "duplicate"
    assert await balance(db, 1) == ("sent", 0, 0, 0)
    assert await actions(operator) == [], "nothing was done"
    await assert_consistent(db)


@pytest.mark.parametrize("queued", [False, True])
async def test_the_providers_own_reversal_after_a_void_is_a_duplicate(
    db: Connection, operator: Connection, queued: bool
) -> None:
    await add_invoice(db, 1)
    await apply(db, Event("p", 1, reference="r"))
    await operator.execute("select void_payment('direct', 'p')")
    reversal = Event("bounced", amount=100, kind="payment_reversal", reference="r")
    if queued:
        await enqueue(db, reversal)
        assert (await process(db))["duplicates"] == 1
    assert await apply_each(db, [reversal]) == ["duplicate"]
    assert await balance(db, 1) == ("sent", 0, 0, 0)
    assert await whereabouts(db, "bounced") == ("processed", "reported")
    await assert_consistent(db)


async def test_only_what_is_posted_is_voided(db: Connection, operator: Connection) -> None:
    await add_invoice(db, 1)
    await enqueue(db, Event("queued", 1))
    await apply(db, Event("parked", 99), park=True)
    await bury(db, "dead")
    for event_id in ("queued", "parked", "dead", "unheard of"):
        with pytest.raises(asyncpg.PostgresError, match="cannot be voided") as caught:
            await operator.execute("select void_payment('direct', $1)", event_id)
        assert caught.value.sqlstate == "PW010"
    assert await balance(db, 1) == ("sent", 0, 0, 0)


# Views.


async def test_an_event_that_waits_is_found_by_what_it_waits_for(db: Connection, operator: Connection) -> None:
    waiting = [
        Event("for an invoice", 77),
        Event("for a name", invoice_reference="INV-1"),
        Event("for a payment", kind="refund", parent_reference="pi_2"),
    ]
    await apply_all(db, waiting, park=True)
    for text, event in zip(("77", "INV-1", "pi_2"), waiting, strict=True):
        found = "select event_id from payment_event_states where id in (select find_payment_events($1))"
        assert [row["event_id"] for row in await operator.fetch(found, text)] == [event.event_id]


@pytest.mark.parametrize("text", ["pi_dead", "pi_queued", "pi_parked"])
async def test_an_event_that_is_not_posted_is_found_by_its_reference(
    db: Connection, operator: Connection, text: str
) -> None:
    await add_invoice(db, 1)
    await apply(db, Event("e1", 1, currency="EUR", reference="pi_dead"), park=True)
    await enqueue(db, Event("e2", 1, reference="pi_queued"))
    await apply(db, Event("e3", 77, reference="pi_parked"), park=True)
    found = "select reference from payment_event_states where id in (select find_payment_events($1))"
    assert await operator.fetchval(found, text) == text


@pytest.mark.parametrize("invoice", [2**63 - 1, -(2**63) + 1, 10**18, -5])
async def test_an_invoice_is_found_whatever_bigint_its_id_is(db: Connection, invoice: int) -> None:
    await add_invoice(db, invoice)
    assert await db.fetchval("select find_named_invoices($1)", str(invoice)) == invoice
    await apply(db, Event("e1", invoice - 1), park=True)
    assert await db.fetchval("select count(*) from find_payment_events($1)", str(invoice - 1)) == 1
    assert await db.fetch("select find_named_invoices($1)", str(2**63)) == []


async def test_what_is_about_a_payment_follows_it_to_the_invoice_it_was_given_to(
    db: Connection, operator: Connection
) -> None:
    await add_invoice(db, 1)
    await add_invoice(db, 2, currency="EUR")
    await apply(db, Event("e1", 1, 500, currency="EUR", reference="pi_1"), park=True)
    await operator.execute("select reassign_dead_letter(id, 2) from open_dead_letters")
    await process(db)
    undone = [
        Event("e2", 1, 500, "refund", reference="re_1", parent_reference="pi_1"),
        Event("e3", 1, 500, "refund_reversal", reference="re_1"),
        Event("e4", 1, 500, "chargeback", reference="dp_1", parent_reference="pi_1"),
        Event("e5", 1, 500, "chargeback_reversal", reference="dp_1"),
    ]
    for event in undone:
        row = await apply(db, event)
        assert (row["outcome"], row["invoice_id"]) == ("applied", 2), event


@pytest.mark.parametrize("batch_size", [1, 500])
async def test_a_refund_follows_the_payment_that_was_given_away_though_one_batch_has_both(
    db: Connection, operator: Connection, batch_size: int
) -> None:
    await add_invoice(db, 1)
    await add_invoice(db, 2, currency="EUR")
    await apply(db, Event("e1", 1, 1000, currency="EUR", reference="pi_1"), park=True)
    await operator.execute("select reassign_dead_letter(id, 2) from open_dead_letters")
    await enqueue(db, Event("e2", 1, 400, "refund", reference="re_1", parent_reference="pi_1"))
    await drain(db, batch_size)
    assert await balance(db, 1) == ("sent", 0, 0, 0)
    assert await balance(db, 2) == ("partially_refunded", 1000, 400, 0)


async def test_a_refund_is_busy_with_the_payment_that_was_given_away(
    db: Connection, operator: Connection, connect: Connect
) -> None:
    await add_invoice(db, 1)
    await add_invoice(db, 2, currency="EUR")
    await apply(db, Event("e1", 1, 1000, currency="EUR", reference="pi_1"), park=True)
    await operator.execute("select reassign_dead_letter(id, 2) from open_dead_letters")
    other = await connect()
    async with other.transaction():
        await other.execute("select from invoices where id = 2 for update")
        await enqueue(db, Event("e2", 1, 400, "refund", reference="re_1", parent_reference="pi_1"))
        assert (await process(db))["busy"] == 2
    await db.execute("update payment_queue set next_attempt_at = now()")
    await drain(db)
    assert await balance(db, 1) == ("sent", 0, 0, 0)
    assert await balance(db, 2) == ("partially_refunded", 1000, 400, 0)


async def one_in_each_place(db: Connection) -> None:
    """Events of invoice 1, named after the place they are in."""
    await add_invoice(db, 1)
    await apply_all(db, [Event("posted", 1, 4000, reference="pi_1"), Event("reported", 1, 4000, reference="pi_1")])
    await apply(
        db, Event("parked", amount=500, kind="refund", parent_reference="pi_2", invoice_reference=None), park=True
    )
    await apply(db, Event("parked for its name", amount=500, invoice_reference="INV-1"), park=True)
    await bury(db, "dead")
    await enqueue(db, Event("queued", 1, 600))


async def test_every_event_has_a_state_in_plain_words_and_a_detail_where_one_is_due(
    db: Connection, operator: Connection
) -> None:
    await one_in_each_place(db)
    await enqueue(db, Event("retrying", 1))
    await db.execute("""select fail_payment_event(id, 'the disk is full') from payment_events
                        where event_id = 'retrying'""")
    rows = await operator.fetch("select event_id, state, place, detail, posted_at from payment_event_states")
    posted = await operator.fetchval("select id from payments")
    states = {row["event_id"]: (row["state"], row["place"], row["detail"]) for row in rows}
    retrying = states.pop("retrying")
    assert states == {
        "posted": ("processed", "posted", None),
        "reported": ("processed", "reported", f"reports what event {posted} posted"),
        "parked": ("pending", "parked", "waits for payment 'pi_2'"),
        "parked for its name": ("pending", "parked", "waits for invoice reference 'INV-1'"),
        "dead": ("failed", "dead", "currency_mismatch: the event is in EUR, invoice 1 in USD"),
        "queued": ("pending", "queued", None),
    }
    assert retrying[:2] == ("pending", "queued")
    assert retrying[2].startswith("failed 1 times, next attempt at 2")
    assert retrying[2].endswith(": the disk is full")
    assert {row["event_id"] for row in rows if row["posted_at"] is not None} == {"posted"}


async def test_waiting_events_are_those_queued_and_parked_and_for_how_long(
    db: Connection, operator: Connection
) -> None:
    await one_in_each_place(db)
    rows = await operator.fetch("select event_id, place, waiting from waiting_events order by event_id")
    assert [(row["event_id"], row["place"]) for row in rows] == [
        ("parked", "parked"), ("parked for its name", "parked"), ("queued", "queued"),
    ]  # fmt: skip
    assert all(0 <= row["waiting"].total_seconds() < 60 for row in rows)


@pytest.mark.parametrize(
    "look", ["select * from waiting_events", "select * from invoice_timeline(1)", "select * from open_dead_letters"]
)
async def test_a_look_reads_little_however_many_events_there_were(db: Connection, look: str) -> None:
    await add_invoice(db, 1)
    await add_invoice(db, 2)
    await db.execute("""
        insert into payment_events (amount, invoice_id, connection, event_id, kind)
            select 1, 2, 'direct', 'old-' || n, 'payment' from generate_series(1, 20000) n;
        insert into payments (id, invoice_id, amount, connection, kind)
            select id, invoice_id, amount, connection, kind from payment_events;
    """)
    await enqueue_all(db, [Event("queued", 1), Event("dead", 1, currency="EUR")], park=True)
    await process(db)
    await enqueue_all(db, [Event("parked", 3), Event("waits", 1)], park=True)
    await db.execute("analyze")
    before = await blocks_read(db)
    assert await db.fetch(look) != []
    assert await blocks_read(db) - before < 200


async def test_queue_health_is_one_row_of_what_waits_and_for_how_long(db: Connection, operator: Connection) -> None:
    empty = await rows_of(operator, "select queued, retrying, parked, parked_since, dead from queue_health")
    assert empty == [(0, 0, 0, None, 0)]
    await one_in_each_place(db)
    await enqueue_all(db, [Event("retrying", 1), Event("late", 1)])
    await db.execute("select fail_payment_event(id, 'x') from payment_events where event_id = 'retrying'")
    await db.execute("""update payment_queue q set next_attempt_at = now() - interval '1 h'
                        from payment_events e where e.id = q.id and e.event_id = 'late'""")
    await db.execute(
        "update parked_events set parked_at = parked_at - interval '2 h' where invoice_reference is not null"
    )
    row = await operator.fetchrow("select *, now() - parked_since as longest_parked from queue_health")
    assert row is not None
    assert (row["queued"], row["retrying"], row["parked"], row["dead"]) == (3, 1, 2, 1)
    assert 3600 <= row["longest_overdue"].total_seconds() < 3660
    assert 7200 <= row["longest_parked"].total_seconds() < 7260


async def test_the_timeline_of_an_invoice_runs_its_balance_and_shows_what_did_not_count(
    db: Connection, operator: Connection
) -> None:
    await one_in_each_place(db)
    await add_invoice(db, 2)
    await add_reference(db, "direct", "INV-1", 1)
    await apply_each(db, [
        Event("refund", 1, 1500, "refund", reference="re_1"),
        Event("other", 2, 9),
        Event("dispute", 1, 500, "chargeback", reference="dp_1"),
        Event("won", 1, 500, "chargeback_reversal", reference="dp_1"),
    ])  # fmt: skip
    await operator.execute("select void_payment('direct', 'refund')")
    rows = await operator.fetch("select event_id, place, amount, balance from invoice_timeline(1)")
    void = await operator.fetchval("select 'void:' || id from payment_events where event_id = 'refund'")
    assert [tuple(row) for row in rows if row["balance"] is not None] == [
        ("posted", "posted", 4000, 4000),
        ("refund", "posted", -1500, 2500),
        ("dispute", "posted", -500, 2000),
        ("won", "posted", 500, 2500),
        (void, "posted", 1500, 4000),
    ]
    assert {tuple(row) for row in rows if row["balance"] is None} == {
        ("reported", "reported", 4000, None),
        ("dead", "dead", 100, None),
        ("queued", "queued", 600, None),
        ("parked for its name", "queued", 500, None),
    }
    assert rows[-1]["event_id"] == void, "in the order of time"
    paid, refunded, charged_back = (await balance(db, 1))[1:]
    assert paid - refunded - charged_back == 4000


async def test_the_timeline_shows_a_queued_refund_that_names_only_its_payment(
    db: Connection, operator: Connection
) -> None:
    await add_invoice(db, 1)
    await apply(db, Event("p", 1, reference="pi_1"))
    await enqueue(db, Event("r", amount=30, kind="refund", parent_reference="pi_1"))
    rows = await rows_of(operator, "select event_id, place from invoice_timeline(1)")
    assert rows == [("p", "posted"), ("r", "queued")]


async def test_the_timeline_of_a_reassigned_event_is_on_the_invoice_it_was_given_to(
    db: Connection, operator: Connection
) -> None:
    await add_invoice(db, 1)
    await add_invoice(db, 2)
    await operator.execute("select reassign_dead_letter($1, 2)", await bury(db, "e"))
    assert await rows_of(operator, "select event_id from invoice_timeline(1)") == []
    assert await rows_of(operator, "select event_id, place from invoice_timeline(2)") == [("e", "queued")]


async def test_an_invoice_shows_what_is_due_or_overpaid(db: Connection, operator: Connection) -> None:
    for invoice_id in (1, 2, 3):
        await add_invoice(db, invoice_id)
    await apply_all(db, [Event("a", 1, 4000), Event("b", 2, 10500)])
    rows = await rows_of(operator, "select id, status, due, overpaid from invoice_balances order by id")
    assert rows == [(1, "partially_paid", 6000, 0), (2, "paid", 0, 500), (3, "sent", 10000, 0)]


# Events that no webhook brought.


async def test_an_import_takes_what_is_new_as_the_queue_does_and_records_only_that(
    db: Connection, operator: Connection
) -> None:
    await add_invoice(db, 1)
    await enqueue(db, Event("known", 1))
    await apply_all(db, [Event("posted", 1, 300, reference="r")])
    call = """select outcome from import_payment_events(array['known', 'new', 'new', 'posted', 'posted', 'none', 'bad'],
        array[1, 1, 1, 1, 1, 9, 1], array[100, 200, 200, 300, 999, 1, 0],
        p_references => array[null, null, null, 'r', 'r'],
        p_bodies => array['1', '2', '3', '4', '5', '6', '7']::bytea[], p_note => 'export.jsonl', p_actor => 'ann')"""

    first = [row["outcome"] for row in await operator.fetch(call)]
    again = [row["outcome"] for row in await operator.fetch(call)]

    rest = ["duplicate", "conflict", "unknown_invoice", "invalid"]
    assert first == ["duplicate", "queued", "duplicate", *rest]
    assert again == ["duplicate", "duplicate", "duplicate", *rest]
    letter = await operator.fetchval("select id from open_dead_letters where event_id = 'posted'")
    assert await actions(operator) == [
        ("ann", "imported", "export.jsonl", "new", None),
        ("ann", "imported", "export.jsonl", None, letter),
    ]
    assert await operator.fetchval("select array_agg(body order by id) from deliveries") == [b"2", b"5"]
    await drain(db)
    assert await balance(db, 1) == ("partially_paid", 600, 0, 0)
    await assert_consistent(db)


async def test_an_import_parks_what_names_no_known_invoice_if_told_to(db: Connection, operator: Connection) -> None:
    call = "select outcome from import_payment_events(array['e'], array[7], array[100], p_park => true)"
    assert await operator.fetchval(call) == "queued"
    await drain(db)
    assert await whereabouts(db, "e") == ("pending", "parked")
    assert [(row[1], row[3]) for row in await actions(operator)] == [("imported", "e")]


async def test_imported_references_and_dead_letters_are_recorded_once(db: Connection, operator: Connection) -> None:
    await add_invoice(db, 1)
    link = "select import_invoice_reference('stripe', $1, $2, $3, 'export.jsonl', 'ann')"
    assert await operator.fetchval(link, "pi_1", 1, None) == "linked"
    assert await operator.fetchval(link, "pi_1", 1, None) == "duplicate"
    assert await operator.fetchval(link, "pi_2", None, "in_2") == "parked"
    letter = (
        "select import_dead_letter('stripe', 'bad_amount', 'why', 'body', 'text/plain', 'evt', 'export.jsonl', 'ann')"
    )
    stored = await operator.fetchval(letter)
    assert await operator.fetchval(letter) is None
    assert await operator.fetchval("select body from deliveries") == b"body"
    assert await actions(operator) == [
        ("ann", "linked", "pi_1 of connection stripe to invoice 1: export.jsonl", None, None),
        ("ann", "linked", "pi_2 of connection stripe to invoice in_2: export.jsonl", None, None),
        ("ann", "imported", "export.jsonl", None, stored),
    ]


# Patience and housekeeping.


async def test_what_waits_for_longer_than_the_park_days_becomes_a_dead_letter(
    db: Connection, operator: Connection
) -> None:
    events = [Event("old", 5), Event("young", 5), Event("refund", amount=10, kind="refund", parent_reference="pi_1")]
    assert outcomes(await apply_all(db, events, park=True)) == ["parked"] * 3
    await db.execute("""update parked_events w set parked_at = now() - interval '7 days 1 second'
                        from payment_events e where e.id = w.id and e.event_id in ('old', 'refund')""")
    assert await db.fetchval("select dead from process_payment_queue(p_park_days => 8)") == 0
    assert await db.fetchval("select dead from process_payment_queue(p_park_days => 7)") == 2
    rows = await rows_of(operator, "select event_id, reason, detail from open_dead_letters order by event_id")
    assert rows == [
        ("old", "park_expired", "what it waits for did not come in 7 days"),
        ("refund", "park_expired", "what it waits for did not come in 7 days"),
    ]
    assert await whereabouts(db, "young") == ("pending", "parked")
    await assert_consistent(db)

    # What has come is released, however long it has waited.
    await apply(db, Event("late", None, 1, invoice_reference="LATE"), park=True)
    await db.execute("update parked_events set parked_at = now() - interval '9 days'")
    await db.execute("alter table invoice_references disable trigger invoice_references_release")
    await add_invoice(db, 6)
    await db.execute("insert into invoice_references values ('direct', 'LATE', 6)")
    assert await db.fetchval("select dead from process_payment_queue(p_park_days => 8)") == 1  # young, by now
    await drain(db)
    assert await whereabouts(db, "late") == ("processed", "posted")
    assert await db.fetchval("select count(*) from open_dead_letters where event_id = 'young'") == 1

    # The invoice comes after all: a retry applies it.
    await add_invoice(db, 5)
    assert await operator.fetchval("select retry_dead_letters('park_expired')") == 3
    await drain(db)
    assert (await balance(db, 5))[1] == 200
    assert await whereabouts(db, "refund") == ("pending", "parked")


async def test_pruning_deletes_old_bodies_but_none_that_an_open_dead_letter_points_to(
    db: Connection, operator: Connection
) -> None:
    await add_invoice(db, 1)
    old = [Event(f"e{number}", 1, body=b"old") for number in range(4)]
    await apply_all(db, old)
    await apply(db, Event("dead", 1, currency="EUR", body=b"evidence"), park=True)
    await db.execute("select store_dead_letter('stripe', 'unreadable', 'not JSON', 'unreadable evidence')")
    await db.execute("update deliveries set received_at = now() - interval '91 days'")
    await apply(db, Event("young", 1, body=b"young"))
    prune = "select prune_deliveries('90 days', 3)"
    assert [await operator.fetchval(prune) for _ in range(3)] == [3, 1, 0]
    bodies = "select array_agg(body order by id) from deliveries"
    assert await operator.fetchval(bodies) == [b"evidence", b"unreadable evidence", b"young"]
    # Nothing else went with them, and what was applied is still known.
    assert await counts(db, "payment_events", "payments") == [6, 5]
    assert await apply_each(db, old) == ["duplicate"] * 4
    assert await counts(db, "deliveries") == [3], "the body of a duplicate is not kept again"
    await operator.fetch("select dismiss_dead_letter(id) from open_dead_letters")
    assert await operator.fetchval(prune) == 2
    assert await operator.fetchval(bodies) == [b"young"]


async def test_pruning_reads_no_more_than_its_limit_however_many_younger_bodies_there_are(
    db: Connection, operator: Connection
) -> None:
    await db.execute("insert into deliveries (connection, body) select 'stripe', '' from generate_series(1, 1000)")
    await db.execute("update deliveries set received_at = now() - interval '91 days' where id <= 5")
    await db.execute("analyze deliveries")  # as autovacuum does; 15 reads so small a table whole without
    read = "select seq_tup_read + idx_tup_fetch from pg_stat_xact_user_tables where relname = 'deliveries'"
    for pruned in (5, 0):
        async with operator.transaction():
            assert await operator.fetchval("select prune_deliveries('90 days', 10)") == pruned
            assert await operator.fetchval(read) < 100


async def test_the_checks_find_what_the_owner_broke(db: Connection, operator: Connection) -> None:
    await add_invoice(db, 1)
    await add_invoice(db, 2)
    await apply_all(db, [Event("a", 1), Event("b", 2)])
    await enqueue(db, Event("lost", 2))
    await assert_consistent(operator)
    await db.execute("select set_config('role', role_name('owner'), false)")
    await db.execute("update invoices set amount_paid = 99 where id = 2")
    await db.execute("delete from payment_queue")
    await db.execute(
        """insert into parked_events (id, connection, invoice_id)
           select id, 'direct', 9 from payments where invoice_id = 1"""
    )
    rows = await operator.fetch("select * from invoice_discrepancies()")
    assert [tuple(row) for row in rows] == [(2, 99, 100, 0, 0, 0, 0)]
    rows = await operator.fetch(
        "select event_id, places from misplaced_events() join payment_events using (id) order by id"
    )
    assert [tuple(row) for row in rows] == [("a", ["parked", "posted"]), ("lost", [])]


# The manual: \d+ and \df+.

# What a column is, where its name says all of it.
SELF_EVIDENT = {
    "id", "created_at", "updated_at", "received_at", "posted_at", "parked_at", "died_at", "resolved_at", "acted_at",
    "connection", "kind", "invoice_id", "payment_event_id", "dead_letter_id", "content_type", "actor", "action", "note",
    "attempts", "next_attempt_at", "last_error", "event_id", "detail", "resolution", "reference", "invoice_reference",
    "movement_kind", "movement_reference", "delivery_id",
}  # fmt: skip


async def test_every_table_view_function_and_type_has_a_comment(db: Connection) -> None:
    rows = await db.fetch("""
        select 'relation ' || c.relname from pg_class c
        where c.relnamespace = current_schema()::regnamespace and c.relkind in ('r', 'v', 'm')
          and c.relname <> 'schema_migrations' and obj_description(c.oid, 'pg_class') is null
        union all
        select 'type ' || c.relname from pg_class c
        where c.relnamespace = current_schema()::regnamespace and c.relkind = 'c'
          and obj_description(c.reltype, 'pg_type') is null
        union all
        select 'function ' || p.oid::regprocedure from pg_proc p
        where p.pronamespace = current_schema()::regnamespace and obj_description(p.oid, 'pg_proc') is null""")
    assert [row[0] for row in rows] == []
    assert await db.fetchval("select count(*) from pg_proc where pronamespace = current_schema()::regnamespace") > 40


async def test_every_column_that_is_not_self_evident_has_a_comment(db: Connection) -> None:
    rows = await db.fetch(
        """
        select c.relname || '.' || a.attname from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attnum > 0
        where c.relnamespace = current_schema()::regnamespace and c.relkind = 'r' and c.relname <> 'schema_migrations'
          and not a.attisdropped and a.attname <> all($1) and col_description(c.oid, a.attnum) is null""",
        SELF_EVIDENT,
    )
    assert [row[0] for row in rows] == []


@pytest.mark.parametrize(
    ("query", "index"),
    [
        ("select * from payment_event_states where event_id = 'evt_1'", "payment_events_event_id_connection_key"),
        ("select * from payments where reference = 're_1'", "payments_reference_kind_connection_key"),
        ("select * from dead_letters where event_id = 'evt_1'", "dead_letters_event_id_connection_idx"),
        ("select * from invoice_references where reference = 'INV-1'", "invoice_references_pkey"),
    ],
)
async def test_what_a_person_has_at_hand_is_found_by_an_index(db: Connection, query: str, index: str) -> None:
    await db.execute("set enable_seqscan = off")
    plan = "\n".join(row[0] for row in await db.fetch(f"explain (costs off) {query}"))
    assert re.search(rf"{index}\b.*\n +Index Cond: \(\(?(\w+\.)?(event_id|reference) = ", plan), plan
