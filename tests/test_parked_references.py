"""References that providers link to invoices, in any order: linked when the invoice comes, whoever sees whom."""

import itertools
from collections.abc import Awaitable, Callable, Sequence

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests import calls, sessions
from tests.calls import Event
from tests.conftest import Connect, Connection
from tests.sessions import assert_right

Step = Callable[[Connection], Awaitable[object]]


async def link(db: Connection, reference: str, target: int | str, connection: str = "stripe") -> str:
    """Link to an invoice by its id, or by another reference."""
    by_id, by_reference = (target, None) if isinstance(target, int) else (None, target)
    return str(
        await db.fetchval("select link_invoice_reference($1, $2, $3, $4)", connection, reference, by_id, by_reference)
    )


async def known(db: Connection) -> dict[str, int]:
    return {r["reference"]: r["invoice_id"] for r in await db.fetch("select * from invoice_references")}


async def parked(db: Connection) -> dict[str, int | str]:
    rows = await db.fetch("select reference, invoice_id, invoice_reference from parked_references")
    return {r["reference"]: r["invoice_id"] or r["invoice_reference"] for r in rows}


def payment(reference: str, amount: int = 5000) -> Event:
    return Event(f"evt_{reference}", None, amount, connection="stripe", invoice_reference=reference)


# Outcomes


async def test_a_reference_is_linked_to_an_invoice_that_is_there_and_a_repetition_is_a_duplicate(
    db: Connection,
) -> None:
    await calls.add_invoice(db, 42)
    assert [await link(db, "in_1", 42), await link(db, "in_1", 42)] == ["linked", "duplicate"]
    assert [await link(db, "pi_1", "in_1"), await link(db, "pi_1", "in_1")] == ["linked", "duplicate"]
    assert [await link(db, "pi_1", 42), await link(db, "in_1", 42, "stripe-eu")] == ["duplicate", "linked"]
    assert [await link(db, "pi_2", "in_1", "direct"), await link(db, "pi_2", "in_1", "direct")] == [
        "parked", "duplicate",
    ]  # fmt: skip
    assert await known(db) == {"in_1": 42, "pi_1": 42}
    assert await parked(db) == {"pi_2": "in_1"}, "references belong to their connection"


async def test_linking_releases_the_events_that_wait_for_the_reference(db: Connection) -> None:
    await calls.add_invoice(db, 42)
    assert (await calls.apply(db, payment("pi_1"), park=True))["outcome"] == "parked"
    assert await link(db, "pi_1", 42) == "linked"
    assert await calls.counts(db, "parked_events", "payment_queue") == [0, 1]
    await assert_right(db)
    assert await sessions.paid(db, 42) == 5000


async def test_a_link_that_contradicts_what_is_known_or_parked_changes_nothing(db: Connection) -> None:
    for invoice_id in (42, 43):
        await calls.add_invoice(db, invoice_id)
    assert [await link(db, r, n) for r, n in (("in_1", 42), ("in_2", 43), ("pi_3", 44), ("pi_4", "in_4"))] == [
        "linked", "linked", "parked", "parked",
    ]  # fmt: skip
    before = await known(db), await parked(db)
    contradictions: list[tuple[str, int | str]] = [
        ("in_1", 43),
        ("in_1", "in_2"),
        ("in_1", 99),  # not there, and yet another one
        ("pi_3", 43),
        ("pi_3", 99),
        ("pi_3", "in_1"),
        ("pi_4", "in_5"),
    ]  # fmt: skip
    for reference, target in contradictions:
        assert await link(db, reference, target) == "conflict", (reference, target)
    assert (await known(db), await parked(db)) == before


async def test_another_way_to_name_the_invoice_is_no_conflict_while_it_may_be_the_same_one(db: Connection) -> None:
    """Checkout and invoice each link the payment intent, one by our id, one by theirs, in either order."""
    assert [await link(db, "pi_1", "in_1"), await link(db, "pi_1", 42)] == ["parked", "parked"]
    assert [await link(db, "pi_2", 42), await link(db, "pi_2", "in_1")] == ["parked", "duplicate"]
    assert await parked(db) == {"pi_1": 42, "pi_2": 42}
    assert await link(db, "pi_3", "in_1") == "parked"
    await calls.add_invoice(db, 42)
    assert await link(db, "pi_3", 42) == "linked"
    assert await link(db, "pi_3", "in_1") == "duplicate"
    assert await known(db) == {"pi_1": 42, "pi_2": 42, "pi_3": 42}
    assert await parked(db) == {}


