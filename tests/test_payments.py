"""What becomes of payment events: applied one by one, in batches and from the queue."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

import asyncpg
import pytest

from tests.calls import (
    Event,
    add_invoice,
    add_reference,
    apply,
    apply_all,
    apply_each,
    apply_together,
    assert_consistent,
    balance,
    counts,
    drain,
    enqueue,
    enqueue_all,
    enqueue_each,
    enqueue_together,
    outcomes,
    process,
    rows_of,
    whereabouts,
)
from tests.conftest import Connect, Connection
from tests.sessions import blocked

LARGEST_AMOUNT = 10**15
LARGEST_SUM = 10**18

Send = Callable[..., Awaitable[list[str]]]
one_by_one_and_together = pytest.mark.parametrize("send", [apply_each, apply_together])
queued_one_by_one_and_together = pytest.mark.parametrize("send", [enqueue_each, enqueue_together])


async def set_paid(db: Connection, invoice_id: int, paid: int) -> None:
    """Set a sum as only the owner, as whom nobody logs in, is able to."""
    await db.execute("select set_config('role', role_name('owner'), false)")
    await db.execute("update invoices set amount_paid = $2, status = 'paid' where id = $1", invoice_id, paid)
    await db.execute("reset role")


async def refuse_updates_of(db: Connection, invoice_id: int, *, deferred: bool = False) -> None:
    """Another engineer's trigger, which does not like one invoice to change."""
    kind = "constraint trigger" if deferred else "trigger"
    when = "deferrable initially deferred" if deferred else ""
    await db.execute(
        f"""
        create function audit_invoice() returns trigger language plpgsql as $$
        begin
            raise exception 'the auditor objects to invoice %', new.id;
        end $$;
        create {kind} audit_invoices after update on invoices {when}
        for each row when (new.id = {invoice_id}) execute function audit_invoice();
        """
    )


# What a user can do, in the words that they are promised.


async def test_a_dba_inserts_an_invoice_applies_an_event_and_reads_one_row(db: Connection) -> None:
    await db.execute("insert into invoices (id, amount, status) values (1, 10000, 'sent')")
    rows = await db.fetch("select * from apply_payment_event('event_12345', 1, 5000)")
    applied = {
        "event_id": "event_12345", "outcome": "applied", "invoice_id": 1, "status": "partially_paid", "amount": 10000,
        "currency": "USD", "paid": 5000, "refunded": 0, "charged_back": 0, "due": 5000, "overpaid": 0, "detail": None,
    }  # fmt: skip
    assert [dict(row) for row in rows] == [applied]

    before = await rows_of(db, "select * from invoices")
    rows = await db.fetch("select * from apply_payment_event('event_12345', 1, 5000)")
    assert [dict(row) for row in rows] == [applied | {"outcome": "duplicate"}]
    assert await rows_of(db, "select * from invoices") == before
    assert await counts(db, "payments", "payment_events", "payment_reports", "dead_letters") == [1, 1, 0, 0]


async def test_a_refund_that_names_only_its_payment_finds_the_invoice_through_it(db: Connection) -> None:
    await add_invoice(db, 1)
    await db.execute("select * from apply_payment_event('paid', 1, 10000, p_reference => 'pi_1')")
    row = await db.fetchrow(
        "select * from apply_payment_event('refunded', null, 2500, p_kind => 'refund', p_parent_reference => 'pi_1')"
    )
    assert row is not None
    assert (row["outcome"], row["invoice_id"], row["status"]) == ("applied", 1, "partially_refunded")
    assert await balance(db, 1) == ("partially_refunded", 10000, 2500, 0)


async def test_an_invoice_known_by_another_name_is_found_within_its_connection_only(db: Connection) -> None:
    await add_invoice(db, 7)
    await add_reference(db, "stripe", "INV-2026-001", 7)
    row = await apply(db, Event("e", connection="stripe", invoice_reference="INV-2026-001"))
    assert (row["outcome"], row["invoice_id"]) == ("applied", 7)
    assert await apply_each(db, [Event("e", connection="adyen", invoice_reference="INV-2026-001")]) == [
        "unknown_invoice"
    ]


async def test_an_invoice_reference_that_looks_like_an_id_is_not_taken_for_one(db: Connection) -> None:
    await add_invoice(db, 42)
    assert await apply_each(db, [Event("e", invoice_reference="42")]) == ["unknown_invoice"]


async def test_events_are_enqueued_and_drained(db: Connection) -> None:
    await add_invoice(db, 1)
    row = await db.fetchrow("select * from enqueue_payment_event('event_1', 1, 4000)")
    assert row is not None
    assert tuple(row) == ("event_1", "queued", 1, None)
    row = await db.fetchrow("select * from process_payment_queue(500)")
    assert row is not None
    last_id = await db.fetchval("select id from payment_events")
    assert dict(row) == {
        "claimed": 1, "applied": 1, "duplicates": 0, "parked": 0, "busy": 0, "failed": 0, "dead": 0, "released": 0,
        "last_id": last_id,
    }  # fmt: skip
    assert await balance(db, 1) == ("partially_paid", 4000, 0, 0)
    row = await process(db)
    assert (row["claimed"], row["released"], row["last_id"]) == (0, 0, None)
    await assert_consistent(db)


async def test_a_trigger_of_another_table_applies_payments_and_rolls_back_with_it(db: Connection) -> None:
    await add_invoice(db, 1)
    await db.execute("""
        create table bank_lines (id bigint primary key, invoice_id bigint, amount bigint);
        create function post_bank_line() returns trigger language plpgsql as $$
        begin
            perform apply_payment_event('line-' || new.id, new.invoice_id, new.amount, p_connection => 'bank');
            perform enqueue_payment_event('fee-' || new.id, new.invoice_id, 1, 'chargeback', p_connection => 'bank');
            return null;
        end $$;
        create trigger post_bank_line after insert on bank_lines for each row execute function post_bank_line();
    """)
    with pytest.raises(asyncpg.PostgresError, match="invoice 99 does not exist"):
        await db.execute("insert into bank_lines values (1, 1, 3000), (2, 1, 3000), (3, 99, 3000)")
    tables = ("bank_lines", "payments", "payment_events", "payment_queue", "dead_letters")
    assert await counts(db, *tables) == [0, 0, 0, 0, 0]
    assert await balance(db, 1) == ("sent", 0, 0, 0)

    await db.execute("insert into bank_lines values (1, 1, 3000), (2, 1, 3000)")
    await drain(db)
    assert await counts(db, *tables) == [2, 4, 4, 0, 0]
    assert await balance(db, 1) == ("charged_back", 6000, 0, 2)


async def test_a_procedure_keeps_what_it_applied_before_an_error_that_it_catches(db: Connection) -> None:
    await add_invoice(db, 1)
    await db.execute("""
        create procedure import_batches() language plpgsql as $$
        begin
            perform apply_payment_events(array['a', 'b'], array[1, 1], array[100, 200]);
            commit;
            begin
                perform apply_payment_events(array['c', 'd'], array[1, 1], array[400, 800]);
                perform enqueue_payment_events(array['e'], array[1], array[1600]);
                perform process_payment_queue();
                raise exception 'changed my mind';
            exception when raise_exception then null;
            end;
            perform apply_payment_event('c', 1, 400);
        end $$;
    """)
    await db.execute("call import_batches()")
    assert await rows_of(db, "select event_id from payments join payment_events using (id) order by 1") == [
        ("a",), ("b",), ("c",),
    ]  # fmt: skip
    assert await counts(db, "payment_events", "payment_queue") == [3, 0]
    assert await balance(db, 1) == ("partially_paid", 700, 0, 0)
    await assert_consistent(db)


async def test_what_a_rolled_back_transaction_applied_may_be_applied_again(db: Connection) -> None:
    await add_invoice(db, 1)
    transaction = db.transaction()
    await transaction.start()
    await apply(db, Event("e", 1, 4000, reference="r"))
    await enqueue(db, Event("q", 1, 4000))
    assert await balance(db, 1) == ("partially_paid", 4000, 0, 0)
    await transaction.rollback()
    assert await balance(db, 1) == ("sent", 0, 0, 0)
    assert (await apply(db, Event("e", 1, 4000, reference="r")))["outcome"] == "applied"
    assert await balance(db, 1) == ("partially_paid", 4000, 0, 0)
    assert await whereabouts(db, "q") is None


# Status: a function of the sums. An invoice of 10,000; after each event (kind, amount, movement) the status.

HISTORIES: dict[str, tuple[list[tuple[str, int, str, str]], tuple[int, int, int], tuple[int, int]]] = {
    "paid in parts": (
        [("payment", 4000, "p1", "partially_paid"), ("payment", 6000, "p2", "paid")],
        (10000, 0, 0), (0, 0),
    ),
    "a payment of one cent less": ([("payment", 9999, "p", "partially_paid")], (9999, 0, 0), (1, 0)),
    "an overpayment is kept, its refund leaves it paid": (
        [("payment", 12500, "p", "paid"), ("refund", 2500, "r1", "paid"), ("refund", 1, "r2", "partially_refunded")],
        (12500, 2501, 0), (1, 0),
    ),
    "overpaid in parts": (
        [("payment", 7000, "p1", "partially_paid"), ("payment", 7000, "p2", "paid")],
        (14000, 0, 0), (0, 4000),
    ),
    "refunded in parts": (
        [
            ("payment", 10000, "p", "paid"),
            ("refund", 2500, "r1", "partially_refunded"),
            ("refund", 7500, "r2", "refunded"),
        ],
        (10000, 10000, 0), (10000, 0),
    ),
    "a refund of more than was paid": (
        [("payment", 4000, "p", "partially_paid"), ("refund", 5000, "r", "refunded")],
        (4000, 5000, 0), (11000, 0),
    ),
    "a refund before any payment": (
        [("refund", 5000, "r", "sent"), ("payment", 10000, "p", "partially_refunded")],
        (10000, 5000, 0), (5000, 0),
    ),
    "a dispute lost, however small": (
        [("payment", 10000, "p", "paid"), ("chargeback", 1, "c", "charged_back")],
        (10000, 0, 1), (1, 0),
    ),
    "a dispute of a surplus": (
        [("payment", 20000, "p", "paid"), ("chargeback", 10000, "c", "paid")],
        (20000, 0, 10000), (0, 0),
    ),
    "a dispute won after all, and lost again": (
        [
            ("payment", 10000, "p", "paid"),
            ("chargeback", 10000, "c1", "charged_back"),
            ("chargeback_reversal", 10000, "c1", "paid"),
            ("chargeback", 10000, "c2", "charged_back"),
        ],
        (10000, 0, 10000), (10000, 0),
    ),
    "refunded and charged back": (
        [
            ("payment", 10000, "p", "paid"),
            ("refund", 10000, "r", "refunded"),
            ("chargeback", 10000, "c", "charged_back"),
            ("chargeback_reversal", 10000, "c", "refunded"),
            ("refund_reversal", 10000, "r", "paid"),
        ],
        (10000, 0, 0), (0, 0),
    ),
    "a refund that fails": (
        [
            ("payment", 10000, "p", "paid"),
            ("refund", 4000, "r", "partially_refunded"),
            ("refund_reversal", 4000, "r", "paid"),
        ],
        (10000, 0, 0), (0, 0),
    ),
    "a direct debit that bounces": (
        [
            ("payment", 10000, "p", "paid"),
            ("payment_reversal", 10000, "p", "sent"),
            ("payment", 3000, "p2", "partially_paid"),
        ],
        (3000, 0, 0), (7000, 0),
    ),
    "a reversal of a part": (
        [("payment", 10000, "p", "paid"), ("payment_reversal", 4000, "p", "partially_paid")],
        (6000, 0, 0), (4000, 0),
    ),
}  # fmt: skip


@pytest.mark.parametrize("history", HISTORIES)
async def test_status_and_sums_follow_every_event(db: Connection, history: str) -> None:
    steps, sums, (due, overpaid) = HISTORIES[history]
    for invoice_id in (1, 2, 3):
        await add_invoice(db, invoice_id)
    events = [
        Event(f"e{n}", 1, amount, kind, reference=movement) for n, (kind, amount, movement, _) in enumerate(steps)
    ]
    for event, (*_, status) in zip(events, steps, strict=True):
        assert await apply_each(db, [event]) == ["applied"]
        assert (await balance(db, 1))[0] == status
        assert await apply_together(db, [replace(event, invoice_id=2, connection="two")]) == ["applied"]
        assert (await balance(db, 2))[0] == status
    # All of it at once leaves the same.
    at_once = [replace(event, invoice_id=3, connection="three") for event in events]
    assert await apply_together(db, at_once) == ["applied"] * len(steps)
    for invoice_id in (1, 2, 3):
        assert await balance(db, invoice_id) == (steps[-1][3], *sums)
    assert await rows_of(db, "select due, overpaid from invoice_balances") == [(due, overpaid)] * 3
    await assert_consistent(db)


# Outcomes, from single calls and from one call with arrays.


@one_by_one_and_together
async def test_applied_then_duplicate(db: Connection, send: Send) -> None:
    await add_invoice(db, 1)
    event = Event("e", 1, 5000, "payment", "USD", reference="r")
    assert await send(db, [event, event]) == ["applied", "duplicate"]
    assert await send(db, [event]) == ["duplicate"]
    assert await balance(db, 1) == ("partially_paid", 5000, 0, 0)


@one_by_one_and_together
async def test_a_currency_left_out_of_one_report_is_no_other_content(db: Connection, send: Send) -> None:
    await add_invoice(db, 1)
    assert await send(db, [Event("e", 1), Event("e", 1, currency="USD")]) == ["applied", "duplicate"]


@one_by_one_and_together
async def test_what_is_refused_stores_nothing(db: Connection, send: Send) -> None:
    await add_invoice(db, 1)
    await add_invoice(db, 2)
    await set_paid(db, 2, LARGEST_SUM)
    refused = [
        (Event("a", 99), "unknown_invoice"),
        (Event("b", invoice_reference="INV-99"), "unknown_invoice"),
        (Event("c", 1, currency="EUR"), "currency_mismatch"),
        (Event("d", 2), "amount_out_of_range"),
        (Event("e", 1, 0), "invalid"),
    ]
    bodies = [replace(event, body=b"{}") for event, _ in refused]
    assert await send(db, bodies) == [outcome for _, outcome in refused]
    tables = ("payment_events", "payments", "payment_queue", "parked_events", "dead_letters", "deliveries")
    assert await counts(db, *tables) == [0, 0, 0, 0, 0, 0]


INVALID = [
    Event(None, 1),
    Event("", 1),
    Event("e" * 256, 1),
    Event("e", 1, None),
    Event("e", 1, 0),
    Event("e", 1, -1),
    Event("e", 1, LARGEST_AMOUNT + 1),
    Event("e", 1, kind="gift"),
    Event("e", 1, kind=""),
    Event("e", 1, currency="usd"),
    Event("e", 1, currency="USDT"),
    Event("e", 1, currency="US\n"),
    Event("e", 1, currency=""),
    Event("e", 1, connection=""),
    Event("e", 1, connection="Stripe"),
    Event("e", 1, connection="a" * 64),
    Event("e", 1, connection="stripe\n"),
    Event("e", 1, reference=""),
    Event("e", 1, reference="r" * 256),
    Event("e", 1, parent_reference=""),
    Event("e", 1, invoice_reference="x" * 256),
    Event("e"),
    Event("e", kind="refund", reference="r"),
    Event("e", 1, kind="refund_reversal"),
    Event("e", 1, kind="payment_reversal", parent_reference="r"),
]


@pytest.mark.parametrize("send", [apply_each, apply_together, enqueue_each, enqueue_together])
@pytest.mark.parametrize("park", [False, True])
async def test_an_invalid_event_is_refused_with_the_field_named_and_the_valid_ones_beside_it_are_not(
    db: Connection, send: Send, park: bool
) -> None:
    await add_invoice(db, 1)
    good = "applied" if send in (apply_each, apply_together) else "queued"
    events = [Event("before", 1), *INVALID, Event("after", 1)]
    assert await send(db, events, park=park) == [good, *["invalid"] * len(INVALID), good]
    assert await counts(db, "payment_events") == [2]


async def test_the_detail_of_an_invalid_event_names_its_field(db: Connection) -> None:
    fields = (
        "event_id",
        "amount",
        "kind",
        "currency",
        "connection",
        "reference",
        "parent_reference",
        "invoice_reference",
    )
    rows = await apply_all(db, INVALID)
    for event, row in zip(INVALID, rows, strict=True):
        assert row["detail"].startswith((*fields, "invoice_id")), (event, row["detail"])
    assert {row["detail"].split()[0] for row in rows} >= {*fields} - {"connection"}