async def test_a_reference_that_became_known_otherwise_keeps_its_invoice_when_the_parked_one_is_settled(
    db: Connection,
) -> None:
    await calls.add_invoice(db, 43)
    assert await link(db, "pi_1", 42) == "parked"
    await calls.add_reference(db, "stripe", "pi_1", 43)
    await calls.add_invoice(db, 42)
    assert (await known(db), await parked(db)) == ({"pi_1": 43}, {})


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ((None, "pi_1", 1, None), "connection"),
        (("Stripe!", "pi_1", 1, None), "connection"),
        (("c" * 64, "pi_1", 1, None), "connection"),
        (("stripe", None, 1, None), "reference"),
        (("stripe", "", 1, None), "reference"),
        (("stripe", "r" * 256, 1, None), "reference"),
        (("stripe", "pi_1", None, ""), "invoice_reference"),
        (("stripe", "pi_1", None, "r" * 256), "invoice_reference"),
        (("stripe", "pi_1", None, "pi_1"), "invoice_reference"),
        (("stripe", "pi_1", None, None), "invoice_id or invoice_reference"),
        (("stripe", "pi_1", 1, "in_1"), "invoice_id or invoice_reference"),
    ],
)
async def test_an_invalid_field_is_refused_by_name(db: Connection, arguments: Sequence[object], named: str) -> None:
    with pytest.raises(asyncpg.PostgresError, match=f"^{named} must ") as caught:
        await db.fetchval("select link_invoice_reference($1, $2, $3, $4)", *arguments)
    assert caught.value.sqlstate == "PW002"
    assert await calls.counts(db, "invoice_references", "parked_references") == [0, 0]


# Order

CHAIN: dict[str, Step] = {
    "pi_1 is of in_1": lambda db: link(db, "pi_1", "in_1"),
    "in_1 is of 42": lambda db: link(db, "in_1", 42),
    "payment": lambda db: calls.apply(db, payment("pi_1"), park=True),
    "invoice": lambda db: calls.add_invoice(db, 42),
}


async def test_a_chain_of_two_links_the_payment_and_the_invoice_may_come_in_any_order(db: Connection) -> None:
    """No poll is needed: the last of the four applies or queues the payment."""
    for order in itertools.permutations(CHAIN):
        transaction = db.transaction()
        await transaction.start()
        for step in order:
            await CHAIN[step](db)
        assert (await known(db), await parked(db)) == ({"pi_1": 42, "in_1": 42}, {}), order
        assert await calls.counts(db, "parked_events") == [0], order
        await assert_right(db)
        assert await sessions.paid(db, 42) == 5000, order
        await transaction.rollback()


# Three invoices, each with a tree of references; a link names its target by id or by a reference nearer to the root.
examples = itertools.count(1)


@st.composite
def trees(draw: st.DrawFn) -> tuple[list[tuple[str, int, int | None]], list[int]]:
    """Links (reference, invoice, position of the link it goes by, if any), and an order of all there is to do."""
    links: list[tuple[str, int, int | None]] = []
    for n in range(draw(st.integers(1, 6))):
        base = draw(st.sampled_from([None, *range(n)]))
        invoice = draw(st.integers(0, 2)) if base is None else links[base][1]
        links.append((f"r{n}", invoice, base))
    steps = range(3 + 2 * len(links))  # the invoices, the links, a payment by each reference
    return links, draw(st.permutations([*steps, *draw(st.lists(st.sampled_from(steps), max_size=4))]))