@one_by_one_and_together
async def test_other_content_under_a_known_event_id_is_a_conflict_and_one_dead_letter(
    db: Connection, send: Send
) -> None:
    await add_invoice(db, 1)
    await add_invoice(db, 2)
    await add_reference(db, "direct", "INV-1", 1)
    first = Event("e", 1, 5000, "payment", "USD", reference="r")
    others = [
        replace(first, invoice_id=2),
        replace(first, invoice_id=None, invoice_reference="INV-1"),
        replace(first, amount=5001),
        replace(first, kind="refund"),
        replace(first, reference="s"),
        replace(first, reference=None),
    ]
    assert await send(db, [first, *others]) == ["applied", *["conflict"] * len(others)]
    assert await send(db, [*others, first]) == [*["conflict"] * len(others), "duplicate"]
    assert await balance(db, 1) == ("partially_paid", 5000, 0, 0)
    letters = await db.fetch("select * from open_dead_letters order by id")
    assert [(row["reason"], row["event_id"], row["payment_event_id"]) for row in letters] == [
        ("conflict", "e", None)
    ] * len(others)
    # An operator reads there what was reported.
    found = {
        (r["invoice_id"], r["invoice_reference"], r["amount"], r["kind"], r["reference"]) for r in await reports(db)
    }
    assert found == {(o.invoice_id, o.invoice_reference, o.amount, o.kind, o.reference) for o in others}
    await assert_consistent(db)


async def reports(db: Connection) -> list[asyncpg.Record]:
    return await db.fetch(
        "select r.* from open_dead_letters d, jsonb_populate_record(null::payment_events, d.report) r"
    )


@one_by_one_and_together
async def test_another_currency_under_a_known_event_id_is_a_conflict_not_a_mismatch(db: Connection, send: Send) -> None:
    await add_invoice(db, 1)
    events = [Event("e", 1, currency="USD"), Event("e", 1, currency="EUR")]
    assert await send(db, events) == ["applied", "conflict"]
    assert await counts(db, "open_dead_letters") == [1]


async def test_in_one_batch_the_first_in_input_order_wins_an_event_id(db: Connection) -> None:
    for invoice_id in (1, 2, 3):
        await add_invoice(db, invoice_id)
    events = [Event("e", 3, 300), Event("x", 1), Event("e", 1, 100), Event("e", 3, 300), Event("e", 2, 200)]
    assert await apply_together(db, events) == ["applied", "applied", "conflict", "duplicate", "conflict"]
    assert (await balance(db, 3))[1] == 300
    assert (await balance(db, 2))[1] == 0
    assert await enqueue_together(db, [replace(event, connection="queue") for event in events]) == [
        "queued", "queued", "conflict", "duplicate", "conflict",
    ]  # fmt: skip
    await drain(db)
    assert (await balance(db, 3))[1] == 600
    assert await counts(db, "open_dead_letters") == [4]
    await assert_consistent(db)


async def test_an_event_about_another_payment_under_a_known_event_id_never_moves_the_other_invoice(
    db: Connection,
) -> None:
    for number in (1, 2):
        await add_invoice(db, number)
        await apply(db, Event(f"p{number}", number, 5000, reference=f"pi_{number}"))
    first = Event("refund", amount=1000, kind="refund", parent_reference="pi_1")
    other = replace(first, parent_reference="pi_2")
    await enqueue(db, first)
    await apply_each(db, [other])
    await apply_together(db, [other])
    await drain(db)
    assert await balance(db, 1) == ("partially_refunded", 5000, 1000, 0)
    assert await balance(db, 2) == ("partially_paid", 5000, 0, 0)


@pytest.mark.parametrize(
    "refused", [Event("e", 1, currency="EUR"), Event("e", 1, currency="usd"), Event("e", 1, reference="")]
)
@pytest.mark.parametrize("send", [apply_each, apply_together, enqueue_each, enqueue_together])
async def test_an_event_that_was_refused_may_come_right_in_the_same_batch(
    db: Connection, send: Send, refused: Event
) -> None:
    await add_invoice(db, 1)
    right = Event("e", 1)
    outcome = "currency_mismatch" if refused.currency == "EUR" else "invalid"
    good = "applied" if send in (apply_each, apply_together) else "queued"
    assert await send(db, [refused, right, right]) == [outcome, good, "duplicate"]
    await assert_consistent(db)
    await drain(db)
    assert await balance(db, 1) == ("partially_paid", 100, 0, 0)


@one_by_one_and_together
async def test_an_amount_never_posts_in_another_currency_than_it_was_first_reported_in(
    db: Connection, send: Send
) -> None:
    await add_invoice(db, 1)
    assert await enqueue_each(db, [Event("e", 1, 700, currency="EUR")], park=True) == ["queued"]
    assert await send(db, [Event("e", 1, 700)]) == ["currency_mismatch"]
    await drain(db)
    assert await balance(db, 1) == ("sent", 0, 0, 0)
    assert await whereabouts(db, "e") == ("failed", "dead")
    await assert_consistent(db)


# One movement of money, reported by several events.


@one_by_one_and_together
async def test_two_events_that_report_one_movement_post_it_once(db: Connection, send: Send) -> None:
    await add_invoice(db, 1)
    first = Event("payment_intent.succeeded", 1, 5000, reference="pi_1")
    second = replace(first, event_id="charge.succeeded")
    assert await send(db, [first, second]) == ["applied", "duplicate"]
    assert await send(db, [second, first]) == ["duplicate", "duplicate"]
    assert await balance(db, 1) == ("partially_paid", 5000, 0, 0)
    rows = await rows_of(
        db,
        """
        select e.event_id, o.event_id as posted from payment_reports r
        join payment_events e on e.id = r.id join payment_events o on o.id = r.payment_id""",
    )
    assert rows == [("charge.succeeded", "payment_intent.succeeded")]
    assert await whereabouts(db, "charge.succeeded") == ("processed", "reported")
    await assert_consistent(db)


@one_by_one_and_together
async def test_two_reports_of_one_reversal_undo_its_base_once(db: Connection, send: Send) -> None:
    await add_invoice(db, 1)
    events = [
        Event("p", 1, 5000, reference="pi_1"),
        Event("bounced", amount=5000, kind="payment_reversal", reference="pi_1"),
        Event("failed", 1, 5000, kind="payment_reversal", reference="pi_1"),
    ]
    assert await send(db, events) == ["applied", "applied", "duplicate"]
    assert await balance(db, 1) == ("sent", 0, 0, 0)
    assert await whereabouts(db, "failed") == ("processed", "reported")


@one_by_one_and_together
async def test_one_reference_is_another_movement_for_another_kind_and_another_connection(
    db: Connection, send: Send
) -> None:
    await add_invoice(db, 1)
    events = [
        Event("a", 1, 5000, reference="x"),
        Event("b", 1, 100, kind="refund", reference="x"),
        Event("c", 1, 10, kind="chargeback", reference="x"),
        Event("a", 1, 600, reference="x", connection="stripe"),
    ]
    assert await send(db, events) == ["applied"] * 4
    assert (await balance(db, 1))[1:] == (5600, 100, 10)


@one_by_one_and_together
async def test_a_posted_movement_reported_with_another_amount_or_invoice_is_a_conflict(
    db: Connection, send: Send
) -> None:
    await add_invoice(db, 1)
    await add_invoice(db, 2)
    first = Event("first", 1, 5000, reference="r")
    amount = replace(first, event_id="amount", amount=5001)
    invoice = replace(first, event_id="invoice", invoice_id=2)
    assert await send(db, [first, amount, invoice]) == ["applied", "conflict", "conflict"]
    assert await send(db, [amount, invoice]) == ["dead", "dead"]
    assert await balance(db, 1) == ("partially_paid", 5000, 0, 0)
    assert await balance(db, 2) == ("sent", 0, 0, 0)
    assert await rows_of(db, "select event_id, reason, amount, invoice_id from open_dead_letters order by id") == [
        ("amount", "conflict", 5001, 1), ("invoice", "conflict", 5000, 2),
    ]  # fmt: skip
    assert await whereabouts(db, "amount") == ("failed", "dead")
    await assert_consistent(db)


@one_by_one_and_together
async def test_a_reversal_of_more_than_its_base_or_on_another_invoice_is_a_conflict(db: Connection, send: Send) -> None:
    await add_invoice(db, 1)
    await add_invoice(db, 2)
    events = [
        Event("p", 1, 5000, reference="r"),
        Event("more", 1, 5001, "payment_reversal", reference="r"),
        Event("elsewhere", 2, 5000, "payment_reversal", reference="r"),
        Event("right", 1, 5000, "payment_reversal", reference="r"),
    ]
    assert await send(db, events) == ["applied", "conflict", "conflict", "applied"]
    assert await balance(db, 1) == ("sent", 0, 0, 0)


@one_by_one_and_together
async def test_the_same_ids_from_two_connections_are_two_events(db: Connection, send: Send) -> None:
    await add_invoice(db, 1)
    events = [
        Event("evt_1", 1, 1000, reference="r"),
        Event("evt_1", 1, 2000, reference="r", connection="stripe"),
        Event("evt_1", 1, 4000, reference="r", connection="stripe-eu"),
        Event("evt_1", 1, 2000, reference="r", connection="stripe"),
    ]
    assert await send(db, events) == ["applied", "applied", "applied", "duplicate"]
    assert await balance(db, 1) == ("partially_paid", 7000, 0, 0)


@one_by_one_and_together
async def test_a_parent_or_a_base_of_another_connection_is_not_found(db: Connection, send: Send) -> None:
    await add_invoice(db, 1)
    events = [
        Event("p", 1, 5000, reference="r"),
        Event("x", amount=1, kind="refund", parent_reference="r", connection="stripe"),
        Event("y", amount=1, kind="payment_reversal", reference="r", connection="stripe"),
    ]
    assert await send(db, events) == ["applied", "parked", "parked"]


# Waiting: for an invoice, for a name of it, for a movement.


@one_by_one_and_together
async def test_a_refund_waits_for_the_payment_that_it_is_about(db: Connection, send: Send) -> None:
    await add_invoice(db, 1)
    refund = Event("r", amount=1000, kind="refund", parent_reference="pi_1")
    assert await send(db, [refund]) == ["parked"]
    assert await send(db, [refund]) == ["parked"]
    assert await whereabouts(db, "r") == ("pending", "parked")
    assert await send(db, [Event("p", 1, 5000, reference="pi_1")]) == ["applied"]
    assert await whereabouts(db, "r") == ("pending", "queued")
    await drain(db)
    assert await balance(db, 1) == ("partially_refunded", 5000, 1000, 0)
    assert await send(db, [refund]) == ["duplicate"]
    await assert_consistent(db)


@one_by_one_and_together
async def test_a_refund_that_fails_before_it_was_posted_adds_no_money(db: Connection, send: Send) -> None:
    await add_invoice(db, 1)
    failed = Event("failed", 1, 1000, "refund_reversal", reference="re_1")
    assert await send(db, [Event("p", 1, 5000), failed]) == ["applied", "parked"]
    assert await balance(db, 1) == ("partially_paid", 5000, 0, 0)
    assert await send(db, [Event("r", 1, 1000, "refund", reference="re_1")]) == ["applied"]
    await drain(db)
    assert await balance(db, 1) == ("partially_paid", 5000, 0, 0)
    assert await counts(db, "payments", "parked_events", "payment_queue") == [3, 0, 0]


@one_by_one_and_together
async def test_an_event_parked_for_its_invoice_is_applied_as_soon_as_it_is_sent_again(
    db: Connection, send: Send
) -> None:
    events = [Event("by id", 5), Event("by name", invoice_reference="INV-5")]
    assert await send(db, events, park=True) == ["parked", "parked"]
    assert await send(db, events) == ["parked", "parked"]
    await add_invoice(db, 5)
    await add_reference(db, "direct", "INV-5", 5)
    assert await send(db, events) == ["applied", "applied"]
    assert await counts(db, "parked_events", "payment_queue") == [0, 0]
    await drain(db)
    assert await balance(db, 5) == ("partially_paid", 200, 0, 0)


@one_by_one_and_together
async def test_an_event_that_is_parked_though_its_invoice_is_there_is_applied_and_parked_no_more(
    db: Connection, send: Send
) -> None:
    await send(db, [Event("e", 5)], park=True)
    # What happens when two transactions, one that parks and one that inserts, do not see each other.
    await db.execute("alter table invoices disable trigger invoices_release")
    await add_invoice(db, 5)
    assert await whereabouts(db, "e") == ("pending", "parked")
    assert await send(db, [Event("e", 5)]) == ["applied"]
    await assert_consistent(db)
    await drain(db)
    assert await counts(db, "payments", "parked_events") == [1, 0]


async def test_an_event_parked_for_its_invoice_is_queued_when_the_invoice_is_inserted(db: Connection) -> None:
    await apply_all(db, [Event("by id", 5), Event("by name", invoice_reference="INV-5"), Event("other", 6)], park=True)
    await add_invoice(db, 5)
    assert await whereabouts(db, "by id") == ("pending", "queued")
    assert await whereabouts(db, "by name") == ("pending", "parked")
    await add_reference(db, "direct", "INV-5", 5)
    assert await whereabouts(db, "by name") == ("pending", "queued")
    assert await whereabouts(db, "other") == ("pending", "parked")
    assert (await process(db))["applied"] == 2
    await assert_consistent(db)


async def test_in_one_batch_what_refers_to_a_movement_may_follow_it(db: Connection) -> None:
    await add_invoice(db, 1)
    events = [
        Event("p", 1, 5000, reference="pi_1"),
        Event("r", amount=1000, kind="refund", reference="re_1", parent_reference="pi_1"),
        Event("f", amount=1000, kind="refund_reversal", reference="re_1"),
        Event("c", amount=5000, kind="chargeback", reference="dp_1", parent_reference="pi_1"),
    ]
    assert await apply_together(db, events) == ["applied"] * 4
    assert await balance(db, 1) == ("charged_back", 5000, 0, 5000)


async def test_in_one_batch_what_precedes_its_movement_is_queued_behind_it(db: Connection) -> None:
    await add_invoice(db, 1)
    events = [
        Event("f", amount=1000, kind="refund_reversal", reference="re_1"),
        Event("r", amount=1000, kind="refund", reference="re_1", parent_reference="pi_1"),
        Event("p", 1, 5000, reference="pi_1"),
    ]
    assert await apply_together(db, events) == ["parked", "parked", "applied"]
    await drain(db)
    assert await balance(db, 1) == ("partially_paid", 5000, 0, 0)
    assert await counts(db, "payments") == [3]


# The queue and the synchronous calls meet.


@one_by_one_and_together
async def test_an_event_still_queued_is_applied_and_the_queue_drains_without_posting_it_again(
    db: Connection, send: Send
) -> None:
    await add_invoice(db, 1)
    event = Event("e", 1, 4000)
    assert await enqueue_each(db, [event]) == ["queued"]
    assert await send(db, [event]) == ["applied"]
    await drain(db)
    assert await balance(db, 1) == ("partially_paid", 4000, 0, 0)
    assert await send(db, [event]) == ["duplicate"]
    assert await counts(db, "payments", "payment_queue") == [1, 0]
    await assert_consistent(db)


async def test_an_event_applied_while_a_worker_holds_its_queue_row_is_a_duplicate_to_the_worker(
    db: Connection, connect: Connect
) -> None:
    await add_invoice(db, 1)
    event = Event("e", 1, 4000)
    await enqueue(db, event)
    worker = await connect()
    transaction = worker.transaction()
    await transaction.start()
    claimed = await worker.fetchval("select claim_payment_events()")
    assert (await apply(db, event))["outcome"] == "applied"
    row = await worker.fetchrow("select * from process_claimed_events($1)", claimed)
    await transaction.commit()
    assert row is not None
    assert (row["claimed"], row["applied"], row["duplicates"]) == (1, 0, 1)
    assert await counts(db, "payments", "payment_queue") == [1, 0]
    assert await balance(db, 1) == ("partially_paid", 4000, 0, 0)


@queued_one_by_one_and_together
async def test_enqueued_again_it_is_a_duplicate_whether_queued_or_posted(db: Connection, send: Send) -> None:
    await add_invoice(db, 1)
    event = Event("e", 1)
    assert await send(db, [event, event]) == ["queued", "duplicate"]
    assert await send(db, [event]) == ["duplicate"]
    assert await counts(db, "payment_queue") == [1]
    await drain(db)
    assert await send(db, [event]) == ["duplicate"]
    assert await counts(db, "payment_queue") == [0]
    assert await balance(db, 1) == ("partially_paid", 100, 0, 0)