@settings(
    max_examples=100, deadline=None, print_blob=True, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip
@given(tree=trees())
async def test_any_order_and_repetition_of_links_invoices_and_payments_ends_alike(
    db: Connection, tree: tuple[list[tuple[str, int, int | None]], list[int]]
) -> None:
    links, order = tree
    first = next(examples) * 10
    connection = f"c{first}"
    sums = {first + n: 0 for n in range(3)}
    inserted: set[int] = set()
    for step in order:
        if step < 3:
            if step not in inserted:
                inserted.add(step)
                await calls.add_invoice(db, first + step)
            continue
        reference, invoice, base = links[(step - 3) % len(links)]
        if step < 3 + len(links):
            target = first + invoice if base is None else links[base][0]
            assert await link(db, reference, target, connection) in {"linked", "parked", "duplicate"}
        else:
            event = Event(f"evt_{reference}", None, 100, connection=connection, invoice_reference=reference)
            await calls.apply(db, event, park=True)
    for _, invoice, _ in links:
        sums[first + invoice] += 100
    await calls.drain(db)
    assert await calls.counts(db, "parked_references", "parked_events") == [0, 0]
    paid = await db.fetch("select id, amount_paid from invoices where id between $1 and $1 + 9", first)
    assert {row["id"]: row["amount_paid"] for row in paid} == sums
    await calls.assert_consistent(db)


# Two transactions that do not see each other

BRINGERS: dict[int | str, Step] = {
    42: lambda db: calls.add_invoice(db, 42),
    "in_1": lambda db: link(db, "in_1", 7),
    "in_2": lambda db: calls.add_reference(db, "stripe", "in_2", 7),
}


@pytest.mark.parametrize("target", BRINGERS)
@pytest.mark.parametrize("parker_commits_first", [True, False])
async def test_a_link_parked_while_another_transaction_brings_its_target_is_mended_by_the_poll(
    connect: Connect, db: Connection, target: int | str, parker_commits_first: bool
) -> None:
    await calls.add_invoice(db, 7)
    await calls.apply(db, payment("pi_1"), park=True)
    parker, bringer = await connect(), await connect()
    for session in (parker, bringer):
        await session.execute("begin")
    assert await link(parker, "pi_1", target) == "parked"
    await BRINGERS[target](bringer)
    for session in (parker, bringer) if parker_commits_first else (bringer, parker):
        await session.execute("commit")
    assert await parked(db) == {"pi_1": target}, "no trigger could see it"

    assert (await calls.process(db))["released"] == 1, "the poll does, and says that there is more to do"
    invoice_id = target if isinstance(target, int) else 7
    assert (await parked(db), (await known(db))["pi_1"]) == ({}, invoice_id)
    assert (await calls.process(db))["applied"] == 1
    await assert_right(db)
    assert await sessions.paid(db, invoice_id) == 5000


async def test_a_target_that_came_unseen_is_found_by_a_repetition_of_the_link_too(
    connect: Connect, db: Connection
) -> None:
    parker = await connect()
    await parker.execute("begin")
    assert await link(parker, "pi_1", 42) == "parked"
    await calls.add_invoice(db, 42)
    await parker.execute("commit")
    assert await link(db, "pi_1", 42) == "linked"
    assert await parked(db) == {}


async def test_a_target_that_comes_while_the_link_is_being_parked_is_seen(connect: Connect, db: Connection) -> None:
    await db.execute("""
        create function hold() returns trigger language plpgsql as $$
        begin
            perform pg_advisory_xact_lock_shared(4711);
            return null;
        end $$;
        create trigger hold before insert on parked_references for each statement execute function hold();
        select pg_advisory_lock(4711);
    """)
    parker = await connect()
    parking = await sessions.blocked(db, parker, link(parker, "pi_1", 42))
    await calls.add_invoice(db, 42)
    await db.execute("select pg_advisory_unlock(4711)")
    assert await parking == "linked"
    assert (await known(db), await parked(db)) == ({"pi_1": 42}, {})


@pytest.mark.parametrize(("second", "outcome"), [(42, "duplicate"), (43, "conflict")])
@pytest.mark.parametrize("there", [True, False])
async def test_two_at_once_that_link_the_same_reference_agree_on_who_was_first(
    connect: Connect, db: Connection, *, second: int, outcome: str, there: bool
) -> None:
    if there:
        await calls.add_invoice(db, 42)
        await calls.add_invoice(db, 43)
    first, other = await connect(), await connect()
    await first.execute("begin")
    assert await link(first, "pi_1", 42) == ("linked" if there else "parked")
    waiting = await sessions.blocked(db, other, link(other, "pi_1", second))
    await first.execute("commit")
    assert await waiting == outcome
    assert await (known if there else parked)(db) == {"pi_1": 42}


async def test_neither_the_poll_nor_whoever_brings_an_invoice_waits_for_a_transaction_that_names_the_reference(
    connect: Connect, db: Connection
) -> None:
    await calls.add_invoice(db, 43)
    for reference in ("pi_1", "pi_2"):
        assert await link(db, reference, 42) == "parked"
    holder = await connect()
    await holder.execute("begin")
    await calls.add_reference(holder, "stripe", "pi_1", 43)
    await db.execute("set statement_timeout = '5s'")
    await calls.add_invoice(db, 42)
    assert (await known(db), await parked(db)) == ({"pi_2": 42}, {"pi_1": 42})
    assert (await calls.process(db))["released"] == 0
    await holder.execute("rollback")
    assert (await calls.process(db))["released"] == 1
    assert (await known(db), await parked(db)) == ({"pi_1": 42, "pi_2": 42}, {})


@pytest.mark.parametrize("when", ["", "deferrable initially deferred"])
async def test_a_trigger_of_yours_that_raises_over_one_reference_spoils_neither_the_poll_nor_the_others(
    connect: Connect, db: Connection, when: str
) -> None:
    await db.execute(f"""
        create function refuse() returns trigger language plpgsql as $$ begin raise exception 'not this one'; end $$;
        create constraint trigger refuse after insert on invoice_references {when} for each row
            when (new.reference = 'pi_1') execute function refuse();
    """)
    parker = await connect()
    await parker.execute("begin")
    for reference in ("pi_1", "pi_2"):
        assert await link(parker, reference, 42) == "parked"
    await calls.add_invoice(db, 42)
    await parker.execute("commit")
    await calls.enqueue(db, Event("e1", 42, 100))
    done = await calls.process(db)
    assert (done["applied"], done["released"]) == (1, 1)
    assert (await known(db), await parked(db)) == ({"pi_2": 42}, {"pi_1": 42})
    assert (await calls.process(db))["released"] == 0


# Many, and for ever


async def test_a_copy_of_invoices_links_all_that_waits_for_them(db: Connection) -> None:
    for n in range(60):
        assert await link(db, f"pi_{n}", 1000 + n) == "parked"
    records = [(n, 100) for n in range(3000)]
    await db.copy_records_to_table("invoices", records=records, columns=["id", "amount"])
    assert await calls.counts(db, "invoice_references", "parked_references") == [60, 0]
    assert await known(db) == {f"pi_{n}": 1000 + n for n in range(60)}


async def test_however_many_references_raise_another_is_linked_and_none_expires_whose_invoice_is_there(
    db: Connection,
) -> None:
    await db.execute("""
        create function refuse() returns trigger language plpgsql as $$ begin raise exception 'not this one'; end $$;
        create trigger refuse before insert on invoice_references for each row
            when (new.reference like 'bad%') execute function refuse();
    """)
    for n in range(60):
        assert await link(db, f"bad_{n}", 42) == "parked"
    assert await link(db, "good", 42) == "parked"
    await db.execute("update parked_references set parked_at = now() - interval '31 days'")
    await calls.add_invoice(db, 42)
    for _ in range(100):  # some of them at a time, in no order
        await calls.process(db)
        if await known(db):
            break
    assert await known(db) == {"good": 42}
    assert len(await parked(db)) == 60


async def test_a_chain_of_many_and_a_circle_come_to_an_end(db: Connection) -> None:
    for n in range(40):
        assert await link(db, f"r{n}", f"r{n + 1}") == "parked"
    assert await link(db, "r40", "r0") == "parked"
    assert (await calls.process(db))["released"] == 0
    await calls.add_invoice(db, 42)
    assert await link(db, "r20", 42) == "linked"
    assert (len(await known(db)), await parked(db)) == (41, {})


async def test_a_parked_reference_that_nobody_needed_is_dropped_after_the_park_days_without_a_dead_letter(
    db: Connection,
) -> None:
    assert [await link(db, "old", 42), await link(db, "old_too", "in_1"), await link(db, "young", 42)] == ["parked"] * 3
    await calls.apply(db, payment("old"), park=True)
    await db.execute("""
        update parked_references set parked_at = now() - interval '7 days 1 second' where reference like 'old%'
    """)
    await db.execute("select * from process_payment_queue(p_park_days => 8)")
    assert len(await parked(db)) == 3
    assert await db.fetchval("select dead from process_payment_queue(p_park_days => 7)") == 0
    assert await parked(db) == {"young": 42}
    assert await calls.counts(db, "parked_events", "dead_letters") == [1, 0], "the event expires by itself"