@queued_one_by_one_and_together
async def test_enqueued_again_a_parked_or_a_dead_event_says_so(db: Connection, send: Send) -> None:
    await add_invoice(db, 1)
    parked, dead = Event("parked", 99), Event("dead", 1, currency="EUR")
    assert await send(db, [parked, dead], park=True) == ["queued", "queued"]
    await drain(db)
    assert await send(db, [parked, dead], park=True) == ["parked", "dead"]
    assert await send(db, [parked, dead]) == ["parked", "dead"]
    assert await counts(db, "payment_queue") == [0]


@queued_one_by_one_and_together
async def test_the_queue_refuses_what_could_never_be_applied_unless_it_may_park(db: Connection, send: Send) -> None:
    await add_invoice(db, 1)
    events = [Event("a", 99), Event("b", 1, currency="EUR"), Event("c", invoice_reference="INV-9"), Event("d", 1, -5)]
    assert await send(db, events) == ["unknown_invoice", "currency_mismatch", "unknown_invoice", "invalid"]
    assert await counts(db, "payment_events") == [0]
    assert await send(db, events, park=True) == ["queued", "queued", "queued", "invalid"]
    row = await process(db)
    assert (row["claimed"], row["parked"], row["dead"]) == (3, 2, 1)
    assert await whereabouts(db, "a") == ("pending", "parked")
    assert await whereabouts(db, "b") == ("failed", "dead")
    assert await whereabouts(db, "c") == ("pending", "parked")
    await assert_consistent(db)


@queued_one_by_one_and_together
async def test_other_content_under_an_enqueued_event_id_is_a_conflict(db: Connection, send: Send) -> None:
    await add_invoice(db, 1)
    events = [Event("e", 1, 100), Event("e", 1, 101)]
    assert await send(db, events) == ["queued", "conflict"]
    assert await send(db, events[1:]) == ["conflict"]
    assert await counts(db, "open_dead_letters", "payment_queue") == [1, 1]


@one_by_one_and_together
async def test_a_dead_event_says_so_and_stays_dead(db: Connection, send: Send) -> None:
    await add_invoice(db, 1)
    event = Event("e", 1, currency="EUR")
    assert await send(db, [event, event], park=True) == ["currency_mismatch", "dead"]
    assert await send(db, [event]) == ["dead"]
    row = (await apply_all(db, [event]))[0]
    assert row["detail"] == "currency_mismatch: the event is in EUR, invoice 1 in USD"
    assert await counts(db, "open_dead_letters") == [1]


async def test_an_event_whose_invoice_is_locked_is_busy_alone_and_stores_nothing(
    db: Connection, connect: Connect
) -> None:
    await add_invoice(db, 1)
    await add_invoice(db, 2)
    holder = await connect()
    transaction = holder.transaction()
    await transaction.start()
    await holder.execute("update invoices set amount = 20000 where id = 1")
    rows = await apply_all(db, [Event("a", 1), Event("b", 2)], wait=False)
    assert outcomes(rows) == ["busy", "applied"]
    assert rows[0]["detail"] == "invoice 1 is locked by another transaction"
    assert await whereabouts(db, "a") is None

    await db.execute("set lock_timeout = '30ms'")
    with pytest.raises(asyncpg.LockNotAvailableError):
        await apply(db, Event("a", 1))
    await transaction.commit()
    assert outcomes(await apply_all(db, [Event("a", 1)], wait=False)) == ["applied"]


async def test_a_worker_defers_events_of_a_locked_invoice_and_counts_no_attempt(
    db: Connection, connect: Connect
) -> None:
    await add_invoice(db, 1)
    await add_invoice(db, 2)
    await enqueue_all(db, [Event("a", 1), Event("b", 2), Event("c", 1)])
    holder = await connect()
    transaction = holder.transaction()
    await transaction.start()
    await holder.execute("select from invoices where id = 1 for update")
    row = await process(db)
    assert (row["claimed"], row["applied"], row["busy"]) == (3, 1, 2)
    assert (
        await rows_of(db, "select attempts, last_error, next_attempt_at > now() from payment_queue")
        == [(0, None, True)] * 2
    )
    await transaction.commit()
    await db.execute("update payment_queue set next_attempt_at = now()")
    assert (await process(db))["applied"] == 2


@pytest.mark.parametrize("beside", [None, Event("e", 1, 0), Event("invalid", 1, 0)])
async def test_an_event_that_another_stores_while_the_call_waits_for_its_invoice_posts_once(
    db: Connection, connect: Connect, beside: Event | None
) -> None:
    await add_invoice(db, 1)
    caller, other = await connect(), await connect()
    transaction = db.transaction()
    await transaction.start()
    await db.execute("select from invoices where id = 1 for update")
    events = [Event("e", 1)] if beside is None else [beside, Event("e", 1)]
    call = await blocked(other, caller, apply_together(caller, events))
    await enqueue(other, Event("e", 1))
    await transaction.commit()
    assert (await call)[-1] == "applied"
    await drain(db)
    assert await balance(db, 1) == ("partially_paid", 100, 0, 0)
    assert await rows_of(db, "select event_id from payments left join payment_events using (id)") == [("e",)]
    await assert_consistent(db)


# One bad event among 500 good ones.

BAD = "the bad one"
BAD_EVENTS = {
    "unknown invoice": Event(BAD, 999),
    "wrong currency": Event(BAD, 250, currency="EUR"),
    "event id used before": Event("used before", 250, 101),
    "movement with another amount": Event(BAD, 250, 101, reference="posted before"),
    "sum over the limit": Event(BAD, 251),
    "a trigger that raises": Event(BAD, 252),
    "a deferred constraint trigger that raises": Event(BAD, 252),
}
REFUSED = {
    "unknown invoice": "unknown_invoice", "wrong currency": "currency_mismatch", "event id used before": "conflict",
    "movement with another amount": "conflict", "sum over the limit": "amount_out_of_range",
    "a trigger that raises": "failed", "a deferred constraint trigger that raises": "failed",
}  # fmt: skip
DEAD_REASONS = {
    "wrong currency": "currency_mismatch", "event id used before": "conflict",
    "movement with another amount": "conflict", "sum over the limit": "amount_out_of_range",
}  # fmt: skip


async def prepare_500(db: Connection, sort: str) -> list[Event]:
    """500 events over as many invoices, the bad one in the middle."""
    await db.execute("insert into invoices (id, amount) select n, 10000 from generate_series(1, 500) n")
    await apply(db, Event("used before", 400))
    await apply(db, Event("posted", 400, reference="posted before"))
    await set_paid(db, 251, LARGEST_SUM - 99)
    if "trigger" in sort:
        await refuse_updates_of(db, 252, deferred="deferred" in sort)
    # The invoices of bad events get no good ones, so that what a bad one moved would show.
    good = [Event(f"good {number}", number % 240 + 1) for number in range(499)]
    return [*good[:333], BAD_EVENTS[sort], *good[333:]]


async def assert_499_applied(db: Connection) -> None:
    assert (
        await db.fetchval("select count(*) from payments join payment_events using (id) where event_id ~ '^good'")
        == 499
    )
    assert await db.fetchval("select sum(amount_paid) from invoices where id <= 240") == 49900
    assert await db.fetchval("select sum(amount_paid) from invoices where id in (250, 252)") == 0
    assert await db.fetchval("select amount_paid from invoices where id = 251") == LARGEST_SUM - 99
    assert await rows_of(db, "select * from misplaced_events()") == []


async def assert_an_operator_finds_the_bad_one(db: Connection, sort: str) -> None:
    """As a dead letter, as parked, or as failed with its error and the next attempt."""
    event_id = BAD_EVENTS[sort].event_id
    if sort in DEAD_REASONS:
        assert await rows_of(db, "select reason, event_id from open_dead_letters") == [(DEAD_REASONS[sort], event_id)]
        assert await counts(db, "waiting_events") == [0]
        return
    row = await db.fetchrow("select place, event_id, detail from waiting_events")
    assert row is not None
    assert (row["place"], row["event_id"]) == ("parked" if sort == "unknown invoice" else "queued", event_id)
    reason = "waits for invoice 999" if sort == "unknown invoice" else "the auditor objects to invoice 252"
    assert reason in row["detail"]
    assert await counts(db, "open_dead_letters") == [0]


@pytest.mark.parametrize("sort", BAD_EVENTS)
async def test_one_bad_event_of_500_is_refused_alone(db: Connection, sort: str) -> None:
    rows = await apply_all(db, await prepare_500(db, sort))
    assert [(n, row["outcome"]) for n, row in enumerate(rows) if row["outcome"] != "applied"] == [(333, REFUSED[sort])]
    assert rows[333]["detail"]
    await assert_499_applied(db)
    # What is refused is the caller's to keep, but a conflict is money reported twice: a person has to see it.
    assert await rows_of(db, "select reason from open_dead_letters") == [("conflict",)] * (REFUSED[sort] == "conflict")
    assert await counts(db, "waiting_events") == [0]


@pytest.mark.parametrize("sort", BAD_EVENTS)
async def test_one_bad_event_of_500_is_kept_alone_when_it_may_park(db: Connection, sort: str) -> None:
    rows = await apply_all(db, await prepare_500(db, sort), park=True)
    kept = {"unknown_invoice": "parked", "failed": "queued"}.get(REFUSED[sort], REFUSED[sort])
    assert [(n, row["outcome"]) for n, row in enumerate(rows) if row["outcome"] != "applied"] == [(333, kept)]
    await assert_499_applied(db)
    await assert_an_operator_finds_the_bad_one(db, sort)


@pytest.mark.parametrize("sort", BAD_EVENTS)
async def test_one_bad_event_of_500_in_the_queue_is_set_aside_alone(db: Connection, sort: str) -> None:
    rows = await enqueue_all(db, await prepare_500(db, sort), park=True)
    refused = [(333, "conflict")] if sort == "event id used before" else []
    assert [(n, row["outcome"]) for n, row in enumerate(rows) if row["outcome"] != "queued"] == refused
    row = await process(db)
    assert (row["applied"], row["busy"], row["duplicates"]) == (499, 0, 0)
    assert (row["parked"], row["failed"], row["dead"]) == (
        sort == "unknown invoice", "trigger" in sort, sort in DEAD_REASONS and not refused,
    )  # fmt: skip
    await assert_499_applied(db)
    await assert_an_operator_finds_the_bad_one(db, sort)


@pytest.mark.parametrize("deferred", [False, True])
async def test_a_failing_event_is_retried_later_and_later_and_then_dead_with_its_last_error(
    db: Connection, deferred: bool
) -> None:
    await add_invoice(db, 1)
    await refuse_updates_of(db, 1, deferred=deferred)
    await enqueue(db, Event("e", 1))
    for attempt in (1, 2, 3):
        async with db.transaction():  # now() is one time in there, so the delay is exact
            row = await process(db, max_attempts=4)
            assert (row["claimed"], row["failed"], row["dead"]) == (1, 1, 0)
            queued = await db.fetchrow(
                "select attempts, last_error, extract(epoch from next_attempt_at - now()) as delay from payment_queue"
            )
            assert queued is not None
        assert queued["attempts"] == attempt
        assert queued["last_error"] == "the auditor objects to invoice 1 (SQLSTATE P0001)"
        assert 0.5 <= queued["delay"] / 2 ** (attempt - 1) <= 1.5
        assert (await process(db, max_attempts=4))["claimed"] == 0, "it is not due yet"
        await db.execute("update payment_queue set next_attempt_at = now()")
    row = await process(db, max_attempts=4)
    assert (row["claimed"], row["failed"], row["dead"]) == (1, 1, 1)
    assert await rows_of(db, "select event_id, reason, attempts, detail from open_dead_letters") == [
        ("e", "attempts_exhausted", 4, "the auditor objects to invoice 1 (SQLSTATE P0001)")
    ]
    assert await counts(db, "payment_queue") == [0]
    assert await balance(db, 1) == ("sent", 0, 0, 0)
    await assert_consistent(db)


async def test_the_delay_between_attempts_ends_at_an_hour(db: Connection) -> None:
    await add_invoice(db, 1)
    await enqueue(db, Event("e", 1))
    await db.execute("update payment_queue set attempts = 1000")
    async with db.transaction():
        assert await db.fetchval("select fail_payment_event(id, 'x', 2000) from payment_queue") is False
        delay = await db.fetchval("select extract(epoch from next_attempt_at - now()) from payment_queue")
    assert 1800 <= delay <= 5400


async def test_what_failed_before_is_claimed_apart_from_what_is_fresh(db: Connection) -> None:
    await add_invoice(db, 1)
    await enqueue_all(db, [Event("failed", 1), Event("fresh", 1)])
    ids = [row["id"] for row in await db.fetch("select id from payment_events order by id")]
    await db.execute("update payment_queue set attempts = 1 where id = $1", ids[0])
    assert await db.fetchval("select claim_payment_events()") == [ids[1]]
    assert await db.fetchval("select claim_payment_events(p_retries => true)") == [ids[0]]
    assert await db.fetchval("select claim_payment_events(p_retries => false, p_after => $1)", ids[1]) == []
    assert (await process(db))["claimed"] == 1
    assert (await process(db))["claimed"] == 1


async def test_a_claim_reads_no_more_than_its_batch_whatever_the_planner_knows_of_the_queue(db: Connection) -> None:
    """A queue that was empty when last analyzed seems to hold one row, which a bitmap and a sort would find too."""
    await db.execute("analyze payment_queue")
    await db.execute("insert into payment_queue (id) select generate_series(1, 5000)")
    async with db.transaction():
        assert len(await db.fetchval("select claim_payment_events(50)")) == 50
        read = "select idx_tup_fetch from pg_stat_xact_user_tables where relid = 'payment_queue'::regclass"
        assert 50 <= await db.fetchval(read) <= 150


async def test_other_content_behind_an_event_that_failed_in_the_same_batch_does_not_take_its_place(
    db: Connection,
) -> None:
    await add_invoice(db, 1)
    await add_invoice(db, 2)
    await refuse_updates_of(db, 1)
    rows = await apply_all(db, [Event("e", 1, 100), Event("e", 2, 200)], park=True)
    assert outcomes(rows) == ["queued", "conflict"]
    assert await whereabouts(db, "e") == ("pending", "queued")
    assert await balance(db, 2) == ("sent", 0, 0, 0)
    assert await counts(db, "open_dead_letters") == [1]


async def test_many_failing_events_of_one_batch_end_within_bounds(db: Connection) -> None:
    await db.execute("insert into invoices (id, amount) select n, 10000 from generate_series(1, 100) n")
    await db.execute("""
        create function refuse() returns trigger language plpgsql as $$ begin raise exception 'no'; end $$;
        create trigger refuse after update on invoices for each row when (new.id % 2 = 0) execute function refuse();
    """)
    await enqueue_all(db, [Event(f"e{number}", number) for number in range(1, 101)])
    seen = 0
    for _ in range(20):
        row = await process(db)
        seen += row["applied"] + row["failed"]
        if row["busy"]:
            assert row["applied"] + row["failed"] > 0, "each call gets on"
            await db.execute("update payment_queue set next_attempt_at = now() where attempts = 0")
        if seen == 100:
            break
    assert await counts(db, "payments") == [50]
    assert await rows_of(db, "select distinct attempts from payment_queue") == [(1,)]
    assert await counts(db, "payment_queue") == [50]


# Bodies.


@pytest.mark.parametrize("send", [apply_each, apply_together, enqueue_each, enqueue_together])
async def test_a_body_is_kept_once_and_only_for_what_is_new(db: Connection, send: Send) -> None:
    await add_invoice(db, 1)
    first = Event("e", 1, reference="r", body=b'{"n": 1}\x00\xff', content_type="application/json")
    report = replace(first, event_id="second report", body=b"second report")
    conflict = replace(first, amount=101, body=b"conflict", content_type=None)
    again = [first, report, conflict, replace(first, body=b"first again"), replace(conflict, body=b"conflict again")]
    await send(db, again)
    await send(db, again)
    rows = await rows_of(db, "select connection, content_type, body from deliveries order by id")
    assert rows == [
        ("direct", "application/json", b'{"n": 1}\x00\xff'),
        ("direct", "application/json", b"second report"),
        ("direct", None, b"conflict"),
    ]
    assert (
        await db.fetchval(
            "select body from deliveries d join payment_events e on e.delivery_id = d.id where event_id = 'e'"
        )
        == first.body
    )
    assert (
        await db.fetchval("select d.body from deliveries d join open_dead_letters o on o.delivery_id = d.id")
        == b"conflict"
    )


@pytest.mark.parametrize("call", ["apply_payment_events", "enqueue_payment_events"])
async def test_several_events_of_one_request_share_its_body(db: Connection, call: str) -> None:
    await add_invoice(db, 1)
    sql = f"""select * from {call}(array['a', 'b', 'c', 'd'], array[1, 1, 1, 1], array[1, 2, 3, 4],
              p_bodies => array['first', 'second', 'unused']::bytea[],
              p_content_types => array['text/x', 'text/y', 'text/z'],
              p_deliveries => array[1, 2, 1, null])"""  # noqa: S608 - one of two names
    await db.fetch(sql)
    await db.fetch(sql)
    rows = await rows_of(
        db,
        """
        select e.event_id, d.body, d.content_type
        from payment_events e left join deliveries d on d.id = e.delivery_id order by 1""",
    )
    assert rows[:3] == [("a", b"first", "text/x"), ("b", b"second", "text/y"), ("c", b"first", "text/x")]
    assert await counts(db, "deliveries") == [2]


@pytest.mark.parametrize("apply_them", [apply_all, enqueue_all])
async def test_an_event_without_a_body_may_stand_beside_one_with(
    db: Connection, apply_them: Callable[[Connection, Sequence[Event]], Awaitable[list[asyncpg.Record]]]
) -> None:
    await add_invoice(db, 1)
    rows = await apply_them(db, [Event("with", 1, body=b"x"), Event("without", 1)])
    assert len({row["outcome"] for row in rows}) == 1
    assert await counts(db, "payment_events", "deliveries") == [2, 1]


async def test_a_body_comes_with_a_parked_and_with_a_failed_event(db: Connection) -> None:
    await add_invoice(db, 1)
    await refuse_updates_of(db, 1)
    rows = await apply_all(db, [Event("parked", 99, body=b"parked"), Event("failed", 1, body=b"failed")], park=True)
    assert outcomes(rows) == ["parked", "queued"]
    bodies = await rows_of(
        db, "select event_id, body from payment_events e join deliveries d on d.id = delivery_id order by 1"
    )
    assert bodies == [("failed", b"failed"), ("parked", b"parked")]


async def test_a_body_is_kept_only_with_its_event_even_where_very_many_raise(db: Connection) -> None:
    await add_invoice(db, 1)
    await refuse_updates_of(db, 1)
    rows = await apply_all(db, [Event(f"e{number}", 1, body=b"x") for number in range(100)], park=True)
    assert {"queued", "busy"} == set(outcomes(rows))
    assert await counts(db, "deliveries") == await counts(db, "payment_events")


@pytest.mark.parametrize("bodies", ["'[0:1]={a,b}'", "array[['a', 'b']]"])
@pytest.mark.parametrize("call", ["apply_payment_events", "enqueue_payment_events"])
async def test_bodies_that_could_not_be_told_apart_are_refused(db: Connection, call: str, bodies: str) -> None:
    await add_invoice(db, 1)
    sql = f"select * from {call}(array['e1', 'e2'], array[1, 1], array[5, 5], p_bodies => {bodies}::bytea[])"  # noqa: S608 - constants
    with pytest.raises(asyncpg.ArraySubscriptError, match="begin at 1"):
        await db.fetch(sql)


# Arrays.


@pytest.mark.parametrize("call", ["apply_payment_events", "enqueue_payment_events"])
@pytest.mark.parametrize("park", [False, True])
async def test_empty_arrays_are_no_events(db: Connection, call: str, park: bool) -> None:
    for arrays in ("'{}'", "'{}', '{}', '{}'", "null", "'{}', p_bodies => '{}', p_deliveries => '{}'"):
        assert await rows_of(db, f"select * from {call}({arrays}, p_park => {park})") == []  # noqa: S608 - see above
    assert (await process(db))["claimed"] == 0
    assert await counts(db, "payment_events", "payment_queue") == [0, 0]


async def test_null_elements_and_missing_arrays_take_their_defaults(db: Connection) -> None:
    await add_invoice(db, 1)
    rows = await db.fetch("""
        select * from apply_payment_events(array['a', 'b', null, 'd'], array[1, 1, 1], array[100, 200, 300, 400],
                                           p_kinds => array[null, 'refund'], p_connections => array['x', null])""")
    assert outcomes(rows) == ["applied", "applied", "invalid", "invalid"]
    assert await rows_of(db, "select connection, event_id, kind, currency from payment_events order by id") == [
        ("x", "a", "payment", None), ("direct", "b", "refund", None),
    ]  # fmt: skip


async def test_one_row_comes_back_for_each_event_in_input_order_with_its_invoice(db: Connection) -> None:
    await db.execute("insert into invoices (id, amount) select n, 1000 from generate_series(1, 50) n")
    events = [Event(f"e{(number * 7919) % 300}", (number * 31) % 50 + 1, number % 9) for number in range(300)]
    rows = await apply_all(db, events)
    assert [row["event_id"] for row in rows] == [event.event_id for event in events]
    for event, row in zip(events, rows, strict=True):
        assert row["outcome"] == ("applied" if event.amount else "invalid")
        assert row["invoice_id"] == event.invoice_id


# Limits.


async def test_the_largest_amount_fits_and_the_largest_sum_is_reached_and_not_passed(db: Connection) -> None:
    await add_invoice(db, 1, LARGEST_AMOUNT)
    await set_paid(db, 1, LARGEST_SUM - LARGEST_AMOUNT)
    assert await apply_each(db, [Event("a", 1, LARGEST_AMOUNT), Event("b", 1, 1)]) == ["applied", "amount_out_of_range"]
    rows = await rows_of(db, "select paid, due, overpaid from invoice_balances")
    assert rows == [(LARGEST_SUM, 0, LARGEST_SUM - LARGEST_AMOUNT)]
    with pytest.raises(asyncpg.CheckViolationError):
        await add_invoice(db, 2, LARGEST_AMOUNT + 1)


async def test_in_a_batch_near_the_limit_each_event_that_still_fits_is_applied(db: Connection) -> None:
    await add_invoice(db, 1)
    await set_paid(db, 1, LARGEST_SUM - 10)
    events = [
        Event("a", 1, 8, reference="a"),
        Event("b", 1, 4),
        Event("c", 1, 2),
        Event("d", 1, 1),
        Event("e", 1, 8, "payment_reversal", reference="a"),
        Event("f", 1, 4),
    ]
    assert await apply_together(db, events) == [
        "applied", "amount_out_of_range", "applied", "amount_out_of_range", "applied", "applied",
    ]  # fmt: skip
    assert (await balance(db, 1))[1] == LARGEST_SUM - 4


async def test_a_thousand_of_the_largest_amounts_in_one_batch_are_summed_without_overflow(db: Connection) -> None:
    await add_invoice(db, 1)
    rows = await apply_all(db, [Event(f"e{number}", 1, LARGEST_AMOUNT) for number in range(1002)])
    assert outcomes(rows) == ["applied"] * 1000 + ["amount_out_of_range"] * 2
    assert (await balance(db, 1))[1] == LARGEST_SUM
    assert await rows_of(db, "select * from invoice_discrepancies()") == []


async def test_a_batch_of_thousands_is_one_batch_and_keeps_the_order(db: Connection) -> None:
    await add_invoice(db, 1)
    await apply(db, Event("first", 1, 1))
    many = [Event(f"g{number}", 1, 1) for number in range(9_300)]
    await db.execute("set track_functions = 'pl'")
    async with db.transaction():
        assert outcomes(await apply_all(db, many)) == ["applied"] * len(many)
        calls = "select calls from pg_stat_xact_user_functions where funcname = 'apply_batch'"
        assert await db.fetchval(calls) == 1
    later = [replace(event, event_id=f"h{event.event_id}") for event in many]
    await enqueue_all(db, [Event("z", 1, 100, reference="M"), Event("a", 1, 200, reference="M"), *later])
    assert (await process(db, 10_000))["applied"] == len(many) + 1
    assert await whereabouts(db, "z") == ("processed", "posted")
    assert await whereabouts(db, "a") == ("failed", "dead")


# Triggers of others that keep back what we write.


@pytest.mark.parametrize(("event", "table"), [("update", "invoices"), ("insert", "payments")])
@pytest.mark.parametrize("queued", [False, True])
async def test_a_trigger_that_forgets_to_return_new_fails_its_event_alone(
    db: Connection, event: str, table: str, queued: bool
) -> None:
    await add_invoice(db, 1)
    await add_invoice(db, 2)
    kept_back = "new.id = 1" if table == "invoices" else "new.invoice_id = 1"
    await db.execute(f"""
        create function forget() returns trigger language plpgsql as 'begin return null; end';
        create trigger forget before {event} on {table} for each row when ({kept_back}) execute function forget();
        """)
    events = [Event("e1", 1), Event("e2", 2), Event("e3", 1)]
    if queued:
        await enqueue_all(db, events)
        row = await process(db)
        assert (row["applied"], row["failed"]) == (1, 2)
    else:
        rows = await apply_all(db, events)
        assert outcomes(rows) == ["failed", "applied", "failed"]
        assert "09000" in rows[0]["detail"]
    assert await balance(db, 1) == ("sent", 0, 0, 0)
    assert await rows_of(db, "select * from invoice_discrepancies()") == []
    await db.execute(f"drop trigger forget on {table}")
    assert set(outcomes(await apply_all(db, events))) <= {"applied", "duplicate"}
    assert (await balance(db, 1))[1] == 200


@pytest.mark.parametrize("table", ["payment_events", "payment_queue", "parked_events"])
async def test_what_a_trigger_keeps_from_being_stored_is_not_acknowledged(db: Connection, table: str) -> None:
    await add_invoice(db, 1)
    await db.execute(f"""
        create function forget() returns trigger language plpgsql as 'begin return null; end';
        create trigger forget before insert on {table} for each row execute function forget();
        """)
    if table == "parked_events":  # it is worked on again later, as an event at which a trigger raises
        assert outcomes(await apply_all(db, [Event("e1", 7)], park=True)) == ["queued"]
    else:
        with pytest.raises(asyncpg.PostgresError, match=f"a trigger on {table} kept a row"):
            await enqueue_all(db, [Event("e1", 1)], park=True)
    assert outcomes(await apply_all(db, [Event("e2", 1)])) == ["failed" if table == "payment_events" else "applied"]
    await assert_consistent(db)


@pytest.mark.parametrize(
    "call",
    [
        "select look_at_parked_events(p_park_days => 0)",
        "select fail_payment_event(1, 'x', 1)",
        "select apply_payment_event('c', 2, 100, p_currency => 'EUR', p_park => true)",
    ],
)
async def test_a_letter_that_a_trigger_keeps_back_buries_nothing(db: Connection, call: str) -> None:
    await add_invoice(db, 2)
    if "fail" in call:
        await enqueue(db, Event("e", 2))
    else:
        await apply(db, Event("e", 1), park=True)
    await db.execute("""
        create function forget() returns trigger language plpgsql as 'begin return null; end';
        create trigger forget before insert on dead_letters for each row execute function forget();
        """)
    with pytest.raises(asyncpg.PostgresError, match="a trigger on dead_letters kept a row"):
        await db.execute(call)
    await assert_consistent(db)


async def test_a_trigger_on_parked_events_may_bring_the_invoice(db: Connection) -> None:
    await db.execute("""
        create function bring() returns trigger language plpgsql security definer set search_path from current as $$
        begin
            insert into invoices (id, amount) values (new.invoice_id, 1000) on conflict do nothing;
            return null;
        end $$;
        create trigger bring after insert on parked_events for each row execute function bring();
    """)
    await apply(db, Event("sync", 1), park=True)
    await enqueue(db, Event("queued", 2), park=True)
    await drain(db)
    assert await whereabouts(db, "sync") == await whereabouts(db, "queued") == ("processed", "posted")


async def test_what_names_no_known_invoice_and_always_fails_dies_too(db: Connection) -> None:
    await db.execute("""
        create function refuse() returns trigger language plpgsql as $$ begin raise exception 'no'; end $$;
        create trigger refuse before insert on parked_events for each row execute function refuse();
    """)
    await enqueue(db, Event("e", 9), park=True)
    await db.execute("update payment_queue set attempts = 1024")  # after six weeks
    assert (await process(db, max_attempts=10_000))["failed"] == 1
    await db.execute("update payment_queue set next_attempt_at = now()")
    await process(db, max_attempts=1)
    assert await whereabouts(db, "e") == ("failed", "dead")


async def test_what_is_refused_stores_nothing_after_a_refused_namesake_of_its_payment(db: Connection) -> None:
    await add_invoice(db, 1)
    await add_invoice(db, 2)
    events = [
        Event("p", 2, currency="EUR", reference="P"),
        Event("p", 1, reference="P"),
        Event("r", None, 60, "refund", "EUR", reference="R", parent_reference="P"),
    ]
    assert outcomes(await apply_all(db, events)) == ["currency_mismatch", "applied", "currency_mismatch"]
    assert await whereabouts(db, "r") is None


async def test_what_holds_of_an_invoice_holds_for_a_subscription_too(db: Connection) -> None:
    await add_invoice(db, 1)
    await apply(db, Event("e", 1, 10_000))
    await db.execute("set session_replication_role = replica")  # as logical replication's worker has it
    with pytest.raises(asyncpg.PostgresError, match="frozen"):
        await db.execute("update invoices set currency = 'EUR'")
    await db.execute("update invoices set amount = 20000")
    assert await balance(db, 1) == ("partially_paid", 10_000, 0, 0)


async def test_an_event_at_which_an_assertion_of_a_trigger_fails_fails_alone(db: Connection) -> None:
    await add_invoice(db, 1)
    await db.execute("""
        create function never() returns trigger language plpgsql
            as 'begin assert new.amount <> 666; return new; end';
        create trigger never before insert on payments for each row execute function never();
    """)
    assert outcomes(await apply_all(db, [Event("e1", 1, 666), Event("e2", 1)])) == ["failed", "applied"]
    await enqueue_all(db, [Event("e3", 1, 666), Event("e4", 1)])
    await process(db)
    assert await whereabouts(db, "e4") == ("processed", "posted")


# Text.

ODD_TEXTS = [
    "'; drop table invoices; --", "<script>alert(1)</script>", 'a"b\\c', "{a,b}", '{"a,b"}', "NULL", "\\x00",
    "%s %I %L", "\u202etxet ltr", "e\u0301 is not \u00e9", "\u00e9", "\U0001d540\U0001d53b \U0001f4b6", "\u200b",
    "\u0661\u0662", "tab\there\nand there", " spaces ", "\ufb00", "\ufeffBOM", "\uffff", "\U0010ffff", "\u00e9" * 255,
]  # fmt: skip


@pytest.mark.parametrize("send", [apply_each, apply_together, enqueue_each, enqueue_together])
async def test_odd_text_is_stored_as_it_came_and_tells_events_apart(db: Connection, send: Send) -> None:
    await add_invoice(db, 1)
    for text in ODD_TEXTS:
        await add_reference(db, "direct", text, 1)
    events = [Event(t, invoice_reference=t, reference=t, parent_reference=t) for t in ODD_TEXTS]
    await send(db, events)
    await send(db, events)
    await drain(db)
    rows = await rows_of(
        db, "select event_id, reference, parent_reference, invoice_reference from payment_events order by id"
    )
    assert rows == [(t, t, t, t) for t in ODD_TEXTS]
    assert await db.fetchval("select array_agg(reference order by id) from payments") == ODD_TEXTS
    assert (await balance(db, 1))[1] == 100 * len(ODD_TEXTS)


@pytest.mark.parametrize("send", [apply_each, apply_together])
async def test_odd_text_is_quoted_in_what_people_read(db: Connection, send: Send) -> None:
    for text in ODD_TEXTS:
        event = Event(text, invoice_reference=text)
        assert await send(db, [event]) == ["unknown_invoice"]
        assert await send(db, [event], park=True) == ["parked"]
    details = await db.fetchval("select array_agg(detail order by id) from waiting_events")
    quoted = await db.fetchval("select array_agg(quote_literal(t)) from unnest($1::text[]) t", ODD_TEXTS)
    assert details == [f"waits for invoice reference {text}" for text in quoted]


@pytest.mark.parametrize("send", [apply_each, apply_together])
async def test_a_nul_character_cannot_be_sent(db: Connection, send: Send) -> None:
    await add_invoice(db, 1)
    try:
        said = await send(db, [Event("nul\x00", 1)])
    except asyncpg.CharacterNotInRepertoireError as error:
        said = [str(error)]
    assert "invalid byte sequence" in said[0]
    assert await counts(db, "payment_events") == [0]
